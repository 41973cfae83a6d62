"""Trains a model: starts the ranks of one task as processes, tells them when to go, and ends with them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec

from hpc.config.train import TrainRunConfig
from hpc.core import files
from hpc.core.errors import HpcError
from hpc.rundir import RunDir
from hpc.slurm import REQUEUE, Allocation

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
LEAVE_SECONDS = 10.0
"""How long ranks may take to end once one of them has failed; what they wait for will not come."""


class TrainJob(msgspec.Struct, frozen=True):
    """One task of a training. Several tasks (nodes, or processes that srun starts) meet in the run directory."""

    def __call__(self, run: RunDir, allocation: Allocation) -> int:
        """0 when the training is over, `REQUEUE` when it was saved and must go on elsewhere.

        Raises:
            HpcError: a rank failed; what it said.
        """
        config = msgspec.convert(run.read_config(), TrainRunConfig)
        resources = config.cluster.resources_for("train")
        tasks = resources.nodes * resources.tasks_per_node if allocation.backend == "slurm" else 1
        task = int(os.environ.get("SLURM_PROCID", "0")) if tasks > 1 else 0
        start = f"{allocation.job_id}.{allocation.restarts}"
        ranks = Ranks(
            run, start, count=config.train.ranks_per_node, task=task, tasks=tasks, threads=config.train.threads
        )
        if tasks > 1 and resources.tasks_per_node > 1:
            ranks.local_offset = int(os.environ.get("SLURM_LOCALID", "0"))
        if resources.nodes > 1:
            ranks.host = os.uname().nodename
        allocation.on_stop(ranks.stop)
        code = ranks.see_through()
        if code == 0 and task == 0:
            run.mark_done("training is over")
        return code


class Ranks:
    """The processes of one task."""

    def __init__(self, run: RunDir, start: str, *, count: int, task: int = 0, tasks: int = 1, threads: int = 1) -> None:
        self.run = run
        self.start = start
        self.count = count
        self.first = task * count
        self.world = tasks * count
        self.threads = threads
        self.local_offset = 0
        self.host = "127.0.0.1"
        self.processes: list[subprocess.Popen[bytes]] = []
        self._reason: str | None = None
        self._lock = threading.Lock()

    def see_through(self) -> int:
        """Start all, wait for all; their common exit status.

        Raises:
            HpcError: one failed; the others are ended.
        """
        with self._lock:
            for index in range(self.count):
                self.processes.append(self._begin(index))
        if self._reason is not None:
            self.stop(self._reason)
        try:
            return self._wait()
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.kill()
                process.wait()

    def stop(self, reason: str) -> None:
        """Tell all to save and go."""
        with self._lock:
            self._reason = reason
            for process in self.processes:
                if process.stdin is not None:
                    try:
                        process.stdin.write(f"{reason}\n".encode())
                        process.stdin.flush()
                    except OSError:
                        log.info("rank process %d has ended already", process.pid)

    def _begin(self, index: int) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        words = [sys.executable, "-P", "-m", "jobs.rank", str(self.run.root)]
        words += ["--rank", str(self.first + index), "--world", str(self.world)]
        words += ["--local-rank", str(self.local_offset + index), "--start", self.start, "--host", self.host]
        return subprocess.Popen(words, stdin=subprocess.PIPE, env=environment)

    def _wait(self) -> int:
        while True:
            codes = [process.poll() for process in self.processes]
            failed = [index for index, code in enumerate(codes) if code not in (None, 0, REQUEUE)]
            if failed:
                if not any((code or 0) < 0 for code in codes):  # what is killed says nothing
                    self._gather_words()
                raise self._why(failed, codes)
            if None not in codes:
                return max(code for code in codes if code is not None)
            time.sleep(POLL_SECONDS)

    def _gather_words(self) -> None:
        """One failure takes the others with it; they get time to say so themselves."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while time.monotonic() < deadline and any(process.poll() is None for process in self.processes):
            if self._words():
                return
            time.sleep(POLL_SECONDS)

    def _words(self) -> list[dict[str, str]]:
        found = [files.read_json(path) for path in failure_path(self.run, self.start).glob("*.json")]
        return sorted(found, key=lambda words: words["at"])

    def _why(self, failed: list[int], codes: list[int | None]) -> HpcError:
        index = min(failed, key=lambda index: codes[index] or 0)  # one that was killed took the others with it
        code = codes[index] or 0
        said = self._words()
        if said and code >= 0:
            return HpcError(said[0]["message"], said[0]["hint"])
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
        return HpcError(
            f"rank {self.first + index} {how}",
            "repeat the command to go on from the last checkpoint; the log says more",
        )


def failure_path(run: RunDir, start: str) -> Path:
    """Where the ranks of one start leave why they failed."""
    return run.meeting(start).with_suffix(".failures")
