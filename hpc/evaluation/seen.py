"""Whether evaluated tasks were trained on: the evaluated weights, their dataset, the episodes in it.

An export of `hpc checkpoint export` names in its marker the training, the dataset and the weights it began
from; the dataset's manifest names the task and seed of every episode in it. All trainings of this project in
the weights' descent are followed. What a base model has seen before them nobody here can know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from hpc.core import files
from hpc.core.errors import HpcError
from hpc.evaluation.results import Arm, Key
from hpc.examples import MANIFEST
from hpc.examples.manifest import Manifest
from hpc.rundir import RunDir

MARKER = "STABLE"
"""File in exported weights, written last (`hpc.training.export`)."""


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the weights behind a run.

    ``checkpoint`` says which they are, ``datasets`` are the folders whose episodes are known, ``trained`` all
    these episodes; ``unknown`` says what could not be found out and why.
    """

    model: str
    checkpoint: str = ""
    datasets: list[str] = []
    trained: frozenset[Key] = frozenset()
    unknown: list[str] = []


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """Evaluated tasks of a run that are in the training data: ``tasks`` by name; ``same_seed`` of the ``episodes``
    of these tasks had the seed of a trained one as well."""

    run: str
    model: str
    checkpoint: str
    datasets: list[str]
    unknown: list[str]
    tasks: list[str]
    episodes: int
    same_seed: int


def provenance_of(run: RunDir, runs_root: Path) -> Provenance:
    """What the model of a run was trained on.

    Args:
        runs_root: where trainings are looked for that a marker names without their dataset.

    Raises:
        HpcError: the configuration of the run, or of a training behind its weights, is damaged.
    """
    model = _model(run)
    if not model:
        return Provenance(model="", unknown=["the run's configuration names no model"])
    marker = _marker(Path(model))
    if marker is None:
        return Provenance(model=model, unknown=[f"{model} is no export of this project"])
    datasets: list[str] = []
    trained: set[Key] = set()
    unknown: list[str] = []
    for folder, content, problem in dict.fromkeys(_descent(Path(model), runs_root)):
        if not problem:
            episodes, problem = _episodes(Path(folder), content)
            trained |= episodes
        if problem:
            unknown.append(problem)
        else:
            datasets.append(folder)
    return Provenance(
        model=model,
        checkpoint=f"step {marker.get('step')} of {marker.get('run')}",
        datasets=datasets,
        trained=frozenset(trained),
        unknown=unknown,
    )


def seen(arm: Arm, provenance: Provenance) -> Seen:
    """Which of a run's tasks were trained on. Pure."""
    tasks = {(key.family, key.task) for key in provenance.trained}
    met = [result.key for result in arm.results if (result.key.family, result.key.task) in tasks]
    return Seen(
        run=arm.name,
        model=provenance.model,
        checkpoint=provenance.checkpoint,
        datasets=provenance.datasets,
        unknown=provenance.unknown,
        tasks=sorted({f"{key.family}/{key.task}" for key in met}),
        episodes=len(met),
        same_seed=sum(key in provenance.trained for key in met),
    )


_Trained = tuple[str, str | None, str]
"""A dataset's folder, what `Manifest.content` must be if that is known, and why the dataset is not known, if so."""
_BEFORE = ("start_from", "warm_start")
"""Settings of a training that name another run, as FOLDER[@STEP], whose checkpoint it began from."""


def _descent(weights: Path, runs_root: Path) -> Iterator[_Trained]:
    """The datasets of every training behind some weights."""
    todo: list[Path | RunDir] = [weights]
    been: set[Path] = set()
    while todo:
        each = todo.pop()
        place = each.root if isinstance(each, RunDir) else each.absolute()
        if place in been:
            continue
        been.add(place)
        if isinstance(each, RunDir):
            if not each.config.is_file():
                yield "", None, f"the training {each.root}, from which another went on, is gone"
                continue
            train = _training(each)
            yield _named(train.get("dataset"), f"the training {each.name} names no dataset")
            before = {**train, "from": _model(each)}
        else:
            marker = _marker(each)
            if marker is None:
                continue  # a model of others
            name = str(marker.get("run", ""))
            run = next((run for run in _runs(each, name, runs_root) if run.config.is_file()), None)
            train = {} if run is None else _training(run)
            dataset = marker.get("dataset")
            known = dataset if isinstance(dataset, dict) and dataset.get("folder") else {"folder": train.get("dataset")}
            problem = f"the marker of {each} names no dataset, and its training {name!r} is not under {runs_root}"
            yield _named(known["folder"], problem, known.get("content"))
            before = {**{key: train[key] for key in _BEFORE if key in train}, **marker}
        todo += [_run_named(str(before[key])) for key in _BEFORE if before.get(key)]
        if before.get("from"):
            todo.append(Path(str(before["from"])))


def _named(folder: object, problem: str, content: object = None) -> _Trained:
    return (str(folder), content if isinstance(content, str) else None, "") if folder else ("", None, problem)


def _runs(weights: Path, name: str, runs_root: Path) -> Iterable[RunDir]:
    """Where the training called ``name`` may be: around its own folder of exports, or among all runs."""
    if not name:
        return []
    around = [RunDir(parent) for parent in weights.absolute().parents[1:2] if parent.name == name]
    return [*around, RunDir(runs_root / name)]


def _run_named(reference: str) -> RunDir:
    """The run that FOLDER or FOLDER@STEP names."""
    folder, _, _ = reference.rpartition("@")
    whole = RunDir(Path(reference))
    return whole if not folder or whole.config.is_file() else RunDir(Path(folder))


def _model(run: RunDir) -> str:
    """Where the weights are that a run begins with or plays with."""
    config = run.read_config().get("model")
    return str(config.get("path") or "") if isinstance(config, dict) else ""


def _training(run: RunDir) -> dict[str, Any]:
    config = run.read_config().get("train")
    return config if isinstance(config, dict) else {}


def _episodes(folder: Path, content: str | None) -> tuple[set[Key], str]:
    """The episodes of a dataset, and why they are not known."""
    try:
        manifest = Manifest.read(folder / MANIFEST)
    except HpcError as error:
        return set(), error.message
    if content is not None and manifest.content != content:
        return set(), f"{folder} is not the dataset that was trained on: its content is another"
    sources = manifest.about.get("sources")
    if not isinstance(sources, list) or not all(isinstance(source, dict) and "task" in source for source in sources):
        return set(), f"the manifest of {folder} does not name the tasks in it: build it again"
    return {
        Key(str(source.get("family", "")), str(source["task"]), int(source.get("seed", 0))) for source in sources
    }, ""


def _marker(weights: Path) -> dict[str, Any] | None:
    """What the marker of exported weights says; None where there is none that can be read."""
    if not (weights / MARKER).is_file():
        return None
    try:
        value = files.read_json(weights / MARKER)
    except HpcError:
        return None
    return value if isinstance(value, dict) else None
