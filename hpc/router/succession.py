"""Who serves a run: the lock, the generations, and how the journal passes from one router to the next.

Two routers must never both acknowledge, also where a router is paused for an hour and wakes up, or
where the file system forgets locks. So there are two guards.

The **lock** keeps a second router away while the first is known to be there. The **fence** makes a
first router harmless that nobody knew to be there: each router owns a file ``generation-N``, made
with O_EXCL. A successor removes it *before* it copies the journal ``journal-N.sqlite3`` into one of its
own; a router looks for it *after* each commit and *before* it acknowledges anything. Either the
router sees that the file is gone, and is silent; or its commit came before the removal, and is in the
successor's copy. However long either of them is paused in between, what was acknowledged is known to
the successor. The copy also means that no two processes ever write one SQLite file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from hpc.core import files, processes
from hpc.core.errors import HpcError, RouterSuperseded
from hpc.rundir import RunDir
from hpc.wire import discovery
from hpc.wire.discovery import RouterInfo

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
"""How often a router that waits for its turn looks."""
ASK_SECONDS = 10.0
"""How often it asks the scheduler about the active one's job."""
COPY_TRIES = 5

LOCK = "lock"
_SUFFIXES = ("", "-wal")
_JOURNAL = re.compile(r"journal(?:-(\d+))?\.sqlite3")
_GENERATION = re.compile(r"generation-(\d+)")


