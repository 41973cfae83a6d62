"""Waiting is work: half of all actions of research episodes are polls, and none of them is drift."""

from __future__ import annotations

import random

import pytest

from hpc.config.drift import DriftConfig
from hpc.drift.cases import Case
from hpc.drift.metrics import Window
from hpc.drift.replay import replay, tallies
from tests.unit.drift.episodes import Episode

SILENT_LOOKS = 8
"""Longest run of looks that see nothing move: an evaluation, a checkpoint being written."""


def researcher(seed: int, rounds: int = 25) -> Episode:
    """Edits, launches and long waits: about half of the steps are polls, most of which see the job move,
    some of which do not for a while; now and then something fails once; each round ends better."""
    rng, episode = random.Random(seed), Episode()
    for number in range(1, rounds + 1):
        episode.think(f"plan {number}").edit(f"lr = {rng.random()}")
        if rng.random() < 0.3:
            episode.run(f"python train.py --seed {number}", f"OOM at {rng.random()}\n[exit 1]")
            episode.edit(f"batch = {rng.randrange(99)}")
        episode.run(f"python train.py --seed {number} &", "[started s1]")
        for look in range(rng.randrange(3, 8)):
            episode.poll(f"epoch {look} loss {rng.random()}", moved=True)
        for _ in range(rng.choice([0, 0, 0, SILENT_LOOKS])):
            episode.poll("[running]")
        episode.poll("done\n[exit 0]", moved=True)
        episode.run("python eval.py", f"accuracy {number}\n[exit 0]", progress=number / rounds)
    return episode


def dying(seed: int) -> Episode:
    """The same researcher, whose last job hangs."""
    episode = researcher(seed).run("python train.py --last &", "[started s1]")
    for _ in range(15):
        episode.poll("[running]")
    return episode


def case(episode: Episode, **fields: object) -> Case:
    return Case(
        name="e",
        task="t",
        views=tuple(episode.views),
        max_steps=1000,
        max_working_seconds=1e6,
        **fields,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_researcher_who_waits_for_jobs_that_run_is_left_alone(seed: int) -> None:
    episode = researcher(seed)
    polls = sum(view.polling for view in episode.views)
    assert 0.4 < polls / len(episode.views) < 0.75
    assert replay(case(episode), DriftConfig()) == []


@pytest.mark.parametrize("seed", range(5))
def test_the_same_researcher_is_helped_when_a_job_hangs(seed: int) -> None:
    episode = dying(seed)
    (alert,) = replay(case(episode), DriftConfig())
    started = len(episode.views) - 15
    assert (alert.detector, alert.step) == ("monitoring", started + 10)


def test_alerts_at_polls_of_a_job_that_moves_are_put_off_not_raised() -> None:
    """Errors up to the limit, the last of them seen while a job moves."""
    episode = Episode()
    for number in range(4):
        episode.run(f"ls {'x' * number}", f"error {'y' * number}", is_error=True)
    episode.poll("error: log not found, epoch 3", moved=True, is_error=True)
    config = DriftConfig(combined_at=None)
    assert replay(case(episode), config) == []
    (alert,) = replay(case(episode.run("ls zz", "error: zz", is_error=True)), config)
    assert alert.step == 6


def test_what_waiting_costs_is_measured_as_nothing() -> None:
    cases = [case(researcher(seed), mistakes=()) for seed in range(5)] + [
        case(dying(seed), mistakes=(len(dying(seed).views) - 15,)) for seed in range(5)
    ]
    counted = tallies(cases, DriftConfig(), Window(0, 15))
    assert sum(each.alerts for each in counted) == sum(each.true for each in counted) == 5
