from __future__ import annotations

import pytest

from hpc.config.drift import BudgetBurnConfig, FailureStreakConfig, NoProgressConfig
from hpc.drift.headway import Budget, budget_burn, failure_streak, no_progress
from hpc.drift.history import History
from tests.unit.drift.episodes import Episode

LIMIT = 0.5
TWO = FailureStreakConfig(attempts=2)
MINILAB = FailureStreakConfig(attempts=2, window=12, pattern=r"\bmetric \d+ low\b")


def score_of(episode: Episode, config: FailureStreakConfig) -> float:
    signal = failure_streak(episode.history, config)
    return signal.score if signal else 0.0


# ---- no progress


def test_many_steps_without_a_new_best() -> None:
    episode = Episode().run("train", "ok", progress=0.25)
    for i in range(20):
        episode.run(f"try {i}", str(i), progress=0.25)
    signal = no_progress(episode.history, NoProgressConfig(steps=20))
    assert signal is not None and signal.score == LIMIT
    assert signal.reason == "20 steps (since step 2) brought nothing beyond 25 %"
    assert signal.evidence == [2, 21]


def test_without_any_measure_steps_count_from_the_start() -> None:
    episode = Episode()
    for i in range(30):
        episode.run(f"try {i}", str(i))
    signal = no_progress(episode.history, NoProgressConfig(steps=20))
    assert signal is not None and signal.score > LIMIT
    assert "no measured progress" in signal.reason


def test_a_better_score_is_progress() -> None:
    episode = Episode()
    for i in range(30):
        episode.run(f"try {i}", str(i))
    assert no_progress(episode.step("eval", "score 12", score=12.0).history, NoProgressConfig(steps=20)) is None


def test_a_worse_score_is_none() -> None:
    episode = Episode().step("eval", "score 12", score=12.0)
    for i in range(19):
        episode.run(f"try {i}", str(i), score=12.0)
    signal = no_progress(episode.step("eval", "score 3", score=3.0).history, NoProgressConfig(steps=20))
    assert signal is not None and signal.score == LIMIT


def test_waiting_for_a_job_that_moves_does_not_count() -> None:
    episode = Episode().run("train", "started in session s1")
    for i in range(500):
        episode.poll(f"epoch {i}", moved=True)
    signal = no_progress(episode.history, NoProgressConfig(steps=20))
    assert signal is not None and signal.score < LIMIT


# ---- failing at the same place


def test_two_failed_experiments_at_a_stage() -> None:
    episode = (
        Episode().edit("anneal: 450C").run("python experiment.py", "stage 2 metric 31 low\n[exit 0]", progress=1 / 6)
    )
    episode.edit("anneal: 500C")
    assert score_of(episode, MINILAB) < LIMIT
    episode.run("python experiment.py", "stage 2 metric 18 low\n[exit 0]", progress=1 / 6)
    signal = failure_streak(episode.history, MINILAB)
    assert signal is not None and signal.score == LIMIT
    assert signal.evidence == [2, 4]
    assert signal.reason == (
        "2 attempts in a row failed at the same place (run_command, steps 2 to 4); last: stage 2 metric 18 low"
    )


def test_progress_begins_a_new_streak() -> None:
    episode = Episode()
    for stage in range(1, 7):
        episode.edit("x").run(
            "python experiment.py", f"stage {stage} metric 31 low\n[exit 0]", progress=(stage - 1) / 6
        )
        assert score_of(episode, MINILAB) < LIMIT
        episode.edit("y").run("python experiment.py", f"stage {stage} metric 87 pass\n[exit 0]", progress=stage / 6)
        assert score_of(episode, MINILAB) == 0


def test_other_arguments_fail_at_the_same_place() -> None:
    episode = Episode()
    for rate in ("1e-3", "1e-4"):
        episode.run(f"python train.py --lr {rate}", f"step 3{rate}\nRuntimeError: loss is nan at 0x7f3a\n[exit 1]")
    assert score_of(episode, TWO) == LIMIT


