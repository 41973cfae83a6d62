"""Finding and reading what ``hpc label`` works on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hpc.cli.output import bar
from hpc.cli.traj_find import Place
from hpc.core.errors import TrajectoryError

if TYPE_CHECKING:
    from hpc.config.supervision import SupervisionConfig
    from hpc.rundir import RunDir
    from hpc.supervision.history import Past
    from hpc.supervision.run import Word


class Subject(NamedTuple):
    """A trajectory to be labelled; ``labels`` is the file of its labels. ``run`` is None for a file in none."""

    name: str
    task: str
    labels: Path
    past: Past
    run: RunDir | None


def subjects(places: Sequence[Place], folder: Path | None = None) -> Iterator[Subject]:
    """Read each trajectory when it is its turn, with a bar on a terminal.

    Args:
        folder: where labels of files go that are in no run; None: beside them.

    Raises:
        TrajectoryError: one cannot be read.
    """
    with bar("reading trajectories", len(places)) as advance:
        left: dict[Path, dict[int, set[int]]] = {}
        for place in places:
            if place.run is not None and place.run.root not in left:
                left[place.run.root] = _left_behind(place.run)
            yield _read(place, folder, left[place.run.root].get(place.number, set()) if place.run else set())
            advance()


def _left_behind(run: RunDir) -> dict[int, set[int]]:
    """Of each episode that others of its run branched off: the steps that were left behind. Branches in other
    runs are not known here."""
    from hpc.trajectories.index import read_index
    from hpc.trajectories.reader import Trajectory

    found: dict[int, set[int]] = {}
    for entry in read_index(run):
        if entry.branched_from.startswith(f"{run.name}/"):
            with contextlib.suppress(TrajectoryError), Trajectory.open((run, entry.index)) as trajectory:
                branch = trajectory.header.branched_from
                if branch is not None:
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
