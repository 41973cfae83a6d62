"""Elements as processes side by side: the local backend, and elements packed into one Slurm job."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from hpc.rundir import RunDir
from hpc.slurm.allocation import REQUEUE
from hpc.slurm.elements import Outcome, read_outcome, write_outcome

KILL_SECONDS = 30.0
"""How long a cancelled element may take to save and go, as Slurm's KillWait."""

log = logging.getLogger(__name__)


def die_with_parent(parent: int) -> None:
    """Receive SIGTERM when the process ``parent`` (our parent) ends, however it ends: no orphans."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # it ended before we could ask
        os.kill(os.getpid(), signal.SIGTERM)


class ElementPool:
    """Runs elements, at most ``width`` at a time, each in a process with a log of its own.

    Args:
        command: words that run an element; the pool adds which one.
        job_id: index -> the scheduler's id of the element.
        log: index -> its log file, appended to.
        environment: of the elements.
        again: run an element again at once when it asks for it (else its exit status stays `REQUEUE`).
    """

    def __init__(
        self,
        run: RunDir,
        job: str,
        *,
        command: Sequence[str],
        job_id: Callable[[int], str],
        log: Callable[[int], Path],
        environment: Mapping[str, str],
        width: int,
        again: bool,
        restarts: int = 0,
    ) -> None:
        self.run_dir = run
        self.job = job
        self.command = list(command)
        self.job_id = job_id
        self.log = log
        self.environment = dict(environment)
        self.width = width
        self.again = again
        self.restarts = restarts
        self.cancelled = threading.Event()
        self._live: dict[int, subprocess.Popen[bytes]] = {}

    def run(self, elements: Sequence[int]) -> dict[int, int]:
        """See all elements through; index -> exit status."""
        with ThreadPoolExecutor(self.width) as threads:
            return dict(zip(elements, threads.map(self._see_through, elements), strict=True))

    def stop(self, reason: str) -> None:
        """Tell the live elements to save and go; after ``cancel`` no more are started."""
        if reason == "cancel":
            self.cancelled.set()
            killer = threading.Timer(KILL_SECONDS, self._send, [signal.SIGKILL])
            killer.daemon = True
            killer.start()
        self._send(signal.SIGTERM if reason == "cancel" else signal.SIGUSR2)

    def _send(self, number: signal.Signals) -> None:
        for process in list(self._live.values()):
            if process.poll() is None:
                process.send_signal(number)

    def _see_through(self, index: int) -> int:
        restarts = self.restarts
        while not self.cancelled.is_set():
            code = self._once(index, restarts)
            if code == -signal.SIGUSR2 and not self.cancelled.is_set():  # told to go before it could listen
                code = REQUEUE
                self._write(index, "requeued", restarts, "told to go before it had begun", code)
            self._account_for_silence(index, restarts, code)
            if code != REQUEUE or not self.again:
                return code
            restarts += 1
        self._write(index, "cancelled", restarts, "cancelled")
        return 1

    def _once(self, index: int, restarts: int) -> int:
        path = self.log(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        which = ["--index", str(index), "--job-id", self.job_id(index), "--restarts", str(restarts)]
        with path.open("ab") as output:
            process = subprocess.Popen(
                [*self.command, *which, "--in-pool", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
            )
        self._live[index] = process
        if self.cancelled.is_set():  # since we looked last
            process.send_signal(signal.SIGTERM)
        code = process.wait()
        del self._live[index]
        log.info("element %d of %s ended with exit status %d", index, self.job, code)
        return code

    def _account_for_silence(self, index: int, restarts: int, code: int) -> None:
        """An element that was killed (or never got as far as running) could not say so itself."""
        outcome = read_outcome(self.run_dir, self.job, index)
        told = outcome is not None and outcome.job_id == self.job_id(index) and outcome.state != "running"
        if told and (code == REQUEUE) == (outcome is not None and outcome.state == "requeued"):
            return
        if self.cancelled.is_set():
            self._write(index, "cancelled", restarts, "cancelled", code)
        elif code < 0:
            self._write(index, "failed", restarts, f"killed by {signal.Signals(-code).name}", code)
        else:
            self._write(index, "failed", restarts, f"ended with exit status {code}; see {self.log(index)}", code)

    def _write(
        self,
        index: int,
        state: Literal["failed", "cancelled", "requeued"],
        restarts: int,
        error: str,
        code: int | None = None,
    ) -> None:
        outcome = Outcome(
            state=state,
            job_id=self.job_id(index),
            attempt=restarts + 1,
            exit=code,
            error=error,
            host=os.uname().nodename,
            at=time.time(),
        )
        write_outcome(self.run_dir, self.job, index, outcome)
