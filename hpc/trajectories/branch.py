"""Beginning an episode as a branch of another: its records and its workspace up to a step."""

from __future__ import annotations

import time

from msgspec.structs import replace

from hpc.core.errors import UsageError
from hpc.rundir import RunDir
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import (
    ActionTaken,
    BranchPoint,
    ContextRewritten,
    EpisodeHeader,
    GuidanceApplied,
    OutcomeReached,
    Record,
)
from hpc.trajectories.snapshots import SnapshotStore
from hpc.trajectories.writer import TrajectoryWriter


def branch(source: tuple[RunDir, int], step: int, target: tuple[RunDir, int]) -> EpisodeHeader:
    """Let the episode ``target``, which has not begun, go on from ``step`` of ``source``.

    The workspace is that of the source's snapshot after ``step``. Sessions are gone, as after a resume.

    Raises:
        UsageError: there is no such step or no snapshot of it, or the target has begun.
        HpcError: the snapshot is damaged, or a disk refuses.
    """
    run, index = target
    if run.log(index).exists() or run.trajectory(index).exists():
        raise UsageError(f"episode {index} of {run.name} has begun", "name one that has not")
    with Trajectory.open(source) as trajectory:
        origin, last = trajectory.header, len(trajectory.steps)
        if not 1 <= step <= last:
            raise UsageError(f"{trajectory.path} has no step {step}", f"it has steps 1 to {last}")
        found = [taken.id for taken in trajectory.snapshots if taken.step == step and taken.id]
        if not found:
            steps = sorted({taken.step for taken in trajectory.snapshots if taken.id})
            raise UsageError(
                f"there is no snapshot of the workspace after step {step}",
                f"branch off step {', '.join(map(str, steps))}" if steps else "take some with gym.snapshots.every",
            )
        point = BranchPoint(
            episode_id=origin.episode_id, run=source[0].name, index=source[1], step=step, abandoned=last,
            at=time.time(), snapshot=found[-1],
        )  # fmt: skip
        header = replace(
            origin, episode_id=f"{run.name}-{index:05d}", run=run.name, index=index, created_at=point.at,
            branched_from=point,
        )  # fmt: skip
        kept = records_to(list(trajectory.records()), step)
    SnapshotStore(source[0].snapshots).restore(point.snapshot, run.workspace(index))
    with TrajectoryWriter.open(run, index) as writer:
        writer.append(header, *kept[1:])
    return header


def records_to(records: list[Record], step: int) -> list[Record]:
    """The records of a trajectory up to the end of a step: also what came of it before the next one. Pure."""
    kept: list[Record] = []
    for record in records:
        if isinstance(record, ActionTaken) and record.step > step:
            break
        late = isinstance(record, ContextRewritten) and record.after_step >= step  # made for the step after it
        late |= isinstance(record, GuidanceApplied) and record.applied_step > step
        if not late and not isinstance(record, OutcomeReached):
            kept.append(record)
    return kept
