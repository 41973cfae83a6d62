"""Exporting trajectories, one at a time: memory is that of one, and the output is whole or absent."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hpc.core import files
from hpc.core.errors import HpcError, TrajectoryError, UsageError
from hpc.rundir import RunDir
from hpc.trajectories.exchange import formats
from hpc.trajectories.exchange.losses import BARE, occurrences
from hpc.trajectories.reader import Trajectory, path_of
from hpc.trajectories.records import Record

Place = Path | tuple[RunDir, int]


class Exported(msgspec.Struct, kw_only=True):
    """What an export did. ``lost`` counts the records that lose something, by what they lose."""

    format: str
    out: str
    dry_run: bool = False
    written: int = 0
    steps: int = 0
    left_out: int = 0
    unfinished: int = 0
    failed: list[dict[str, str]] = []
    lost: dict[str, int] = {}
    bytes: int = 0


def export(
    places: Sequence[Place],
    name: str,
    out: Path,
    *,
    wanted: Callable[[dict[str, Any]], bool] = lambda summary: True,
    bare: bool = False,
    unfinished: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    on_done: Callable[[], None] = lambda: None,
) -> Exported:
    """Write trajectories in the format ``name``.

    Args:
        places: files, or runs with an index.
        out: the file to write; of ATIF the folder, or a file ending in .json for a single trajectory.
        wanted: takes a trajectory's summary; those it refuses are left out.
        bare: write nothing of this project's own beside what the format itself has.
        unfinished: take episodes without an outcome too.
        overwrite: replace what is there.
        dry_run: read everything, write nothing.
        on_done: called after each trajectory.

    Raises:
        UsageError: ``out`` exists, or is one file for several ATIF documents.
        MissingExtra: a package is not installed.
        HpcError: nothing can be written.
    """
    single = name == formats.ATIF and out.suffix == ".json"
    if single and len(places) > 1:
        raise UsageError(f"{out} cannot hold {len(places)} ATIF documents", "name a folder with --out")
    if out.exists() and not overwrite and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} exists", "name another --out, or replace it with --overwrite")
    done = Exported(format=name, out=str(out), dry_run=dry_run)
    lost: Counter[str] = Counter()
    with _sink(name, out, single=single, bare=bare, dry_run=dry_run) as add:
        for place in places:
            try:
                records = _records(place, wanted, unfinished, done)
            except TrajectoryError as error:
                done.failed.append({"source": _named(place), "error": error.message})
            else:
                if records:
                    add(records)
                    done.written += 1
                    done.steps += sum(record.__struct_config__.tag == "action" for record in records)
                    lost += occurrences(formats.LOSSES[name], records)
            on_done()
        if not done.written:
            raise _Nothing
    if bare and done.written:
        lost[BARE.what] = done.written
    done.lost = dict(lost)
    if not dry_run and done.written:
        done.bytes = sum(path.stat().st_size for path in ([out] if out.is_file() else out.glob("*.json")))
    return done


class _Nothing(Exception):
    """There was nothing to write: leave no empty file behind."""


def _records(place: Place, wanted: Callable[[dict[str, Any]], bool], unfinished: bool, done: Exported) -> list[Record]:
    with Trajectory.open(place) as trajectory:
        if trajectory.outcome is None and not unfinished:
            done.unfinished += 1
            return []
        if not wanted(trajectory.summary()):
            done.left_out += 1
            return []
        return list(trajectory.records())


@contextlib.contextmanager
def _sink(name: str, out: Path, *, single: bool, bare: bool, dry_run: bool) -> Iterator[Callable[[list[Record]], None]]:
    """Where trajectories go. A file appears under its name when all are in it."""
    with contextlib.suppress(_Nothing):
        if dry_run:
            yield lambda records: None
        elif single:
            yield lambda records: formats.write_document(out, records, bare=bare)
        elif name == formats.ATIF:
            yield formats.Folder(out, bare=bare).add
        else:
            with _whole_file(out) as temporary, temporary.open("wb") as file:
                writer = formats.writer(name, file, bare=bare)
                try:
                    yield writer.add
                except BaseException:
                    with contextlib.suppress(Exception):  # what it holds is thrown away anyway
                        writer.close()
                    raise
                writer.close()
                file.flush()
                os.fsync(file.fileno())


@contextlib.contextmanager
def _whole_file(out: Path) -> Iterator[Path]:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent)
        os.fchmod(handle, 0o644)
        os.close(handle)
    except OSError as error:
        raise HpcError(f"cannot write {out}: {error.strerror}", "free space or mend the permissions") from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.replace(out)
        files.fsync_dir(out.parent)
    except OSError as error:
        raise HpcError(f"cannot write {out}: {error.strerror}", "free space or mend the permissions") from error
    finally:
        temporary.unlink(missing_ok=True)


def _named(place: Place) -> str:
    return str(path_of(*place)) if isinstance(place, tuple) else str(place)
