"""Turns signals and the clock into a reason to stop."""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import Self

from hpc.slurm.allocation import Allocation, StopReason

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


class StopWatcher:
    """Watches over one allocation from a thread of its own, as a context manager.

    The handlers only put the number in a queue, so whatever the job is doing in its main thread is
    not disturbed; judging a signal may take a question to the scheduler.

    Args:
        judge: signal number -> why to stop.
        signal_seconds: how long before the end of the walltime to stop.
        end_time: asks for the end of the walltime again when it is near, as it may have been moved.
    """

    def __init__(
        self,
        allocation: Allocation,
        *,
        judge: Callable[[int], StopReason],
        signal_seconds: float,
        end_time: Callable[[], float | None] | None = None,
    ) -> None:
        self._allocation = allocation
        self._judge = judge
        self._lead = signal_seconds
        self._end_time = end_time
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        """Install the handlers (main thread only) and begin to watch."""
        for number in SIGNALS:
            signal.signal(number, lambda received, _frame: self._signals.put(received))
        threading.Thread(target=self._watch, name="stop-watcher", daemon=True).start()
        return self

    def __exit__(self, *_raised: object) -> None:
        """Be deaf from here on: the last word is said, and a second signal (Slurm's and the pool's may
        both come) would kill the interpreter while it ends, with another exit status."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _watch(self) -> None:
        while self._allocation.stop_reason is None:
            try:
                number = self._signals.get(timeout=self._patience())
            except queue.Empty:
                if self._is_late():
                    self._stop("walltime", "the walltime ends soon")
                continue
            self._stop(self._judge(number), f"received {signal.Signals(number).name}")

    def _patience(self) -> float | None:
        end = self._allocation.end_time
        return None if end is None else min(max(0.0, end - self._lead - time.time()), threading.TIMEOUT_MAX)

    def _is_late(self) -> bool:
        if self._end_time is not None and (moved := self._end_time()) is not None:
            self._allocation.end_time = moved
        end = self._allocation.end_time
        return end is not None and time.time() >= end - self._lead

    def _stop(self, reason: StopReason, why: str) -> None:
        log.warning("stopping (%s): %s", reason, why)
        try:
            self._allocation.stop(reason)
        except Exception:
            log.exception("a callback failed while stopping")
