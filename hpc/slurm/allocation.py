"""What a running job knows of its allocation: who it is, how long it has, and when it must stop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Literal

REQUEUE = 75
"""Exit status of a job that wants to be run again (``EX_TEMPFAIL``)."""

StopReason = Literal["preempt", "walltime", "cancel"]


class Allocation:
    """One element's share of the machine, handed to the job that runs it.

    Args:
        job_id: the scheduler's id of this element, such as ``123_4`` or ``local-01k…_4``.
        index: position of the element in its job.
        restarts: how often this element was started before (0 at first).
        backend: ``slurm`` or ``local``.
        end_time: when the walltime ends, Unix seconds; None: no limit known.

    Safe to use from any thread.
    """

    def __init__(
        self,
        *,
        job_id: str,
        index: int = 0,
        restarts: int = 0,
        backend: Literal["slurm", "local"] = "local",
        end_time: float | None = None,
    ) -> None:
        self.job_id = job_id
        self.index = index
        self.restarts = restarts
        self.backend = backend
        self.end_time = end_time
        self._lock = threading.Lock()
        self._reason: StopReason | None = None
        self._callbacks: list[Callable[[str], None]] = []

    @property
    def stop_reason(self) -> StopReason | None:
        """Why this element must save and go, or None while it may work.

        ``preempt``: the node is wanted by others; ``walltime``: `end_time` is near; ``cancel``:
        somebody cancelled it and it will not be run again.
        """
        return self._reason

    def on_stop(self, callback: Callable[[str], None]) -> None:
        """Call ``callback(reason)`` once, from an ordinary thread; at once if it already has to stop."""
        with self._lock:
            if self._reason is None:
                self._callbacks.append(callback)
                return
        callback(self._reason)

    def stop(self, reason: StopReason) -> None:
        """Tell the element to stop; the first reason stays."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(reason)

    async def wait_stop(self) -> str:
        """Wait until the element must stop; the reason."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()

        def wake(_reason: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended before the stop came
                loop.call_soon_threadsafe(stopped.set)

        self.on_stop(wake)
        await stopped.wait()
        return str(self._reason)