def test_reading_and_editing_between_attempts_change_nothing() -> None:
    episode = Episode().run("python train.py", "ValueError: shape 3\n[exit 1]")
    episode.run("cat train.py", "...\n[exit 0]").edit("a").think().step("open_file", "train.py (90 lines)")
    episode.step("open_file", "error: no such file: a.py", is_error=True).run("grep foo a", "[exit 1]")
    assert score_of(episode.run("python train.py", "ValueError: shape 5\n[exit 1]"), TWO) == LIMIT


def test_another_error_of_the_same_attempt_is_headway_of_a_kind() -> None:
    episode = Episode().run("python train.py", "ImportError: no module foo\n[exit 1]").edit("a")
    episode.run("python train.py", "ValueError: shape 5\n[exit 1]").edit("b")
    assert score_of(episode.run("python train.py", "ImportError: no module foo\n[exit 1]"), TWO) < LIMIT


def test_a_success_of_the_same_attempt_ends_the_streak() -> None:
    episode = Episode().run("pytest -q", "1 failed\n[exit 1]").run("pytest -q", "1 failed\n[exit 1]")
    assert score_of(episode, TWO) == LIMIT
    assert score_of(episode.run("pytest -q", "9 passed\n[exit 0]"), TWO) == 0


def test_searches_without_a_hit_fail_at_different_places() -> None:
    episode = Episode()
    for word in ("alpha", "beta", "gamma", "delta"):
        episode.run(f"grep -r {word} src", "[exit 1]")
    assert score_of(episode, TWO) < LIMIT


def test_looking_twice_at_one_failed_job_is_one_attempt() -> None:
    crash = "CUDA out of memory\n[exit 1]"
    episode = Episode().run("python train.py", "started in session s1").poll("[running]").poll(crash).poll(crash)
    assert score_of(episode, TWO) < LIMIT
    episode.edit("batch = 8").run("python train.py", "started in session s1").poll("[running]").poll(crash)
    assert score_of(episode, TWO) == LIMIT


def test_edits_that_answer_alike_are_no_failures() -> None:
    episode = Episode()
    for i in range(10):
        episode.edit(f"line {i}")
    assert failure_streak(episode.history, TWO) is None


def test_failures_far_apart_are_no_streak() -> None:
    episode = Episode().run("python train.py", "nan\n[exit 1]")
    for i in range(40):
        episode.run(f"echo {i}", str(i))
    assert score_of(episode.run("python train.py", "nan\n[exit 1]"), TWO) < LIMIT


# ---- budget


@pytest.mark.parametrize(
    ("steps", "seconds", "progress", "score"),
    [(50, 1.0, 0.0, LIMIT), (1, 500.0, 0.0, LIMIT), (90, 10.0, 0.4, LIMIT), (20, 1.0, 0.2, None), (20, 1.0, 0.9, None)],
    ids=["steps", "working time", "behind", "level", "ahead"],
)
def test_budget_against_progress(steps: int, seconds: float, progress: float, score: float | None) -> None:
    episode = Episode()
    for i in range(steps):
        episode.run(f"try {i}", str(i), progress=progress, working_seconds=seconds)
    signal = budget_burn(episode.history, BudgetBurnConfig(lead=0.5), Budget(100, 1000.0))
    if score is None:
        assert signal is None
    else:
        assert signal is not None and signal.score == pytest.approx(score)


def test_the_reason_names_both_shares() -> None:
    episode = Episode().run("try", "x", progress=0.1, working_seconds=800.0)
    signal = budget_burn(episode.history, BudgetBurnConfig(), Budget(100, 1000.0))
    assert signal is not None
    assert signal.reason == "80 % of the budget is used, the best result so far is at 10 %"


def test_no_steps_no_sign() -> None:
    assert no_progress(History(), NoProgressConfig()) is None
    assert failure_streak(History(), FailureStreakConfig()) is None
    assert budget_burn(History(), BudgetBurnConfig(), Budget(1, 1.0)) is None
