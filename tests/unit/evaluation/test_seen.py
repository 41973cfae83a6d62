from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hpc.evaluation.results import Key
from hpc.evaluation.seen import MARKER, provenance_of, seen
from hpc.examples.manifest import Manifest
from hpc.rundir import RunDir
from tests.unit.evaluation.runs import arm


def dataset(folder: Path, tasks: Sequence[tuple[str, int]], content: str = "c0ffee") -> Path:
    folder.mkdir(parents=True)
    sources = [{"file": "x.h5", "sha256": "0", "family": "lab", "task": task, "seed": seed} for task, seed in tasks]
    Manifest(shards=[], content=content, created_at=0.0, about={"sources": sources}).write(folder / "manifest.json")
    return folder


def weights(folder: Path, **marker: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / MARKER).write_text(json.dumps({"from": "base", "run": "taught", "step": 40, **marker}))
    return folder


def training(root: Path, name: str, data: Path | str, **train: Any) -> RunDir:
    config = {"train": {"dataset": str(data), **train}, "model": {"path": "base"}}
    return RunDir.create(root / name, manifest={}, config=config, config_hash=name)


def evaluated(root: Path, model: Path | str) -> RunDir:
    return RunDir.create(root / "eval", manifest={}, config={"model": {"path": str(model)}}, config_hash="e")


def test_the_marker_is_that_of_exports() -> None:
    """Read, not imported: that would load torch."""
    package = find_spec("hpc.training")
    assert package is not None and package.origin is not None
    source = Path(package.origin).with_name("export.py")
    assert f'\nMARKER = "{MARKER}"\n' in source.read_text()


def test_trained_tasks_are_found_by_the_marker(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", [("t", 0), ("u", 7), ("z", 1)])
    model = weights(tmp_path / "m", dataset={"folder": str(data), "content": "c0ffee"})
    known = provenance_of(evaluated(tmp_path, model), tmp_path)
    assert (known.checkpoint, known.datasets, known.unknown) == ("step 40 of taught", [str(data)], [])
    assert Key("lab", "u", 7) in known.trained
    found = seen(arm("eval", {"t": [1, 2], "u": [3], "v": [4]}), known)
    assert (found.tasks, found.episodes, found.same_seed) == (["lab/t", "lab/u"], 3, 1)


def test_an_export_without_a_dataset_is_known_by_its_training(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", [("t", 0)])
    training(tmp_path / "runs", "taught", data)
    model = weights(tmp_path / "elsewhere")
    assert provenance_of(evaluated(tmp_path, model), tmp_path / "runs").datasets == [str(data)]
    inside = weights(tmp_path / "runs" / "taught" / "exports" / "step-00000040")
    run = RunDir.create(tmp_path / "b", manifest={}, config={"model": {"path": str(inside)}}, config_hash="b")
    assert provenance_of(run, tmp_path / "nowhere").datasets == [str(data)]


def test_all_trainings_behind_the_weights_count(tmp_path: Path) -> None:
    first, second, third = (dataset(tmp_path / name, [(name, 0)]) for name in ("one", "two", "three"))
    oldest = weights(tmp_path / "m1", dataset={"folder": str(first)})
    begun = training(tmp_path / "runs", "begun", second)
    newest = weights(
        tmp_path / "m2", dataset={"folder": str(third)}, start_from=f"{begun.root}@10", **{"from": str(oldest)}
    )
    known = provenance_of(evaluated(tmp_path, newest), tmp_path / "runs")
    assert {key.task for key in known.trained} == {"one", "two", "three"} and known.unknown == []


def test_every_round_behind_the_weights_counts(tmp_path: Path) -> None:
    """Updates that each began with the checkpoint of the one before; one dataset served several of them."""
    before: Path | None = None
    for number in range(1, 13):
        data = tmp_path / "data"
        if number in (1, 6, 12):
            data = dataset(tmp_path / f"data-{number}", [(f"t{number}", 0)])
        elif number == 2:
            dataset(data, [("every round", 0)])
        before = training(tmp_path / "runs", f"rl-{number:04d}", data, warm_start=before and str(before)).root
    model = weights(tmp_path / "m", run="rl-0012", **{"from": "base"})
    known = provenance_of(evaluated(tmp_path, model), tmp_path / "runs")
    assert {key.task for key in known.trained} == {"t1", "t6", "t12", "every round"}
    assert len(known.datasets) == 4 and known.unknown == []


def test_weights_that_descend_from_themselves_end(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", [("t", 0)])
    model = weights(tmp_path / "m", dataset={"folder": str(data)}, **{"from": str(tmp_path / "m")})
    assert provenance_of(evaluated(tmp_path, model), tmp_path).datasets == [str(data)]


@pytest.mark.parametrize(
    ("marker", "why"),
    [
        ({}, "names no dataset"),
        ({"dataset": {"folder": "/no/where"}}, "no whole dataset"),
        ({"dataset": {"folder": "DATA", "content": "other"}}, "its content is another"),
        ({"dataset": {"folder": "OLD"}}, "does not name the tasks"),
        ({"dataset": {"folder": "DATA"}, "start_from": "/no/where@3"}, "is gone"),
    ],
)
def test_what_is_not_known_is_said(tmp_path: Path, marker: dict[str, Any], why: str) -> None:
    data = dataset(tmp_path / "data", [("t", 0)])
    old = tmp_path / "old"
    old.mkdir()
    about = {"sources": [{"file": "x.h5", "sha256": "0"}]}
    Manifest(shards=[], content="", created_at=0.0, about=about).write(old / "manifest.json")
    named = json.loads(json.dumps(marker).replace("DATA", str(data)).replace("OLD", str(old)))
    known = provenance_of(evaluated(tmp_path, weights(tmp_path / "m", **named)), tmp_path / "runs")
    assert len(known.unknown) == 1 and why in known.unknown[0]


@pytest.mark.parametrize("model", ["", "shipped:minilab-tiny", "org/name"])
def test_other_models_are_not_known(tmp_path: Path, model: str) -> None:
    known = provenance_of(evaluated(tmp_path, model), tmp_path)
    assert known.trained == frozenset() and len(known.unknown) == 1
