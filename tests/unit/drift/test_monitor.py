from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from omegaconf import OmegaConf

from hpc.config.drift import (
    BudgetBurnConfig,
    DriftConfig,
    ErrorStreakConfig,
    FailureStreakConfig,
    JudgeConfig,
    LogprobConfig,
    MilestoneConfig,
    MonitoringConfig,
    NoProgressConfig,
    RepetitionConfig,
)
from hpc.core.locate import data_dir
from hpc.drift import DRIFT_DETECTORS, DriftMonitor
from hpc.trajectories.records import DriftSignal, StepView, Verdict
from tests.unit.drift.episodes import Episode

QUIET = {
    "no_progress": NoProgressConfig(enabled=False),
    "budget_burn": BudgetBurnConfig(enabled=False),
    "milestone": MilestoneConfig(enabled=False),
    "combined_at": None,
}


def watch(config: DriftConfig, views: Sequence[StepView], *, max_steps: int = 1000) -> list[DriftSignal]:
    monitor = DriftMonitor(config, max_steps=max_steps, max_working_seconds=100_000.0)
    return [signal for view in views if (signal := monitor.observe(view))]


def steps_of(alerts: list[DriftSignal]) -> list[int]:
    return [alert.step for alert in alerts]


def failing(episode: Episode, count: int = 1, stage: int = 1) -> Episode:
    """Edits and failed experiments of MiniLab: two steps each."""
    for _ in range(count):
        option = f"option {len(episode.views)}"
        metric = 10 + len(episode.views) * 7 % 40
        episode.edit(option).run(
            "python experiment.py", f"stage {stage} metric {metric} low\n[exit 0]", progress=(stage - 1) / 6
        )
    return episode


def passing(episode: Episode, stage: int = 1) -> Episode:
    return episode.edit("right").run(
        "python experiment.py", f"stage {stage} metric 87 pass\n[exit 0]", progress=stage / 6
    )


@cache
def shipped(name: str) -> DriftConfig:
    """The group option as shipped."""
    option = OmegaConf.load(data_dir("configs") / "drift" / f"{name}.yaml")
    return msgspec.convert(OmegaConf.to_container(option), DriftConfig)


@pytest.fixture
def minilab() -> DriftConfig:
    return shipped("minilab")


# ---- MiniLab, as shipped


def test_minilab_alerts_right_after_the_second_failed_run(minilab: DriftConfig) -> None:
    alerts = watch(minilab, failing(Episode(), 2).views)
    assert [(alert.step, alert.detector, alert.priority) for alert in alerts] == [(4, "failure_streak", "drift")]
    assert alerts[0].evidence == [2, 4]


def test_minilab_alerts_again_while_it_goes_on_failing(minilab: DriftConfig) -> None:
    assert steps_of(watch(minilab, failing(Episode(), 8).views)) == [4, 8, 12, 16]


def test_minilab_alerts_at_each_stage_that_fails_twice(minilab: DriftConfig) -> None:
    episode = passing(failing(Episode(), 2, stage=1), stage=1)
    passing(failing(episode, 1, stage=2), stage=2)
    passing(failing(episode, 2, stage=3), stage=3)
    assert steps_of(watch(minilab, episode.views)) == [4, 14]


def test_progress_ends_the_cooldown_in_minilab(minilab: DriftConfig) -> None:
    episode = failing(Episode(), 2)
    episode.run("python experiment.py", "stage 1 metric 90 pass\n[exit 0]", progress=1 / 6)
    for _ in range(2):
        episode.run("python experiment.py", "stage 2 metric 20 low\n[exit 0]", progress=1 / 6)
    assert steps_of(watch(minilab, episode.views)) == [4, 7]


def test_minilab_needs_a_new_failure_to_alert_again(minilab: DriftConfig) -> None:
    episode = failing(Episode(), 2)
    for option in range(12):
        episode.edit(f"another {option}")
    assert steps_of(watch(minilab, episode.views)) == [4]


def test_off_raises_nothing_at_all() -> None:
    episode = failing(Episode().think("ask_human: help"), 20)
    monitor = DriftMonitor(shipped("off"), max_steps=10, max_working_seconds=1.0)
    assert [monitor.observe(view) for view in episode.views] == [None] * len(episode.views)
    assert monitor.score == 0


# ---- long research, as shipped


def test_a_patient_researcher_is_left_alone() -> None:
    episode = Episode()
    for attempt in range(12):
        episode.think(f"plan {attempt}").edit(f"lr = {attempt}")
        episode.run("python train.py", "started in session s1")
        for epoch in range(30):
            episode.poll(f"epoch {epoch}\n[running]", moved=True)
        episode.poll("done\n[exit 0]", moved=True)
        episode.step("eval", f"score {5 + 8 * attempt}", score=5.0 + 8 * attempt)
    alerts = watch(shipped("default"), episode.views, max_steps=4000)
    assert {alert.priority for alert in alerts} <= {"milestone"}


# ---- hysteresis, cool-down, order


