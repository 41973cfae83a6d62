"""One line for each trajectory of a run, kept in one file so that listing thousands opens none.

The index is a cache beside the trajectories: every entry remembers the size, time of change and inode
of the file it was made from, and only files that are new or changed are opened again. It is replaced
as a whole by a rename, so that several readers may build it at once (the last one wins, and what the
others found is found again); a damaged, older or unwritable index is made anew in memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from hpc.core import files
from hpc.core.errors import HpcError, TrajectoryError
from hpc.rundir import RunDir
from hpc.trajectories.reader import Trajectory, path_of, stored_episodes

log = logging.getLogger(__name__)

INDEX_VERSION = 2
DAMAGED = "damaged"
_LEFTOVER_SECONDS = 600.0


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one trajectory without opening it.

    Scores are in [0, 100], times Unix seconds, durations seconds. ``status`` is "running" without an
    outcome and "damaged" where the file cannot be read; ``note`` then says why, else how it ended.
    ``prompt_tokens`` counts what the engine read (each step's whole prompt), ``new_tokens`` what of it
    was not already in the context before, ``answer_tokens`` what was sampled, ``cached_tokens`` what the
    server had in its cache; ``cost`` is in US dollars. ``branched_from`` is ``RUN/INDEX@STEP``. ``actions``,
    ``detectors``, ``annotators`` and ``boundaries`` (of errors) count by name.
    """

    run: str
    index: int
    path: str
    sealed: bool | None = None
    status: str = DAMAGED
    note: str = ""
    episode_id: str = ""
    task: str = ""
    task_family: str = ""
    split: str = ""
    seed: int = 0
    created_at: float = 0.0
    ended_at: float | None = None
    attempts: int = 0
    steps: int = 0
    final_score: float | None = None
    best_score: float | None = None
    working_seconds: float = 0.0
    model_seconds: float = 0.0
    prompt_tokens: int = 0
    new_tokens: int = 0
    answer_tokens: int = 0
    cached_tokens: int | None = None
    cost: float | None = None
    gpu_seconds: float | None = None
    summaries: int = 0
    snapshots: int = 0
    branched_from: str = ""
    malformed: int = 0
    evaluations: int = 0
    alerts: int = 0
    guidance: int = 0
    actions: dict[str, int] = {}
    detectors: dict[str, int] = {}
    annotators: dict[str, int] = {}
    boundaries: dict[str, int] = {}


class _Cached(msgspec.Struct, frozen=True):
    """An entry and the file (size, time of change in ns, inode) that it was made from."""

    made_from: tuple[int, int, int]
    entry: Entry


class _File(msgspec.Struct, frozen=True):
    """The index on disk: ``crc`` is the CRC-32 of ``entries`` as it is written there."""

    version: int
    crc: int
    entries: msgspec.Raw


def read_index(run: RunDir, *, on_open: Callable[[int, int], None] | None = None) -> list[Entry]:
    """The entries of all trajectories of a run, by index; brings the index file up to date.

    Args:
        on_open: called with (how many of the files to open are done, how many there are) before each.
    """
    known = _load(run.trajectory_index)
    stale: list[int] = []
    fresh: dict[int, _Cached] = {}
    for index in stored_episodes(run):
        cached = known.get(index)
        if cached is not None and cached.made_from == _stat(path_of(run, index)):
            fresh[index] = cached
        else:
            stale.append(index)
    for done, index in enumerate(stale):
        if on_open is not None:
            on_open(done, len(stale))
        made_from = _stat(path_of(run, index))  # before it is read: what is added meanwhile is seen next time
        fresh[index] = _Cached(made_from, entry_of(run, index))
    if stale or fresh.keys() != known.keys():
        _save(run.trajectory_index, fresh)
    # what a run is called is where it lies now, also after it was moved or copied
    return [_placed(run, fresh[index].entry) for index in sorted(fresh)]


def entry_of(run: RunDir, index: int) -> Entry:
    """The entry of one trajectory, from its file; never raises for a damaged one."""
    try:
        with Trajectory.open((run, index)) as trajectory:
            return describe(trajectory, run.name, index)
    except TrajectoryError as error:
        path = path_of(run, index)
        note = error.message.removeprefix(f"{path} is damaged: ")
        return Entry(run=run.name, index=index, path=str(path), note=note)


