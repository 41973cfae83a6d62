from __future__ import annotations

from hpc.agent.costs import usage_of
from hpc.config.model import CostsConfig
from hpc.trajectories.records import ModelResponse, Usage


def test_money_follows_the_prices() -> None:
    told = Usage(prompt_tokens=1_000_000, completion_tokens=200_000, cached_tokens=600_000)
    answer = ModelResponse(text="", usage=told, seconds=3.0)
    usage = usage_of(answer, CostsConfig(prompt=2.0, cached=0.5, answer=10.0, gpus=4))
    assert usage is not None and usage.cost is not None
    assert abs(usage.cost - (0.4 * 2 + 0.6 * 0.5 + 0.2 * 10)) < 1e-9
    assert usage.gpu_seconds == 12.0
    dearer = usage_of(answer, CostsConfig(prompt=2.0, answer=10.0))
    assert dearer is not None and dearer.cost == 4.0  # without a price of their own cached tokens cost the same


def test_what_is_unknown_stays_unknown() -> None:
    assert usage_of(ModelResponse(text=""), CostsConfig(prompt=1.0, answer=1.0)) is None
    counted = usage_of(ModelResponse(text="", prompt_token_ids=[1, 2], token_ids=[3]), CostsConfig())
    assert counted == Usage(prompt_tokens=2, completion_tokens=1)