def test_an_alert_is_not_repeated_until_released() -> None:
    config = DriftConfig(error_streak=ErrorStreakConfig(errors=3), cooldown=0, **QUIET)  # type: ignore[arg-type]
    episode = Episode()
    for i in range(10):
        episode.step("open_file", f"error: {i} {'x' * i}", arguments={"path": "y" * i}, is_error=True)
    assert steps_of(watch(config, episode.views)) == [3]
    episode.run("ls", "a")
    for i in range(3):
        episode.step("open_file", f"error: no {'z' * i}", arguments={"path": "z" * i}, is_error=True)
    assert steps_of(watch(config, episode.views)) == [3, 14]


def test_cooldown_holds_back_but_does_not_forget() -> None:
    config = DriftConfig(
        error_streak=ErrorStreakConfig(errors=3),
        failure_streak=FailureStreakConfig(enabled=False),
        monitoring=MonitoringConfig(polls=4),
        cooldown=10,
        **QUIET,  # type: ignore[arg-type]
    )
    episode = Episode()
    for i in range(3):
        episode.run(f"make {'x' * i}", f"error: {'x' * i}", is_error=True)
    for _ in range(12):
        episode.poll()
    alerts = watch(config, episode.views)
    assert [(alert.step, alert.detector) for alert in alerts] == [(3, "error_streak"), (13, "monitoring")]


def test_signs_at_the_same_step_share_one_alert() -> None:
    config = DriftConfig(error_streak=ErrorStreakConfig(errors=3), **QUIET)  # type: ignore[arg-type]
    episode = Episode()
    for _ in range(9):
        episode.run("make", "error: busy", is_error=True)
    alerts = watch(config, episode.views)
    assert steps_of(alerts) == [3]
    assert "3 times run_command" in alerts[0].reason and "3 errors in a row" in alerts[0].reason


def test_nothing_is_raised_while_a_job_moves() -> None:
    config = DriftConfig(no_progress=NoProgressConfig(steps=5), budget_burn=BudgetBurnConfig(enabled=False))
    episode = Episode()
    for i in range(5):
        episode.run(f"a{'x' * i}", "y" * i)
    assert steps_of(watch(config, episode.views)) == [5]
    waiting = Episode()
    for i in range(4):
        waiting.run(f"a{'x' * i}", "y" * i)
    for i in range(20):
        waiting.poll(f"epoch {'x' * i}", moved=True)
    assert watch(config, waiting.views) == []
    assert steps_of(watch(config, waiting.run("python eval.py", "0").views)) == [25]


def test_the_end_of_a_failed_job_is_no_waiting() -> None:
    config = DriftConfig(failure_streak=FailureStreakConfig(attempts=2), **QUIET)  # type: ignore[arg-type]
    episode = Episode()
    for _ in range(2):
        episode.run("python train.py", "started in session s1").poll("step 1\n[running]", moved=True)
        episode.poll("CUDA out of memory\n[exit 1]", moved=True)
    assert steps_of(watch(config, episode.views)) == [6]


def test_several_weak_signs_add_up() -> None:
    config = DriftConfig(
        repetition=RepetitionConfig(times=4, weight=1.0),
        error_streak=ErrorStreakConfig(errors=4, weight=1.0),
        failure_streak=FailureStreakConfig(attempts=4, weight=1.0),
        **(QUIET | {"combined_at": 0.75}),  # type: ignore[arg-type]
    )
    episode = Episode()
    for _ in range(3):
        episode.run("make", "error: busy", is_error=True)
    (alert,) = watch(config, episode.views)
    assert (alert.step, alert.detector) == (3, "combined")
    assert alert.score >= 0.5 and alert.evidence == [1, 2, 3]
    assert alert.reason.startswith("several signs at once: ")


def test_a_request_goes_through_the_cooldown_and_before_drift(minilab: DriftConfig) -> None:
    episode = failing(Episode(), 2).think("ask_human: which option?")
    alerts = watch(minilab, episode.views)
    assert [(alert.step, alert.priority) for alert in alerts] == [(4, "drift"), (5, "ask")]


def test_a_milestone_that_gave_way_to_drift_is_told_at_the_next_step() -> None:
    config = DriftConfig(milestone=MilestoneConfig(marks=(0.5,)), budget_burn=BudgetBurnConfig(lead=0.2))
    episode = Episode().run("a", "1", progress=0.6, working_seconds=90_000.0).run("b", "2", working_seconds=90_001.0)
    assert [(alert.step, alert.priority) for alert in watch(config, episode.views)] == [(1, "drift"), (2, "milestone")]


def test_a_milestone_is_told_once_and_each_mark_by_itself() -> None:
    episode = Episode()
    for progress in (0.2, 0.5, 0.5, 0.9, 1.0, 1.0):
        episode.run(f"x{len(episode.views)}", f"{progress}", progress=progress)
    alerts = watch(DriftConfig(budget_burn=BudgetBurnConfig(enabled=False)), episode.views)
    assert [(alert.step, alert.priority) for alert in alerts] == [(2, "milestone"), (5, "milestone")]


