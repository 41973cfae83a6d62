"""The learning rate: warm-up to the full rate, then down to the least at the last step."""

from __future__ import annotations

import math

import pytest

from hpc.config.train import OptimizerConfig
from hpc.training.schedule import learning_rate


def rates(steps: int, **changes: object) -> list[float]:
    config = OptimizerConfig(**{"lr": 1.0, "min_lr": 0.1, "warmup_steps": 4, **changes})  # type: ignore[arg-type]
    return [learning_rate(config, step, steps) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_it_rises_and_falls(schedule: str) -> None:
    found = rates(20, schedule=schedule)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[4:] == sorted(found[4:], reverse=True)
    assert found[4] < 1.0 and found[-1] == pytest.approx(0.1)


def test_cosine_is_half_way_down_in_the_middle() -> None:
    assert rates(24)[13] == pytest.approx(0.55)
    assert rates(24)[8] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 5 / 20)))


def test_constant_stays() -> None:
    assert rates(8, schedule="constant") == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_no_warm_up_begins_below_the_full_rate_only_by_its_first_step() -> None:
    assert rates(10, warmup_steps=0, schedule="linear")[0] == pytest.approx(0.91)


def test_a_training_shorter_than_its_warm_up_still_rises() -> None:
    assert rates(2) == [0.25, 0.5]