def describe(trajectory: Trajectory, run: str, index: int) -> Entry:
    """The entry of an open trajectory, from its tables alone.

    Raises:
        TrajectoryIncomplete: a table is damaged.
    """
    header, outcome = trajectory.header, trajectory.outcome
    steps, alerts, guidance = (trajectory.table(name) for name in ("steps", "alerts", "guidance"))
    evaluations = trajectory.table("evaluations")["score"]
    clock = steps["working_seconds"][~np.isnan(steps["working_seconds"])]
    errors = steps["boundary"][steps["is_error"]]
    boundaries = {number: name for name, number in h5py.check_enum_dtype(steps.dtype["boundary"]).items()}
    usage, branch = trajectory.usage(), header.branched_from
    best = float(evaluations.max()) if len(evaluations) else None
    return Entry(
        run=run,
        index=index,
        path=str(trajectory.path),
        sealed=trajectory.sealed,
        status=outcome.status if outcome else "running",
        note=outcome.reason if outcome else "",
        episode_id=header.episode_id,
        task=header.task_id,
        task_family=header.task_family,
        split=header.split,
        seed=header.seed,
        created_at=header.created_at,
        ended_at=outcome.at if outcome else None,
        attempts=len(trajectory.table("attempts")),
        steps=len(steps),
        final_score=outcome.final_score if outcome else None,
        best_score=outcome.best_score if outcome else best,
        working_seconds=outcome.working_seconds if outcome else float(clock[-1]) if len(clock) else 0.0,
        model_seconds=float(steps["model_seconds"].sum()),
        prompt_tokens=int(steps["shared_tokens"].sum() + steps["prompt_tokens"].sum()),
        new_tokens=int(steps["prompt_tokens"].sum()),
        answer_tokens=int(steps["answer_tokens"].sum()),
        cached_tokens=None if usage["used_cached_tokens"] is None else int(usage["used_cached_tokens"]),
        cost=usage["cost"],
        gpu_seconds=usage["gpu_seconds"],
        summaries=len(trajectory.table("contexts")),
        snapshots=len(trajectory.table("snapshots")),
        branched_from="" if branch is None else f"{branch.run}/{branch.index}@{branch.step}",
        malformed=int(steps["is_malformed"].sum()),
        evaluations=len(evaluations),
        alerts=len(alerts),
        guidance=len(guidance),
        actions=_count(steps["action"]),
        detectors=_count(alerts["detector"]),
        annotators=_count(guidance["annotator"]),
        boundaries={boundaries[number]: count for number, count in Counter(errors.tolist()).most_common()},
    )


def _count(column: NDArray[Any]) -> dict[str, int]:
    """How often each name is in a column of texts (cut to what the table keeps of them)."""
    return dict(Counter(name.decode(errors="replace") for name in column.tolist()).most_common())


def _placed(run: RunDir, entry: Entry) -> Entry:
    path = str(path_of(run, entry.index))
    return entry if (entry.run, entry.path) == (run.name, path) else _moved(entry, run.name, path)


def _moved(entry: Entry, run: str, path: str) -> Entry:
    return msgspec.structs.replace(entry, run=run, path=path)


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (-1, -1, -1)
    return (found.st_size, found.st_mtime_ns, found.st_ino)


def _load(path: Path) -> dict[int, _Cached]:
    """What the index file knows; nothing if there is none, or one that cannot be trusted."""
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=_File)
        if stored.version != INDEX_VERSION or zlib.crc32(bytes(stored.entries)) != stored.crc:
            raise ValueError("not as it was written")
        return msgspec.json.decode(stored.entries, type=dict[int, _Cached])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.info("index %s is made anew: %s", path, error)
        return {}


def _save(path: Path, entries: dict[int, _Cached]) -> None:
    """Replace the index file, unless this run may not be written to (then the next reader looks again)."""
    body = msgspec.json.encode(entries)
    data = msgspec.json.encode(_File(INDEX_VERSION, zlib.crc32(body), msgspec.Raw(body)))
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        return
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a reader that was killed
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                leftover.unlink()
    try:
        files.write_bytes(path, data, durable=False)
    except HpcError as error:
        log.info("the index is not kept: %s", error.message)
