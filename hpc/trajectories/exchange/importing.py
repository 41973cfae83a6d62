"""Importing: other tools' files become sealed trajectories of a run directory, each whole or absent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from hpc.core import files
from hpc.core.errors import ConfigError, HpcError, TrajectoryError, TrajectoryLayoutError
from hpc.core.locks import exclusive
from hpc.rundir import RunDir
from hpc.trajectories import codec, sealed
from hpc.trajectories.exchange import formats
from hpc.trajectories.exchange.source import sha256_of
from hpc.trajectories.order import RecordOrder
from hpc.trajectories.reader import Trajectory, stored_episodes
from hpc.trajectories.records import ActionTaken, EpisodeHeader, Record

CONFIG_HASH = "imported"


class Imported(msgspec.Struct, kw_only=True):
    """What an import did. ``lost`` counts the trajectories that lose something, by what they lose;
    ``present`` those that the run had already, from the same place of a file with the same content."""

    out: str
    dry_run: bool = False
    imported: int = 0
    steps: int = 0
    present: int = 0
    indices: list[int] = []
    formats: dict[str, int] = {}
    failed: list[dict[str, str]] = []
    lost: dict[str, int] = {}


def import_files(
    paths: Sequence[Path],
    out: Path,
    *,
    name: str | None = None,
    dry_run: bool = False,
    on_file: Callable[[], None] = lambda: None,
) -> Imported:
    """Import files into the run directory ``out``, which is made if there is none.

    Repeating it imports what is missing. What cannot be imported is in ``failed``; the rest is kept.

    Args:
        paths: the files.
        out: a run directory of imports.
        name: the format of all; without it each file's is told from its name and content.
        dry_run: read everything, write nothing.
        on_file: called after each file.

    Raises:
        ConfigError: ``out`` is a run of episodes, or a folder with other things.
        MissingExtra: a package is not installed.
    """
    done = Imported(out=str(out), dry_run=dry_run)
    run = _run(out, dry_run=dry_run)
    if dry_run:
        _import_all(paths, name, run, done, on_file)
    else:
        with exclusive(run.launch_lock):
            _import_all(paths, name, run, done, on_file)
    return done


def _run(out: Path, *, dry_run: bool) -> RunDir:
    run = RunDir(out)
    if run.config.is_file():
        if run.read_config().get("imported") is not True:
            raise ConfigError(f"{out} is a run of episodes", "import into a directory of its own")
        return run
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} holds other things than a run of imports", "name a new directory with --out")
    if dry_run:
        return run
    return RunDir.create(out, manifest={"imported": True}, config={"imported": True}, config_hash=CONFIG_HASH)


def _import_all(
    paths: Sequence[Path], name: str | None, run: RunDir, done: Imported, on_file: Callable[[], None]
) -> None:
    present = _present(run)
    lost: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for path in paths:
        try:
            kind = name or formats.format_of(path)
            digest = sha256_of(path)
            for entry, found in formats.read(path, kind, sha256=digest):
                if (digest, entry) in present:
                    done.present += 1
                    continue
                try:
                    header = _take(found, run, done, f"{path}: {entry}" if entry else str(path))
                except TrajectoryError as error:
                    done.failed.append({"source": str(path), "entry": entry, "error": error.message})
                    continue
                present.add((digest, entry))
                kinds[kind] += 1
                lost.update(header.origin.lost if header.origin else [])
        except TrajectoryError as error:
            done.failed.append({"source": str(path), "entry": "", "error": error.message})
        on_file()
    done.lost, done.formats = dict(lost), dict(kinds)


def _take(found: list[Record] | HpcError, run: RunDir, done: Imported, where: str) -> EpisodeHeader:
    """Store one trajectory under the next free index.

    Raises:
        TrajectoryError: it cannot be one of ours.
        HpcError: the disk refuses.
    """
    if isinstance(found, HpcError):
        raise found
    index = (done.indices or stored_episodes(run) or [-1])[-1] + 1
    records = _stored(found, run, index, where)
    if not done.dry_run:  # no log and no live view: nobody plays it, and the file is whole or absent
        files.write_bytes(run.trajectory(index), sealed.build(records))
    done.indices.append(index)
    done.imported += 1
    done.steps += sum(isinstance(record, ActionTaken) for record in records)
    header = records[0]
    if not isinstance(header, EpisodeHeader):
        raise ValueError("a trajectory begins with its header")
    return header


def _present(run: RunDir) -> set[tuple[str, str]]:
    """Where the run's trajectories come from: hash of the file, place in it."""
    found: set[tuple[str, str]] = set()
    for index in stored_episodes(run):
        with Trajectory.open((run, index)) as trajectory:
            if trajectory.header.origin is not None:
                found.add((trajectory.header.origin.sha256, trajectory.header.origin.entry))
    return found


def _stored(records: list[Record], run: RunDir, index: int, where: str) -> list[Record]:
    """The records as the store takes them, checked: whatever a file says, nothing else is written.

    Raises:
        TrajectoryLayoutError: values of another type than ours, or out of order.
    """
    header = records[0]
    if not isinstance(header, EpisodeHeader):
        raise ValueError("a trajectory begins with its header")
    records = [replace(header, run=run.name, index=index), *records[1:]]
    order = RecordOrder()
    try:
        stored = [codec.decode(codec.encode(record)) for record in records]
    except (ValueError, TypeError) as error:
        raise TrajectoryLayoutError(f"{where} has values that no record holds: {error}", "mend the file") from error
    for record in stored:
        problem = order.problem(record)
        if problem:
            raise TrajectoryLayoutError(f"{where} cannot be steps: {problem}", "mend the order of its messages")
        order.take(record)
    return stored
