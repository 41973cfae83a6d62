"""The workspace of a running episode, stored when it is due; never a reason for an episode to end."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Literal

from hpc.config.gym import SnapshotsConfig
from hpc.core.errors import HpcError
from hpc.rundir import RunDir
from hpc.trajectories.records import SnapshotTaken
from hpc.trajectories.snapshots import Limits, SnapshotStore, Taken

log = logging.getLogger(__name__)


class WorkspaceSnapshots:
    """Takes snapshots of one episode's workspace (`hpc.agent.loop.Snapshots`)."""

    def __init__(self, run: RunDir, index: int, config: SnapshotsConfig) -> None:
        self._config = config
        self._workspace = run.workspace(index)
        self._store = SnapshotStore(run.snapshots)
        self._limits = Limits(max_bytes=config.max_bytes, max_files=config.max_files, exclude=config.exclude)

    async def take(self, step: int, *, ends: bool) -> SnapshotTaken | None:
        """Store the workspace if that is due after ``step``, in a thread; the agent waits for it."""
        every = self._config.every
        if not (self._config.at_end if ends else every is not None and step % every == 0):
            return None
        reason: Literal["end", "interval"] = "end" if ends else "interval"
        began = time.monotonic()
        try:
            taken = await asyncio.to_thread(self._store.take, self._workspace, self._limits)
        except HpcError as error:
            log.warning("no snapshot after step %d: %s", step, error)
            return SnapshotTaken(id="", step=step, at=time.time(), reason=reason, problem=error.message)
        return record_of(taken, step, reason, time.monotonic() - began)


def record_of(taken: Taken, step: int, reason: Literal["interval", "end", "request"], seconds: float) -> SnapshotTaken:
    """What the trajectory says of a snapshot that took so many seconds."""
    return SnapshotTaken(
        id=taken.id,
        step=step,
        at=time.time(),
        reason=reason,
        files=taken.manifest.file_count,
        size=taken.manifest.size,
        stored=taken.stored,
        seconds=seconds,
    )
