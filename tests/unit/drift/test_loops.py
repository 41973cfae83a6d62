from __future__ import annotations

import pytest

from hpc.config.drift import ErrorStreakConfig, MalformedConfig, MonitoringConfig, RepetitionConfig
from hpc.drift.history import History
from hpc.drift.loops import error_streak, malformed, monitoring, repetition
from tests.unit.drift.episodes import Episode

LIMIT = 0.5


# ---- repetition


def test_three_equal_steps_are_a_repetition() -> None:
    episode = Episode().run("pytest -q", "1 failed\n[exit 1]").run("pytest -q", "1 failed\n[exit 1]")
    before = repetition(episode.history, RepetitionConfig())
    signal = repetition(episode.run("pytest -q", "1 failed\n[exit 1]").history, RepetitionConfig())
    assert before is not None and before.score < LIMIT
    assert signal is not None and signal.score == LIMIT
    assert signal.evidence == [1, 2, 3]
    assert signal.reason == '3 times run_command({"command": "pytest -q"}) with the same result: 1 failed [exit 1]'


def test_a_short_cycle_is_a_repetition_too() -> None:
    episode = Episode()
    for _ in range(3):
        episode.edit("lr = 1").run("python train.py", "nan\n[exit 1]")
    signal = repetition(episode.history, RepetitionConfig())
    assert signal is not None and signal.score == LIMIT
    assert signal.evidence == [2, 4, 6]


@pytest.mark.parametrize(
    "episode",
    [
        Episode().run("ls", "a").run("ls", "a b").run("ls", "a b c"),
        Episode().run("cat a", "x").run("cat b", "x").run("cat c", "x"),
        Episode().poll().poll().poll().poll(),
        Episode().think().think().think(),
        Episode().malformed().malformed().malformed(),
        Episode().run("ls", "a").run("ls", "a", progress=0.5).run("ls", "a"),
    ],
    ids=["new observations", "other arguments", "polling", "thinking", "malformed", "progress between"],
)
def test_what_is_no_repetition(episode: Episode) -> None:
    signal = repetition(episode.history, RepetitionConfig())
    assert signal is None or signal.score < LIMIT


def test_equal_steps_far_apart_are_no_repetition() -> None:
    episode = Episode()
    for round_ in range(3):
        episode.run("git status", "clean\n[exit 0]")
        for i in range(12):
            episode.run(f"echo {round_} {i}", f"{round_} {i}")
    assert repetition(episode.history, RepetitionConfig()) is None


# ---- errors in a row


def test_errors_in_a_row() -> None:
    episode = Episode()
    for i in range(5):
        episode.step("open_file", f"error: no such file {i}", arguments={"path": f"f{i}"}, is_error=True)
    signal = error_streak(episode.history, ErrorStreakConfig(errors=5))
    assert signal is not None and signal.score == LIMIT
    assert signal.evidence == [1, 2, 3, 4, 5]
    assert "5 errors in a row" in signal.reason and "no such file 4" in signal.reason


def test_thoughts_and_polls_do_not_end_an_error_streak() -> None:
    episode = Episode()
    for i in range(3):
        episode.run(f"make {i}", "error: busy", is_error=True).think().poll()
    signal = error_streak(episode.history, ErrorStreakConfig(errors=3))
    assert signal is not None and signal.score == LIMIT


def test_one_success_ends_an_error_streak() -> None:
    episode = Episode()
    for _ in range(9):
        episode.run("make", "error: busy", is_error=True)
    assert error_streak(episode.run("ls", "a").history, ErrorStreakConfig()) is None


# ---- monitoring


def test_ten_looks_at_work_that_does_not_move_are_a_deadlock() -> None:
    episode = Episode().run("python train.py", "started in session s1")
    for _ in range(9):
        episode.poll("epoch 1\n[running]")
    before = monitoring(episode.history, MonitoringConfig())
    signal = monitoring(episode.poll("epoch 1\n[running]").history, MonitoringConfig())
    assert before is not None and before.score < LIMIT
    assert signal is not None and signal.score == LIMIT
    assert "10 looks in a row" in signal.reason and "(90 s)" in signal.reason


def test_thoughts_do_not_hide_a_deadlock() -> None:
    episode = Episode()
    for _ in range(10):
        episode.poll().think("still waiting")
    signal = monitoring(episode.history, MonitoringConfig())
    assert signal is not None and signal.score == LIMIT


def test_waiting_for_a_job_that_moves_is_no_deadlock() -> None:
    episode = Episode().run("python train.py", "started in session s1")
    for epoch in range(200):
        episode.poll(f"epoch {epoch}\n[running]", moved=True)
    assert monitoring(episode.history, MonitoringConfig()) is None


def test_a_job_that_moves_now_and_then_is_no_deadlock() -> None:
    episode = Episode()
    for look in range(100):
        signal = monitoring(episode.poll(f"{look // 9}", moved=look % 9 == 0).history, MonitoringConfig())
        assert signal is None or signal.score < LIMIT


def test_half_of_all_actions_may_be_polls() -> None:
    episode = Episode()
    for i in range(50):
        episode.run(f"step {i}", str(i)).poll()
        signal = monitoring(episode.history, MonitoringConfig())
        assert signal is not None and signal.score < LIMIT


# ---- malformed answers


def test_malformed_answers_in_a_row() -> None:
    episode = Episode().malformed().malformed().malformed()
    signal = malformed(episode.history, MalformedConfig())
    assert signal is not None and signal.score == LIMIT
    assert signal.reason == "3 malformed answers in a row; last: error: no tool call"


def test_a_malformed_answer_now_and_then_is_no_drift() -> None:
    episode = Episode()
    for i in range(10):
        episode.malformed().malformed().run(f"ls {i}", "a")
        assert malformed(episode.history, MalformedConfig()) is None


@pytest.mark.parametrize(
    ("detect", "config"),
    [
        (repetition, RepetitionConfig()),
        (error_streak, ErrorStreakConfig()),
        (monitoring, MonitoringConfig()),
        (malformed, MalformedConfig()),
    ],
)
def test_no_steps_no_sign(detect: object, config: object) -> None:
    assert detect(History(), config) is None  # type: ignore[operator]
