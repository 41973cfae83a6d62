"""Steps gone wrong are skipped and counted, or end the training."""

from __future__ import annotations

import json
import math

import pytest

from hpc.config.train import GuardConfig
from hpc.core.errors import HpcError
from hpc.training.guard import Guard


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (1.0, math.inf), (math.inf, math.nan)])
def test_what_is_no_number_is_skipped(loss: float, norm: float) -> None:
    guard = Guard(GuardConfig())
    assert guard.judge(1, loss=loss, tokens=5, norm=norm) == "nan"
    assert guard.judge(2, loss=1.0, tokens=5, norm=1.0) == "ok"
    assert guard.skipped == {"nan": 1}


def test_a_batch_without_trained_tokens_is_no_fault() -> None:
    guard = Guard(GuardConfig(policy="stop", max_skips=1))
    assert [guard.judge(step, loss=0.0, tokens=0, norm=0.0) for step in range(3)] == ["empty"] * 3


def test_a_spike_is_measured_against_the_median_of_a_full_window() -> None:
    guard = Guard(GuardConfig(spike_factor=3, window=4))
    assert guard.judge(0, loss=1.0, tokens=1, norm=100.0) == "ok"  # nothing is usual yet
    for step in range(1, 4):
        guard.judge(step, loss=1.0, tokens=1, norm=1.0)
    assert guard.judge(4, loss=1.0, tokens=1, norm=3.1) == "spike"
    assert guard.judge(5, loss=1.0, tokens=1, norm=2.9) == "ok"
    assert 3.1 not in guard.norms


def test_stopping_names_the_step() -> None:
    with pytest.raises(HpcError, match="stopped at step 7: loss nan"):
        Guard(GuardConfig(policy="stop")).judge(7, loss=math.nan, tokens=1, norm=1.0)


def test_too_many_in_a_row_end_it() -> None:
    guard = Guard(GuardConfig(max_skips=3))
    for step in range(2):
        guard.judge(step, loss=math.nan, tokens=1, norm=1.0)
    guard.judge(2, loss=1.0, tokens=1, norm=1.0)
    for step in range(3, 5):
        guard.judge(step, loss=math.nan, tokens=1, norm=1.0)
    with pytest.raises(HpcError, match="the 3th such step in a row"):
        guard.judge(5, loss=math.nan, tokens=1, norm=1.0)


def test_its_state_survives_a_checkpoint() -> None:
    first = Guard(GuardConfig(spike_factor=2, window=2))
    for norm in (1.0, 0.1 + 0.2, math.nan):
        first.judge(1, loss=1.0, tokens=1, norm=norm)
    second = Guard(first.config)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    assert second.judge(4, loss=1.0, tokens=1, norm=10.0) == "spike"
