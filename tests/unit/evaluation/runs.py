"""Run directories of evaluated episodes, made by the public writer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from hpc.evaluation.results import Arm, Key, Result
from hpc.rundir import RunDir
from hpc.trajectories.records import BranchPoint
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories.samples import attempt, header, outcome, step_records


class Played(NamedTuple):
    """One episode. Without a status it never ended."""

    task: str
    seed: int
    score: float | None
    best: float | None = None
    status: str = "finished"
    family: str = "minilab"
    branched: bool = False


def write_run(
    root: Path,
    name: str,
    episodes: Sequence[Played],
    *,
    launched: int | None = None,
    config: dict[str, Any] | None = None,
) -> RunDir:
    """A run of these episodes, two steps each, of which ``launched`` were asked for."""
    run = RunDir.create(
        root / name,
        manifest={"episodes": len(episodes) if launched is None else launched},
        config=config or {},
        config_hash=name,
    )
    for index, each in enumerate(episodes):
        import random

        with TrajectoryWriter.open(run, index) as writer:
            first = replace(
                header(index, name), task_id=each.task, task_family=each.family, seed=each.seed, split="eval"
            )
            if each.branched:
                point = BranchPoint(episode_id="x", run="x", index=0, step=1, abandoned=1, at=1.0)
                first = replace(first, branched_from=point)
            context: list[int] = []
            steps = [record for number in (1, 2) for record in step_records(number, context, random.Random(index))]
            writer.append(first, attempt(1), *steps)
            if each.status:
                best = each.score if each.best is None else each.best
                writer.append(replace(outcome(2, each.status), final_score=each.score, best_score=best))
    return run


def result(task: str, seed: int, score: float, *, steps: int = 10, cost: float | None = None) -> Result:
    """An episode that counts, without any file."""
    return Result(
        key=Key("lab", task, seed), status="finished", score=score, best=score, steps=steps, working_seconds=60.0,
        wall_seconds=90.0, read_tokens=1000, answer_tokens=100, cost=cost,
    )  # fmt: skip


def arm(name: str, scores: dict[str, Sequence[float]]) -> Arm:
    """A run with these scores of each task, of seeds 0, 1, 2 …"""
    results = [result(task, seed, score) for task, given in scores.items() for seed, score in enumerate(given)]
    return Arm(name=name, results=results, left_out=[])