def test_evidence_is_cut_to_the_newest_steps() -> None:
    config = DriftConfig(monitoring=MonitoringConfig(polls=50), **QUIET)  # type: ignore[arg-type]
    episode = Episode()
    for _ in range(50):
        episode.poll()
    (alert,) = watch(config, episode.views)
    assert alert.evidence == list(range(31, 51))


PROVOKE: dict[str, Callable[[Episode, int], Episode]] = {
    "repetition": lambda episode, i: episode.run("ls", "a"),
    "error_streak": lambda episode, i: episode.run(f"m {'x' * i}", f"error: {'x' * i}", is_error=True),
    "monitoring": lambda episode, i: episode.poll(),
    "malformed": lambda episode, i: episode.malformed(),
    "no_progress": lambda episode, i: episode.run(f"n {'x' * i}", "y" * i),
    "failure_streak": lambda episode, i: episode.run("python train.py", f"loss {i}\nRuntimeError: nan\n[exit 1]"),
    "budget_burn": lambda episode, i: episode.run(f"n {'x' * i}", "y" * i, working_seconds=60_000.0),
    "logprob": lambda episode, i: episode.run(f"n {'x' * i}", "y" * i, logprob=-0.1 if i < 6 else -2.0),
    "judge": lambda episode, i: episode.run(
        f"n {'x' * i}", "y" * i, verdicts=(Verdict(asked=i, drifting=True, confidence=0.9, reason="lost"),)
    ),
}


@pytest.mark.parametrize("name", DRIFT_DETECTORS)
def test_every_detector_can_alert_and_can_be_switched_off(name: str) -> None:
    episode = Episode()
    for i in range(12):
        PROVOKE[name](episode, i)
    on = DriftConfig(
        no_progress=NoProgressConfig(steps=5),
        logprob=LogprobConfig(enabled=True, window=2, baseline=4),
        judge=JudgeConfig(enabled=True),
        cooldown=0,
        combined_at=None,
    )
    off = replace(on, **{name: type(getattr(on, name))(enabled=False)})
    assert any(name in alert.detector for alert in watch(on, episode.views))
    assert not any(name in alert.detector for alert in watch(off, episode.views))


# ---- any history at all

texts = st.sampled_from(["", "[running]", "stage 2 metric 31 low\n[exit 0]", "error: x", "boom 7\n[exit 1]"]) | st.text(
    max_size=40
)
shares = st.none() | st.floats(allow_nan=True, allow_infinity=True)
steps = st.builds(
    StepView,
    step=st.just(0),
    action=st.sampled_from(["run_command", "think", "sleep", "null", "ask_human", "edit_file", ""]),
    arguments=st.sampled_from(["{}", '{"command": "x"}', '{"thought": "ask_human: y"}', "[1]", "no json"]) | texts,
    observation=texts,
    is_error=st.booleans(),
    is_malformed=st.booleans(),
    polling=st.booleans(),
    job_progressed=st.booleans(),
    progress=shares,
    score=shares,
    tokens=st.integers(0, 10),
    working_seconds=st.floats(0, 1e9),
)
histories = st.lists(steps, max_size=30).map(lambda views: [replace(view, step=i + 1) for i, view in enumerate(views)])
configs = st.sampled_from(["default", "minilab", "off"]).map(shipped)


@given(configs, histories)
def test_any_history_is_watched_without_an_error(config: DriftConfig, views: list[StepView]) -> None:
    monitor = DriftMonitor(config, max_steps=20, max_working_seconds=100.0)
    for view in views:
        signal = monitor.observe(view)
        assert 0 <= monitor.score <= 1
        if signal is not None:
            assert signal.step == view.step
            assert 0.5 <= signal.score <= 1
            assert signal.reason and "\n" not in signal.reason
            assert signal.evidence == sorted(set(signal.evidence)) and signal.evidence[0] >= 1
            assert signal.evidence[-1] <= view.step


@given(configs, histories, st.integers(0, 30))
def test_a_replay_gives_the_alerts_of_the_life_before(config: DriftConfig, views: list[StepView], died: int) -> None:
    live = DriftMonitor(config, max_steps=20, max_working_seconds=100.0)
    told = [live.observe(view) for view in views]
    resumed = DriftMonitor(config, max_steps=20, max_working_seconds=100.0)
    assert [resumed.observe(view) for view in views[:died]] == told[:died]
    assert [resumed.observe(view) for view in views[died:]] == told[died:]
    assert resumed.score == live.score


@given(configs, histories)
def test_drift_alerts_keep_their_distance(config: DriftConfig, views: list[StepView]) -> None:
    alerts = [alert.step for alert in watch(config, views) if alert.priority == "drift"]
    measured = [i for i in range(1, len(views) + 1) if views[i - 1].progress or views[i - 1].score]
    for before, after in pairwise(alerts):
        assert after - before >= config.cooldown or any(before < i <= after for i in measured)
