"""Many trajectories as one: those of a run, or of several, filtered and read one at a time."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hpc.rundir import RunDir
from hpc.trajectories.index import DAMAGED, Entry, read_index
from hpc.trajectories.reader import Trajectory


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which trajectories are wanted; all conditions must hold, an empty one always does.

    ``task``, ``detectors`` and ``annotators`` are patterns as in a shell (``minilab/*``). The ranges
    are (lowest, highest), both included, None = open; scores in [0, 100]. A trajectory without a score
    is in no range of scores.
    """

    statuses: Sequence[str] = ()
    task: str = ""
    detectors: Sequence[str] = ()
    annotators: Sequence[str] = ()
    score: tuple[float | None, float | None] = (None, None)
    best: tuple[float | None, float | None] = (None, None)
    steps: tuple[float | None, float | None] = (None, None)
    alerts: tuple[float | None, float | None] = (None, None)
    guidance: tuple[float | None, float | None] = (None, None)
    attempts: tuple[float | None, float | None] = (None, None)

    def takes(self, entry: Entry) -> bool:
        """Whether the trajectory is wanted."""
        return (
            (not self.statuses or entry.status in self.statuses)
            and (not self.task or fnmatch.fnmatchcase(entry.task, self.task))
            and _any(self.detectors, entry.detectors)
            and _any(self.annotators, entry.annotators)
            and _within(entry.final_score, self.score)
            and _within(entry.best_score, self.best)
            and all(_within(getattr(entry, name), getattr(self, name)) for name in COUNTS)
        )


COUNTS = ("steps", "alerts", "guidance", "attempts")


class TrajectorySet:
    """Trajectories of one or more runs, in order of run and index.

    Made from the runs' indices without opening a file that is not new. Iterating opens one trajectory
    after the other and closes it before the next, so memory stays that of one; damaged ones are left
    out (they are among ``entries``).

        for trajectory in TrajectorySet.open("runs/first").where(statuses=["finished"], score=(50, None)):
            print(trajectory.header.task_id, len(trajectory.steps))
    """

    def __init__(self, places: Sequence[tuple[RunDir, Entry]]) -> None:
        self._places = list(places)

    @classmethod
    def open(
        cls, *runs: RunDir | Path | str, on_open: Callable[[RunDir, int, int], None] | None = None
    ) -> TrajectorySet:
        """All trajectories of these runs (run directories).

        Args:
            on_open: called with the run, how many of its new files were read, and how many there are.

        Raises:
            UsageError: there is no run in a folder.
        """
        places: list[tuple[RunDir, Entry]] = []
        for named in runs:
            run = named if isinstance(named, RunDir) else RunDir.open(Path(named))
            report = None if on_open is None else _bound(on_open, run)
            places += [(run, entry) for entry in read_index(run, on_open=report)]
        return cls(places)

    @property
    def entries(self) -> list[Entry]:
        """What is known of each trajectory, damaged ones included."""
        return [entry for _, entry in self._places]

    def where(self, wanted: Filter | None = None, **conditions: Any) -> TrajectorySet:
        """Those that a `Filter`, or one made of these ``conditions``, takes."""
        chosen = wanted if wanted is not None else Filter(**conditions)
        return TrajectorySet([place for place in self._places if chosen.takes(place[1])])

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Trajectory]:
        """Each trajectory, open until the next one is asked for.

        Raises:
            TrajectoryIncomplete: a file was damaged or removed since the index looked at it.
        """
        for run, entry in self._places:
            if entry.status != DAMAGED:
                with Trajectory.open((run, entry.index)) as trajectory:
                    yield trajectory


def _bound(on_open: Callable[[RunDir, int, int], None], run: RunDir) -> Callable[[int, int], None]:
    return lambda done, count: on_open(run, done, count)


def _any(patterns: Sequence[str], counted: dict[str, int]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in counted)


def _within(value: float | None, limits: tuple[float | None, float | None]) -> bool:
    low, high = limits
    if low is None and high is None:
        return True
    return value is not None and (low is None or value >= low) and (high is None or value <= high)
