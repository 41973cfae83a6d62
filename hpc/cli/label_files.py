"""Finding and reading what ``hpc label`` works on."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hpc.cli.output import find_run

if TYPE_CHECKING:
    from hpc.config.supervision import SupervisionConfig
    from hpc.rundir import RunDir
    from hpc.supervision.history import Past
    from hpc.supervision.run import Word

_PROGRESS_FROM = 20


class Subject(NamedTuple):
    """A trajectory to be labelled; ``labels`` is the file of its labels. ``run`` is None for a file in none."""

    name: str
    task: str
    labels: Path
    past: Past
    run: RunDir | None


class Place(NamedTuple):
    """Where a trajectory lies: an episode of a run, or a file."""

    name: str
    run: RunDir | None
    number: int
    path: Path


def places_of(targets: Sequence[str], runs_root: Path) -> list[Place]:
    """What the words of a command line name: RUN, RUN/INDEX, or files (also .traj and .json of others).

    Raises:
        UsageError: a target is neither, or its run has no trajectory.
    """
    from hpc.core.errors import UsageError
    from hpc.trajectories.reader import path_of, stored_episodes

    found = []
    for target in targets or ("",):
        path = Path(target)
        if target and path.is_file():
            found.append(Place(path.name, None, 0, path))
            continue
        parent, _, index = target.rpartition("/")
        if parent and index.isdecimal():
            run = find_run(parent, runs_root)
            numbers = [int(index)]
        else:
            run = find_run(target or None, runs_root)
            numbers = stored_episodes(run)
        if not numbers:
            raise UsageError(f"run {run.name} has no trajectory yet", f"see hpc episodes status {run.name}")
        found += [Place(f"{run.name}/{number}", run, number, path_of(run, number)) for number in numbers]
    return found


def subjects(places: Sequence[Place], folder: Path | None = None) -> Iterator[Subject]:
    """Read each trajectory when it is its turn, with a bar on a terminal.

    Args:
        folder: where labels of files go that are in no run; None: beside them.

    Raises:
        TrajectoryError: one cannot be read.
    """
    with _progress(len(places)) as advance:
        left: dict[Path, dict[int, set[int]]] = {}
        for place in places:
            if place.run is not None and place.run.root not in left:
                left[place.run.root] = _left_behind(place.run)
            yield _read(place, folder, left[place.run.root].get(place.number, set()) if place.run else set())
            advance()


def _left_behind(run: RunDir) -> dict[int, set[int]]:
    """Of each episode of a run that others branched off: the steps that were left behind."""
    from hpc.core.errors import TrajectoryError
    from hpc.trajectories.reader import Trajectory, stored_episodes

    found: dict[int, set[int]] = {}
    for index in stored_episodes(run):
        with contextlib.suppress(TrajectoryError), Trajectory.open((run, index)) as trajectory:
            branch = trajectory.header.branched_from
            if branch is not None and branch.run == run.name:
                found.setdefault(branch.index, set()).update(range(branch.step + 1, branch.abandoned + 1))
    return found


def _read(place: Place, folder: Path | None, left: set[int]) -> Subject:
    from hpc.config.agent import AgentConfig
    from hpc.drift.cases import read_failure
    from hpc.supervision.history import Past, past_of
    from hpc.trajectories.exchange import swe_agent
    from hpc.trajectories.exchange.source import sha256_of
    from hpc.trajectories.labels import labels_path
    from hpc.trajectories.reader import Trajectory
    from hpc.trajectories.records import EpisodeHeader

    beside = place.path.with_name(f"{place.path.name}.labels.jsonl")
    labels = folder / beside.name if folder is not None else beside
    if place.path.suffix == ".json":
        unless = AgentConfig()
        case = read_failure(place.path, max_steps=unless.max_steps, max_working_seconds=unless.max_working_seconds)
        return Subject(place.name, case.task, labels, Past(list(case.views), [], []), None)
    if place.path.suffix == ".traj":
        records = swe_agent.read(place.path, sha256=sha256_of(place.path))
        header = records[0]
        assert isinstance(header, EpisodeHeader)
        return Subject(place.name, f"{header.task_family}/{header.task_id}", labels, past_of(records), None)
    with Trajectory.open((place.run, place.number) if place.run is not None else place.path) as trajectory:
        header = trajectory.header
        if place.run is not None:
            labels = place.run.labels(place.number)
        elif folder is None:
            labels = labels_path(place.path)
        return Subject(
            place.name, f"{header.task_family}/{header.task_id}", labels, past_of(trajectory.records(), left), place.run
        )


def words_of(run: RunDir) -> list[Word]:
    """What annotators said of the run's alerts: "Looks fine"."""
    from hpc.router.annals import read_annals
    from hpc.supervision.run import Word

    annals = read_annals(run)
    return [
        Word(alert=alert.alert, annotator=alert.closed_by, at=alert.closed_at or 0.0, source="Looks fine")
        for alert in (annals.alerts if annals is not None else [])
        if alert.state == "false_alarm" and alert.closed_by
    ]


def policy_named(name: str) -> SupervisionConfig:
    """The policy ``configs/supervision/NAME.yaml``.

    Raises:
        ConfigError: there is none, or it is not valid.
    """
    from hpc.config import compose
    from hpc.config.supervision import SupervisionRunConfig

    root = compose("supervision", [f"supervision={name}"])
    assert isinstance(root, SupervisionRunConfig)
    return root.supervision


@contextlib.contextmanager
def _progress(count: int) -> Iterator[_Advance]:
    if count < _PROGRESS_FROM or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading trajectories", total=count)
        yield lambda: progress.advance(task)


if TYPE_CHECKING:
    from collections.abc import Callable

    _Advance = Callable[[], None]