class Tenure:
    """The right to serve a run, and the journal to do it with.

    Attributes:
        generation: number of this start; grows with each.
        journal: the journal's file; nobody else writes it.
    """

    def __init__(self, generation: int, journal: Path, fence: Path, lock: int | None) -> None:
        self.generation = generation
        self.journal = journal
        self._fence = fence
        self._lock = lock

    def check(self) -> None:
        """Make sure, after a commit, that it may be acknowledged.

        Raises:
            RouterSuperseded: a newer router has taken over, or the run directory was removed.
            HpcError: the file system does not say.
        """
        try:  # opening a file asks the server of a network file system; stat() may be answered from a cache
            os.close(os.open(self._fence, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            raise RouterSuperseded(
                f"router {self.generation} has lost {self._fence}: a newer one serves this run", "leave it to that one"
            ) from None
        except OSError as error:
            raise HpcError(f"cannot look for {self._fence}: {error.strerror}", "mend the file system") from error

    def end(self) -> None:
        """Let go of the lock. The journal stays for the next router."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class _Watch:
    """Whether the router that served last is over, by all that can be known from here.

    Args:
        is_over: whether the scheduler says so; it may take its time.
    """

    def __init__(self, run: RunDir, is_over: Callable[[RouterInfo], bool]) -> None:
        self._run = run
        self._is_over = is_over
        self._seen: tuple[int, float] | None = None
        self._since = 0.0
        self._asked_at = -ASK_SECONDS
        self._said_over: int | None = None

    def silent(self, info: RouterInfo, now: float) -> bool:
        """Whether its heartbeat has stood still for long enough. Only its changes count: clocks of two
        machines may differ."""
        seen = (info.generation, info.heartbeat)
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since > discovery.STALE_SECONDS

    def dead(self, info: RouterInfo, now: float) -> bool:
        """Whether its process has certainly ended."""
        gone = processes.is_gone(info.process)
        if gone is None and now - self._asked_at >= ASK_SECONDS:
            self._asked_at = now
            if self._is_over(info):
                self._said_over = info.generation
        return bool(gone) or self._said_over == info.generation

    def obstacle(self, locked: bool) -> str:
        """Why one may not serve yet; empty when one may."""
        now = time.monotonic()
        info = discovery.read(self._run)
        if info is None:
            return f"{self._run.router_dir / LOCK} is in use" if locked else ""
        who = f"router {info.generation} on {info.host}"
        silent, dead = self.silent(info, now), self.dead(info, now)
        if locked:  # the lock of a node that crashed may stay for long after it
            foreign = processes.is_gone(info.process) is None
            return "" if foreign and dead and silent else f"{who} holds {self._run.router_dir / LOCK}"
        return "" if dead or silent else f"{who} shows signs of life"


def begin(run: RunDir) -> Tenure:
    """Serve now.

    Raises:
        HpcError: another router serves the run, or the journal cannot be taken over.
    """
    with _hold(run) as lock:
        if why := _Watch(run, lambda info: False).obstacle(lock.fd is None):
            raise _refused(run, why)
        return _ascend(run, lock)


async def wait_turn(
    run: RunDir,
    over: asyncio.Event,
    *,
    standby: bool = False,
    is_over: Callable[[RouterInfo], bool] = lambda info: False,
    on_wait: Callable[[], None] = lambda: None,
) -> Tenure | None:
    """Serve as soon as nobody else does; None once ``over`` is set or the run is done.

    Without ``standby`` only the time is waited in which an active router would give a sign of life.

    Args:
        is_over: whether the scheduler says that the job of a router has ended; called in a thread.
        on_wait: called now and then while it waits.

    Raises:
        HpcError: another router serves the run (never with ``standby``), or the journal cannot be taken over.
    """
    watch = _Watch(run, is_over)
    patience = time.monotonic() + discovery.STALE_SECONDS + 2 * WATCH_SECONDS
    said = ""
    while not over.is_set() and not (standby and run.done.exists()):
        with _hold(run) as lock:
            why = await asyncio.to_thread(watch.obstacle, lock.fd is None)
            if not why:
                return await asyncio.to_thread(_ascend, run, lock)
            if not standby and (lock.fd is None or time.monotonic() > patience):
                raise _refused(run, why)
        on_wait()
        if why != said:
            said = why
            log.info("waiting to serve %s: %s", run.name, why)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WATCH_SECONDS):
                await over.wait()
    return None


def _refused(run: RunDir, why: str) -> HpcError:
    return HpcError(
        f"another router is serving this run: {why}",
        f"`hpc router stop {run.name}` ends it; --standby waits until it is gone",
    )


class _hold:
    """The run's lock, if it is free (``fd``); released at the end unless it was taken along."""

    def __init__(self, run: RunDir) -> None:
        run.router_dir.mkdir(parents=True, exist_ok=True)
        self.fd: int | None = None
        try:
            fd = os.open(run.router_dir / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise HpcError(
                f"cannot open {run.router_dir / LOCK}: {error.strerror}", "free space or mend the permissions"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
        else:
            self.fd = fd

    def take(self) -> int | None:
        """The lock, to be kept."""
        fd, self.fd = self.fd, None
        return fd

    def __enter__(self) -> _hold:
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd is not None:
            os.close(self.fd)


def _ascend(run: RunDir, lock: _hold) -> Tenure:
    """Claim the next generation, fence all before it, and copy the newest journal."""
    folder = run.router_dir
    info = discovery.read(run)
    numbers = [*_numbered(folder, _GENERATION), *_numbered(folder, _JOURNAL), info.generation if info else 0]
    generation = max(numbers) + 1
    fence = folder / f"generation-{generation:06d}"
    tenure = Tenure(generation, folder / f"journal-{generation:06d}.sqlite3", fence, None)
    try:
        os.close(os.open(fence, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        for number, path in _numbered(folder, _GENERATION).items():
            if number < generation:
                path.unlink(missing_ok=True)
        files.fsync_dir(folder)
        _inherit(folder, tenure)
    except FileExistsError:
        raise _refused(run, f"generation {generation} has just begun") from None
    except OSError as error:
        raise HpcError(
            f"cannot take over the journal in {folder}: {error.strerror}", "free space or mend the permissions"
        ) from error
    return Tenure(generation, tenure.journal, fence, lock.take())


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    return {int(match[1] or 0): path for path in folder.iterdir() if (match := pattern.fullmatch(path.name))}


def _inherit(folder: Path, tenure: Tenure) -> None:
    """Make the newest older journal, in which is all that the fenced routers have acknowledged, the own."""
    draft = folder / f"draft-{tenure.generation:06d}.sqlite3"
    for _ in range(COPY_TRIES):
        older = {n: path for n, path in _numbered(folder, _JOURNAL).items() if n < tenure.generation}
        if not older or _copied(older[max(older)], draft):
            break
        time.sleep(WATCH_SECONDS)
    else:
        raise HpcError(f"{older[max(older)]} changes while it is taken over", "end the process that writes it")
    if older:
        _compact(draft, tenure.journal)
        tenure.check()
    for path in [*older.values(), *folder.glob("draft-*.sqlite3")]:
        for suffix in _SUFFIXES:
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _copied(source: Path, draft: Path) -> bool:
    """Copy a journal and its write-ahead log; False when it changed meanwhile. A fenced router that wakes
    up right now may still write once, or another successor may be done with it."""
    before = [_stamp(source.with_name(source.name + suffix)) for suffix in _SUFFIXES]
    for suffix, found in zip(_SUFFIXES, before, strict=True):
        copy = draft.with_name(draft.name + suffix)
        copy.unlink(missing_ok=True)
        if found is not None:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(source.with_name(source.name + suffix), copy)
    return [_stamp(source.with_name(source.name + suffix)) for suffix in _SUFFIXES] == before


def _compact(draft: Path, journal: Path) -> None:
    """Write ``draft`` anew without gaps as ``journal``, whole or not at all."""
    image = draft.with_name(f"{draft.stem}-image.sqlite3")
    image.unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as database:
            database.execute("pragma locking_mode=exclusive")  # no shared memory: the file may be remote
            database.execute("pragma auto_vacuum=incremental")
            database.execute("vacuum into ?", (str(image),))
    except sqlite3.Error as error:
        raise HpcError(f"the journal cannot be taken over: {error}", "restore it from a copy") from error
    with image.open("rb+") as file:
        os.fsync(file.fileno())
    image.replace(journal)
    files.fsync_dir(journal.parent)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns
