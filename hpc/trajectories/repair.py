"""Repairing a damaged trajectory: a new file of all that is whole; the damaged one is kept.

May be repeated and interrupted at any moment: the damaged file has its second name before the new
one takes its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from hpc.core import files
from hpc.core.errors import HpcError, TrajectoryError, TrajectoryIncomplete, UsageError
from hpc.rundir import RunDir
from hpc.trajectories.codec import encode, to_json
from hpc.trajectories.live import views_in
from hpc.trajectories.log import read_log, require_version
from hpc.trajectories.records import ActionTaken, EpisodeHeader, Observed, OutcomeReached, Record
from hpc.trajectories.recover import Recovered, log_problems, recover
from hpc.trajectories.sealed import StoredFile, build, require_untouched
from hpc.trajectories.writer import TrajectoryWriter


class Repair(msgspec.Struct, kw_only=True):
    """What was done, or with ``dry_run`` would be.

    ``state``: whole (nothing to do), repaired, sealed (a log that was whole and had ended). ``lost``
    says what no file holds any more or no trajectory can hold; whole records among it are in ``aside``.
    """

    path: str
    state: Literal["whole", "repaired", "sealed"]
    steps: int = 0
    records: int = 0
    damage: list[str] = []
    lost: list[str] = []
    kept: str = ""
    aside: str = ""
    dry_run: bool = False


def repair_file(path: Path, *, end: bool = False, dry_run: bool = False) -> Repair:
    """Repair a sealed file wherever it is, or the episode whose log or sealed file it is.

    Raises: as `repair`; UsageError: a log outside a run directory.
    """
    run, number = RunDir(path.absolute().parents[1]), path.stem
    if number.isdecimal() and path.absolute() == run.trajectory(int(number)) and run.manifest.exists():
        return repair(run, int(number), end=end, dry_run=dry_run)
    if path.name == "log.frames":
        number = path.absolute().parent.name
        run = RunDir(path.absolute().parents[2])
        if number.isdecimal() and path.absolute() == run.log(int(number)):
            return repair(run, int(number), end=end, dry_run=dry_run)
    if not path.is_file() or path.suffix != ".h5":
        raise UsageError(f"{path} is neither a sealed file nor an episode's log", "name a .h5 file or RUN/INDEX")
    return _repair_sealed(path, None, [], dry_run=dry_run)


def repair(run: RunDir, index: int, *, end: bool = False, dry_run: bool = False) -> Repair:
    """Save what is whole in the files of an episode.

    Args:
        end: also end an episode that has no outcome (``failed``, infrastructure) and seal it.
        dry_run: say what would be done.

    Raises:
        TrajectoryIncomplete: there is no trajectory, or its header is lost.
        TrajectoryLayoutError: it is not a trajectory, or one of a newer format.
        HpcError: a process is writing it, or the disk refuses.
    """
    sealed, log = run.trajectory(index), run.log(index)
    if sealed.exists():
        return _repair_sealed(sealed, log, views_in(run.episode(index)), dry_run=dry_run)
    if not log.exists():
        raise TrajectoryIncomplete(f"episode {index} of {run.name} has no trajectory yet", "name another episode")
    with _locked(log):
        contents = read_log(log)
        damage = log_problems(contents)
        found = Recovered(records=contents.records, behind=[], problems=[], complete=True)
        if damage:
            found = recover(None, log, views_in(run.episode(index)))
        done = _report(log, found, "repaired" if damage else "whole", dry_run=dry_run)
        if damage and not dry_run:
            kept = _keep(log)
            done.kept, done.aside = str(kept), _put_aside(kept, found.behind)
            files.write_bytes(log, b"".join(_frame(encode(record)) for record in found.records))
    ended = bool(found.records) and isinstance(found.records[-1], OutcomeReached)
    seals = ended or (end and bool(found.records))
    if seals and not dry_run:
        with TrajectoryWriter.open(run, index) as writer:
            if not ended:
                writer.append(_broken_off(found.records, "ended by repair"))
            done.path = str(writer.seal())
            done.records = len(writer.records)
    if seals and done.state == "whole":
        done.state = "sealed"
    return done


def _repair_sealed(path: Path, log: Path | None, views: list[Path], *, dry_run: bool) -> Repair:
    with _locked(path):
        problem = ""
        try:
            if require_untouched(path):
                return _whole(path, dry_run=dry_run)
        except TrajectoryError as error:  # also one of which too little is left to be recognised
            problem = error.message.removeprefix(f"{path} is damaged: ")
        found = recover(path, log, views)
        found.problems = found.problems or ([problem] if problem else [])
        if not found.problems:  # without checksums behind it, but every row is whole
            return _report(path, found, "whole", dry_run=dry_run)
        done = _report(path, found, "repaired", dry_run=dry_run)
        if dry_run:
            return done
        records = found.records
        if not isinstance(records[-1], OutcomeReached):
            ending = next((record for record in found.behind if isinstance(record, OutcomeReached)), None)
            was = f"; it had {ending.status} after {ending.steps} steps" if ending else ""
            records = [*records, _broken_off(records, f"repaired: what followed was lost to damage{was}")]
        image = build(records)
        kept = _keep(path)
        done.kept, done.aside = str(kept), _put_aside(kept, found.behind)
        files.write_bytes(path, image)
        done.records = len(records)
    return done


def _whole(path: Path, *, dry_run: bool) -> Repair:
    with StoredFile.open(path) as file:
        steps, records = len(file.table("steps")), len(file.places())
    return Repair(path=str(path), state="whole", steps=steps, records=records, dry_run=dry_run)


def _report(path: Path, found: Recovered, state: Literal["whole", "repaired"], *, dry_run: bool) -> Repair:
    if state == "repaired" and not (found.records and isinstance(found.records[0], EpisodeHeader)):
        raise TrajectoryIncomplete(
            f"{path} cannot be repaired: its header is lost ({'; '.join(found.problems)[:200]})",
            "restore it from a copy",
        )
    if found.records and isinstance(found.records[0], EpisodeHeader):
        require_version(path, found.records[0].format_version)
    lost = []
    if found.problems and not found.complete:
        last = _steps(found.records)
        lost.append(f"what followed step {last}")
        if found.behind:
            lost[-1] += f" ({len(found.behind)} whole records behind the gap are kept as JSON)"
    return Repair(
        path=str(path),
        state=state,
        steps=_steps(found.records),
        records=len(found.records),
        damage=found.problems,
        lost=lost,
        dry_run=dry_run,
    )


def _steps(records: list[Record]) -> int:
    return sum(isinstance(record, Observed) for record in records)


def _broken_off(records: list[Record], reason: str) -> OutcomeReached:
    scores = [
        record.observation.evaluation.score
        for record in records
        if isinstance(record, Observed) and record.observation.evaluation is not None
    ]
    return OutcomeReached(
        status="failed",
        at=time.time(),
        steps=sum(isinstance(record, ActionTaken) for record in records),
        working_seconds=max((r.working_seconds for r in records if isinstance(r, Observed)), default=0.0),
        best_score=max(scores, default=None),
        reason=reason,
        boundary="infrastructure",
    )


def _frame(payload: bytes) -> bytes:
    return struct.pack("<II", len(payload), zlib.crc32(payload)) + payload


def _put_aside(kept: Path, records: list[Record]) -> str:
    """Write records that the new file cannot hold beside the damaged file that held them."""
    if not records:
        return ""
    aside = kept.with_name(kept.name.replace(".damaged", ".salvaged") + ".jsonl")
    files.write_bytes(aside, b"".join(to_json(record) + b"\n" for record in records))
    return str(aside)


def _keep(path: Path) -> Path:
    """Give the damaged file a second name."""
    number, kept = 1, path.with_name(f"{path.name}.damaged")
    while kept.exists():
        if kept.samefile(path) or kept.read_bytes() == path.read_bytes():  # of a repair that was interrupted
            return kept
        number += 1
        kept = path.with_name(f"{path.name}.damaged-{number}")
    try:
        os.link(path, kept)
    except OSError:  # a file system without hard links
        try:
            shutil.copy2(path, kept)
        except OSError as error:
            kept.unlink(missing_ok=True)
            raise HpcError(f"cannot keep {path} as {kept.name}: {error.strerror}", "free space on that disk") from error
    return kept


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the writer's lock, so that nobody appends meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TrajectoryIncomplete(f"cannot read {path}: {error.strerror}", "mend its permissions") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise HpcError(f"{path} is being written by another process", "wait for it or cancel it") from error
        yield
    finally:
        os.close(descriptor)
