"""How agents and people find the router of a run: the file ``router.json``."""

from __future__ import annotations

import time

import msgspec

from hpc.core import files
from hpc.rundir import RunDir

STALE_SECONDS = 15.0
"""A heartbeat older than this means that the router is gone."""


class RouterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where the router of a run listens. ``generation`` grows by one with every start."""

    address: str
    inbox_address: str
    public_key: str
    generation: int
    heartbeat: float
    host: str
    pid: int
    job_id: str
    annotators: str
    process: str = ""

    def is_stale(self, now: float | None = None) -> bool:
        """Whether the heartbeat stopped."""
        return (time.time() if now is None else now) - self.heartbeat > STALE_SECONDS


def publish(run: RunDir, info: RouterInfo) -> None:
    """Replace ``router.json``, atomically; also the heartbeat."""
    files.write_json(run.router, msgspec.to_builtins(info))


def withdraw(run: RunDir, generation: int) -> None:
    """Remove ``router.json`` on a clean end, unless a newer router has replaced it."""
    info = read(run)
    if info is not None and info.generation == generation:
        run.router.unlink(missing_ok=True)


def read(run: RunDir) -> RouterInfo | None:
    """What ``router.json`` says; None when it is absent or cannot be read (a router may come yet)."""
    try:
        return msgspec.json.decode(run.router.read_bytes(), type=RouterInfo)
    except (OSError, msgspec.DecodeError):
        return None
