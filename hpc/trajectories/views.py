"""Trajectories as tables for analysis: columns in plain lists, as pandas or as Arrow.

pandas and pyarrow are imported only where they are asked for.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable
from typing import Any

import h5py
import msgspec
import numpy as np

from hpc.core.errors import MissingExtra, UsageError
from hpc.trajectories.collection import TrajectorySet
from hpc.trajectories.index import Entry, describe
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import AlertRaised, ContextRewritten, GuidanceApplied, SnapshotTaken

Trajectories = TrajectorySet | Trajectory | Iterable[Trajectory]
Columns = dict[str, list[Any]]

_STEP_COLUMNS = (
    "step",
    "at",
    "observed_at",
    "working_seconds",
    "model_seconds",
    "is_error",
    "is_malformed",
    "polling",
    "terminated",
    "progress",
    "score",
    "shared_tokens",
    "answer_tokens",
    "used_prompt_tokens",
    "used_answer_tokens",
    "used_cached_tokens",
    "cost",
    "gpu_seconds",
    "duplicate_tokens",
)


def columns(trajectories: Trajectories, view: str, *, texts: bool = False) -> Columns:
    """A table as lists of equal length, by the names of the columns.

    Every row begins with ``run`` and ``index``, which name its trajectory. Absent values are None.

    Args:
        trajectories: a set, one trajectory, or any that are open.
        view: one of `VIEWS`:

            - ``episodes``: one row for each trajectory (`hpc.trajectories.index.Entry`); the counts by
              name are JSON objects. Of a set, damaged trajectories are in it.
            - ``steps``: one row for each step. Times are Unix seconds, durations seconds, ``progress``
              in [0, 1], ``score`` in [0, 100]; ``prompt_tokens`` is the whole prompt, ``new_tokens``
              what it adds to the context, ``answer_tokens`` what was sampled.
            - ``alerts``, ``guidance``, ``contexts`` (summaries) and ``snapshots``: one row for each, with all
              their fields.
        texts: add ``arguments`` (JSON), ``answer`` and ``observation`` to steps; without them no text
            of a step is read.

    Raises:
        UsageError: there is no such view.
        TrajectoryIncomplete: a trajectory is damaged where it is read.
    """
    if view not in VIEWS:
        raise UsageError(f"there is no view {view}", f"one of {', '.join(VIEWS)}")
    names, rows = VIEWS[view]
    wanted = [*names, *(TEXTS if texts and view == "steps" else ())]
    found: Columns = {name: [] for name in wanted}
    if view == "episodes" and isinstance(trajectories, TrajectorySet):
        for entry in trajectories.entries:
            _extend(found, _entry_columns(entry))
        return found
    for trajectory in [trajectories] if isinstance(trajectories, Trajectory) else trajectories:
        part = rows(trajectory)
        if texts and view == "steps":
            part |= _texts(trajectory)
        count = len(next(iter(part.values())))
        header = trajectory.header
        _extend(found, {"run": [header.run] * count, "index": [header.index] * count, **part})
    return found


def to_arrow(trajectories: Trajectories, view: str, *, texts: bool = False) -> Any:
    """`columns` as a ``pyarrow.Table``.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    pyarrow = _optional("pyarrow")
    found = columns(trajectories, view, texts=texts)
    return pyarrow.table({name: pyarrow.array(values) for name, values in found.items()})


def to_pandas(trajectories: Trajectories, view: str, *, texts: bool = False) -> Any:
    """`columns` as a ``pandas.DataFrame``.

    Raises:
        MissingExtra: pandas is not installed.
    """
    return _optional("pandas").DataFrame(columns(trajectories, view, texts=texts))


def _optional(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        fix = {"pyarrow": "pip install 'apollo-hpc[data]'"}.get(package, f"pip install {package}")
        raise MissingExtra(f"{package} is not installed", fix) from error


def _extend(found: Columns, part: Columns) -> None:
    for name, values in found.items():
        values.extend(part[name])


def _episodes(trajectory: Trajectory) -> Columns:
    return _entry_columns(describe(trajectory, trajectory.header.run, trajectory.header.index))


def _entry_columns(entry: Entry) -> Columns:
    values = {name: getattr(entry, name) for name in entry.__struct_fields__}
    return {name: [json.dumps(value) if isinstance(value, dict) else value] for name, value in values.items()}


def _steps(trajectory: Trajectory) -> Columns:
    rows = trajectory.table("steps")
    part: Columns = {name: _plain(rows[name].tolist()) for name in _STEP_COLUMNS}
    boundaries = {number: name for name, number in h5py.check_enum_dtype(rows.dtype["boundary"]).items()}
    part["action"] = [name.decode(errors="replace") for name in rows["action"].tolist()]
    part["boundary"] = [None if number == 0 else boundaries[number] for number in rows["boundary"].tolist()]
    part["new_tokens"] = rows["prompt_tokens"].tolist()
    part["prompt_tokens"] = (rows["shared_tokens"] + rows["prompt_tokens"]).tolist()
    return part


def _plain(values: list[Any]) -> list[Any]:
    """The values of a column with None for not-a-number, which stands for absent ones."""
    return [None if isinstance(value, float) and np.isnan(value) else value for value in values]


def _texts(trajectory: Trajectory) -> Columns:
    part: Columns = {name: [] for name in TEXTS}
    for step in trajectory.steps:
        action, observed = step.action, step.observed
        part["arguments"].append(json.dumps(action.action.arguments, ensure_ascii=False))
        part["answer"].append(action.text)
        part["observation"].append(None if observed is None else observed.observation.text)
    return part


def _records(kind: str, struct: type[msgspec.Struct]) -> Callable[[Trajectory], Columns]:
    def rows(trajectory: Trajectory) -> Columns:
        records = getattr(trajectory, kind)
        found = {name: [getattr(record, name) for record in records] for name in struct.__struct_fields__}
        return {name: [msgspec.to_builtins(value) for value in values] for name, values in found.items()}

    return rows


TEXTS = ("arguments", "answer", "observation")
_PLACE = ("run", "index")
_STEP_VIEW = ("action", "boundary", "prompt_tokens", "new_tokens")
VIEWS: dict[str, tuple[tuple[str, ...], Callable[[Trajectory], Columns]]] = {
    "episodes": (Entry.__struct_fields__, _episodes),
    "steps": ((*_PLACE, *_STEP_COLUMNS, *_STEP_VIEW), _steps),
    "alerts": ((*_PLACE, *AlertRaised.__struct_fields__), _records("alerts", AlertRaised)),
    "guidance": ((*_PLACE, *GuidanceApplied.__struct_fields__), _records("guidance", GuidanceApplied)),
    "contexts": ((*_PLACE, *ContextRewritten.__struct_fields__), _records("contexts", ContextRewritten)),
    "snapshots": ((*_PLACE, *SnapshotTaken.__struct_fields__), _records("snapshots", SnapshotTaken)),
}
"""Name of each view, its columns, and how its rows are made of a trajectory."""
