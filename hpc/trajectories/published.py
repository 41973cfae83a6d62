"""A log on the node's own disk that is published to the run directory: for shared file systems that are slow.

Every record is durable on the node before its writer goes on, and reaches the run directory soon after.
A process that is killed loses nothing where its node lives on: the next one there finds the rest. With
the node go the steps since the last publication, at most those of ``publish_seconds`` and the one at work.
What others rely on (attempts, alerts, guidance, summaries, snapshots, the outcome) is in the run directory
before its writer goes on, as without this mode.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from hpc.core.errors import HpcError
from hpc.core.framed import FramedLog

log = logging.getLogger(__name__)


class PublishedLog:
    """Single writer of a log in two places. ``frames`` is what it held when it was opened.

    The lock is that of the shared file. What is found on the node counts only where it goes on from what
    was published; if the episode has gone on elsewhere meanwhile it is made anew.

    Raises:
        HpcError: another process writes it, or a disk refuses.
    """

    def __init__(
        self, shared: Path, local: Path, *, publish_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = local
        self._publish_seconds, self._clock = publish_seconds, clock
        self._shared = FramedLog(shared)
        try:
            self._local = FramedLog(local)
        except BaseException:
            self._shared.close()
            raise
        try:
            published, found = self._shared.frames, self._local.frames
            self._pending = found[len(published) :] if found[: len(published)] == published else []
            if found[: len(published)] != published:
                self._local.rewrite(published)
            self.frames = [*published, *self._pending]
            self._published_at = clock()
            self._publish()
        except BaseException:
            self.close()
            raise
        self._shared.frames.clear()
        self._local.frames.clear()

    def append(self, *payloads: bytes, publish: bool) -> None:
        """Make payloads durable on the node, and with ``publish`` in the run directory before that.

        Raises:
            HpcError: a disk refuses. Without ``publish`` one of the run directory does not count: what is
                due is tried again with the next records.
        """
        if publish:
            self._pending += payloads
            try:
                self._publish()
            except HpcError:
                del self._pending[len(self._pending) - len(payloads) :]
                raise
            self._local.append(*payloads)
            return
        self._local.append(*payloads)
        self._pending += payloads
        if self._clock() - self._published_at >= self._publish_seconds:
            try:
                self._publish()
            except HpcError as error:
                log.warning("not published yet: %s", error)

    def _publish(self) -> None:
        if self._pending:
            self._shared.append(*self._pending)
        self._pending = []
        self._published_at = self._clock()

    def close(self) -> None:
        """Publish what is left, and release the lock."""
        try:
            self._publish()
        except HpcError as error:
            log.warning("not published: %s", error)
        finally:
            self._local.close()
            self._shared.close()
