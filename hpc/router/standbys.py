"""Standby routers make themselves known: a small file each, with a heartbeat, while they wait."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from types import TracebackType

import msgspec

from hpc.core import files
from hpc.core.errors import HpcError
from hpc.rundir import RunDir
from hpc.wire import discovery


class Standby(msgspec.Struct, frozen=True, kw_only=True):
    """One that waits to serve: where it runs, since when, and when it was last heard of (Unix seconds)."""

    host: str
    pid: int
    job_id: str
    since: float
    heartbeat: float


class Presence:
    """The file of this process, removed at the end of the ``with`` block; it is no more than information."""

    def __init__(self, run: RunDir, *, job_id: str = "") -> None:
        now = time.time()
        self._standby = Standby(host=socket.gethostname(), pid=os.getpid(), job_id=job_id, since=now, heartbeat=now)
        self._path = run.router_dir / f"standby-{self._standby.host}-{self._standby.pid}.json"
        self._written_at = 0.0

    def beat(self) -> None:
        """Say that one still waits, every now and then."""
        now = time.time()
        if now - self._written_at < discovery.STALE_SECONDS / 3:
            return
        self._written_at = now
        with contextlib.suppress(HpcError):  # a full disk is the active router's to report
            files.write_json(self._path, msgspec.to_builtins(msgspec.structs.replace(self._standby, heartbeat=now)))

    def __enter__(self) -> Presence:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def waiting(run: RunDir, now: float | None = None) -> list[Standby]:
    """Those that wait, the longest first. What a killed one left is passed over."""
    found = []
    for path in run.router_dir.glob("standby-*.json"):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            standby = msgspec.json.decode(path.read_bytes(), type=Standby)
            if (time.time() if now is None else now) - standby.heartbeat <= discovery.STALE_SECONDS:
                found.append(standby)
    return sorted(found, key=lambda one: one.since)
