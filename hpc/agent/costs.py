"""What an answer costs, by the configured prices. Pure."""

from __future__ import annotations

from hpc.config.model import CostsConfig
from hpc.trajectories.records import ModelResponse, Usage

MILLION = 1e6


def usage_of(answer: ModelResponse, costs: CostsConfig) -> Usage | None:
    """What the server counted, with money and GPU seconds where the configuration tells their price.

    Tokens that the server did not count are counted from the ids that it returned; None if nothing is known.
    """
    told = answer.usage or Usage()
    prompt = told.prompt_tokens if told.prompt_tokens is not None else len(answer.prompt_token_ids) or None
    completion = told.completion_tokens if told.completion_tokens is not None else len(answer.token_ids) or None
    usage = Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=told.cached_tokens,
        cost=_money(prompt, completion, told.cached_tokens or 0, costs),
        gpu_seconds=None if costs.gpus is None else answer.seconds * costs.gpus,
    )
    return None if usage == Usage() else usage


def _money(prompt: int | None, completion: int | None, cached: int, costs: CostsConfig) -> float | None:
    if prompt is None or completion is None or costs.prompt is None or costs.answer is None:
        return None
    cached_price = costs.prompt if costs.cached is None else costs.cached
    fresh = max(0, prompt - cached)
    return (fresh * costs.prompt + cached * cached_price + completion * costs.answer) / MILLION
