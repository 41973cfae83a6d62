"""How the verbs of ``hpc traj`` are told which trajectories, steps and ranges are meant."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from hpc.cli.output import find_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpc.rundir import RunDir
    from hpc.trajectories.collection import TrajectorySet

EVERYTHING = (None, None)
_PROGRESS_FROM = 50  # files to open; fewer are read before anyone looks


def find_trajectory(target: str, runs_root: Path) -> Path | tuple[RunDir, int]:
    """A file, or an episode named RUN/INDEX."""
    path = Path(target)
    run_name, _, index = target.rpartition("/")
    if not path.is_file() and run_name and index.isdecimal():
        return find_run(run_name, runs_root), int(index)
    return path


class Place(NamedTuple):
    """Where a trajectory lies: an episode of a run, or a file. ``path`` is the sealed file, or else the log."""

    name: str
    run: RunDir | None
    number: int
    path: Path


def places_of(targets: Sequence[str], runs_root: Path) -> list[Place]:
    """What the words of a command line name, each once: RUN, RUN/INDEX, or files (also .traj and .json of others);
    without a word the newest run.

    Raises:
        UsageError: a target is neither, or its run has no trajectory.
    """
    from hpc.core.errors import UsageError
    from hpc.trajectories.reader import path_of, stored_episodes

    found: dict[Path, Place] = {}
    for target in targets or ("",):
        path = Path(target)
        if target and path.is_file():
            found.setdefault(path.absolute(), Place(path.name, None, 0, path))
            continue
        parent, _, index = target.rpartition("/")
        if parent and index.isdecimal() and not (path / "config.json").is_file():
            run = find_run(parent, runs_root)
            numbers = [int(index)]
        else:
            run = find_run(target or None, runs_root)
            numbers = list(stored_episodes(run))
        if not numbers:
            raise UsageError(f"run {run.name} has no trajectory yet", f"see hpc episodes status {run.name}")
        for number in numbers:
            place = Place(f"{run.name}/{number}", run, number, path_of(run, number))
            found.setdefault(place.path.absolute(), place)
    return list(found.values())


def find_set(run_names: Sequence[str], runs_root: Path, *, all_runs: bool) -> TrajectorySet:
    """The trajectories of these runs; of the newest one without a name.

    Raises:
        UsageError: there is no such run.
    """
    from hpc.rundir import runs_under
    from hpc.trajectories.collection import TrajectorySet

    if all_runs:
        runs = sorted(runs_under(runs_root), key=lambda run: run.name)
    else:
        runs = [find_run(name, runs_root) for name in run_names] or [find_run(None, runs_root)]
    with _progress() as on_open:
        return TrajectorySet.open(*runs, on_open=on_open)


@contextmanager
def _progress() -> Iterator[Callable[[RunDir, int, int], None]]:
    """A bar on a terminal while many files are opened for the first time."""
    if not sys.stderr.isatty():
        yield lambda run, done, count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        tasks = {}

        def on_open(run: RunDir, done: int, count: int) -> None:
            if count < _PROGRESS_FROM:
                return
            if run.root not in tasks:
                tasks[run.root] = progress.add_task(f"indexing {run.name}", total=count)
            progress.update(tasks[run.root], completed=done + 1)

        yield on_open


def range_of(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float | None, float | None]:
    """What an option says as ``A:B``, ``A:``, ``:B`` or ``A``: lowest and highest, both included, None = open.

    Raises:
        UsageError: it is no range.
    """
    if value is None:
        return EVERYTHING
    number = r"\d+(?:\.\d+)?"
    match = re.fullmatch(rf"({number})?(:?)({number})?", value.strip())
    if not match or not (match[1] or match[3]):
        from hpc.core.errors import UsageError

        raise UsageError(f"{param.opts[0]} {value} is not a range", "write 3:8, 3:, :8 or 3")
    low = float(match[1]) if match[1] else None
    high = float(match[3]) if match[3] else None if match[2] else low
    return low, high
