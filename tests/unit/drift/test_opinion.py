"""The detectors that go by what models say."""

from __future__ import annotations

import math

import pytest

from hpc.config.drift import JudgeConfig, LogprobConfig
from hpc.drift.opinion import judge, logprob
from hpc.trajectories.records import Verdict
from tests.unit.drift.episodes import Episode

LOGPROB = LogprobConfig(enabled=True, window=4, baseline=8, deviations=4.0, floor=0.1)
JUDGE = JudgeConfig(enabled=True, every=5, confidence=0.6)


def sure(*logprobs: float | None) -> Episode:
    episode = Episode()
    for number, value in enumerate(logprobs):
        episode.run(f"step {number}", logprob=value)
    return episode


def test_a_fall_counts_in_standard_errors_of_its_own_baseline() -> None:
    # Baseline all -0.5: its spread is the floor, 0.1; the error of a mean of 4 is 0.05; a fall of 0.2 is 4.
    found = logprob(sure(*[-0.5] * 8, *[-0.7] * 4).history, LOGPROB)
    assert found is not None
    assert found.score == pytest.approx(0.5)
    assert found.evidence == [9, 10, 11, 12] and found.step == 12
    assert "4.0 standard errors" in found.reason


def test_a_model_that_was_always_unsure_is_not_alarming() -> None:
    wild = [-0.2, -3.0] * 4
    assert (found := logprob(sure(*wild, *[-2.0] * 4).history, LOGPROB)) is None or found.score < 0.2
    assert logprob(sure(*[-2.0] * 8, *[-0.5] * 4).history, LOGPROB) is None  # surer than before


@pytest.mark.parametrize("missing", [None, math.nan, -math.inf])
def test_steps_without_log_probabilities_are_passed_over(missing: float | None) -> None:
    with_gaps = [value for each in [*[-0.5] * 8, *[-0.9] * 4] for value in (each, missing)]
    found = logprob(sure(*with_gaps).history, LOGPROB)
    assert found is not None and found.score == pytest.approx(8 / 12)
    assert logprob(sure(*[missing] * 30).history, LOGPROB) is None


def test_nothing_is_said_before_there_is_a_baseline() -> None:
    assert logprob(sure(*[-0.5] * 7, *[-5.0] * 4).history, LOGPROB) is None


def judged(*verdicts: Verdict, after: int = 0) -> Episode:
    episode = Episode()
    for _ in range(5):
        episode.run("ls")
    episode.run("ls", verdicts=verdicts)
    for _ in range(after):
        episode.run("ls")
    return episode


def test_a_verdict_scores_half_at_the_limit_and_names_what_it_saw() -> None:
    found = judge(judged(Verdict(asked=4, drifting=True, confidence=0.6, reason="it repeats itself")).history, JUDGE)
    assert found is not None and found.score == 0.5
    assert (found.evidence, found.step) == ([4], 6)
    assert found.reason == "a judge that saw the steps up to 4 says: it repeats itself"


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(asked=4, drifting=False, confidence=0.9),
        Verdict(asked=4, problem="malformed verdict"),
        Verdict(asked=4, drifting=True, confidence=0.9, problem="no answer"),
        Verdict(asked=9, drifting=True, confidence=0.9),  # of a step that has not been
        Verdict(asked=4, drifting=True, confidence=math.nan),
    ],
    ids=["fine", "malformed", "problem", "future", "no number"],
)
def test_what_is_no_sign(verdict: Verdict) -> None:
    assert judge(judged(verdict).history, JUDGE) is None


def test_the_newest_verdict_counts_and_only_for_a_while() -> None:
    bad = Verdict(asked=3, drifting=True, confidence=0.9, reason="bad")
    fine = Verdict(asked=5, drifting=False, confidence=0.9)
    late = Verdict(asked=4, problem="no answer")
    assert judge(judged(bad).history, JUDGE) is not None
    assert judge(judged(bad, late).history, JUDGE) is not None
    assert judge(judged(fine, bad).history, JUDGE) is None
    assert judge(judged(bad, after=4).history, JUDGE) is not None
    assert judge(judged(bad, after=5).history, JUDGE) is None
