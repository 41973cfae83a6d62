"""Marks a run done once its episodes are over, so that its servers and router give back their nodes."""

from __future__ import annotations

import threading

import msgspec

from hpc import slurm
from hpc.core.locks import exclusive
from hpc.rundir import RunDir
from hpc.slurm import REQUEUE, Allocation

POLL_SECONDS = 2.0


class FinalizeJob(msgspec.Struct, frozen=True):
    """Waits until no element of ``job`` is alive, then marks the run done.

    On Slurm the job starts behind an ``afterany`` dependency and finds everything settled; on the
    local executor it is the one that waits.
    """

    job: str = "episodes"

    def __call__(self, run: RunDir, allocation: Allocation) -> int:
        stopped = threading.Event()
        allocation.on_stop(lambda _reason: stopped.set())
        while not run.done.exists():
            if stopped.is_set():
                return REQUEUE if allocation.stop_reason != "cancel" else 0
            with exclusive(run.launch_lock):  # whoever resumes the run now must not be cut off
                if all(slurm.is_settled(element) for element in slurm.states(run, self.job)):
                    run.mark_done("all episodes are over")
                    break
            stopped.wait(POLL_SECONDS)
        return 0
