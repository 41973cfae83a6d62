"""Runs one element (or a pack of them) in the process that the scheduler started."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from hpc.core import files
from hpc.core.errors import HpcError, JobError, UsageError
from hpc.rundir import RunDir
from hpc.slurm import own
from hpc.slurm.allocation import REQUEUE, Allocation, StopReason
from hpc.slurm.elements import Outcome, read_outcome, write_outcome
from hpc.slurm.pool import ElementPool, die_with_parent
from hpc.slurm.signals import StopWatcher

log = logging.getLogger(__name__)

Work = Callable[[RunDir, Allocation], int]
"""A job: its payload bound, called with the run directory and the allocation."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``elements/<job>.json``: what each element of a job runs."""

    kind: str
    run: str
    payloads: list[dict[str, Any]]
    config_hash: str = ""
    max_requeues: int = 20
    signal_seconds: int = 120
    job: str = ""

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """The manifest at ``path``.

        Raises:
            HpcError: it is missing or damaged.
        """
        try:
            manifest = msgspec.convert(files.read_json(path), cls)
        except msgspec.ValidationError as error:
            raise HpcError(f"{path} is no element manifest: {error}", "submit the job again") from error
        return msgspec.structs.replace(manifest, job=path.stem)

    def payload(self, index: int) -> dict[str, Any]:
        """The payload of one element.

        Raises:
            UsageError: there is no such element.
        """
        if not 0 <= index < len(self.payloads):
            raise UsageError(f"{self.job} has no element {index}", f"it has {len(self.payloads)}, counted from 0")
        return self.payloads[index]


def run_in_slurm(manifest: Manifest, load: Callable[[dict[str, Any]], Work], index: int, me: own.Identity) -> int:
    """Run the element of this Slurm job; the exit status of the process."""
    run = RunDir(Path(manifest.run))
    if _said(run, manifest.job, index, me) == "done":
        return 0  # Slurm lost the node after the work and before the news of it
    allocation = Allocation(
        job_id=me.job_id,
        index=index,
        restarts=me.restarts,
        backend="slurm",
        end_time=own.end_time(me.job_id),
    )
    element = _Element(run, manifest, index, allocation, leads=me.rank == 0)
    with _slurm_watcher(allocation, manifest, me):
        return element.run(load, lambda: own.requeue(me.job_id, me.restarts))


def run_in_pool(
    manifest: Manifest,
    load: Callable[[dict[str, Any]], Work],
    index: int,
    *,
    job_id: str,
    restarts: int,
    parent: int,
) -> int:
    """Run an element that a pool started; the pool runs it again when the status is `REQUEUE`."""
    die_with_parent(parent)
    run = RunDir(Path(manifest.run))
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    backend: Literal["slurm", "local"] = "slurm" if "SLURM_JOB_ID" in os.environ else "local"
    allocation = Allocation(
        job_id=job_id, index=index, restarts=restarts, backend=backend, end_time=float(end) if end else None
    )

    def judge(number: int) -> StopReason:
        if backend == "slurm":  # Slurm signals all processes of a job, not the pool alone
            return _judge(number, own.look(job_id), allocation, manifest)
        return "cancel" if number == signal.SIGTERM else _judge(number, None, allocation, manifest)

    with StopWatcher(allocation, judge=judge, signal_seconds=manifest.signal_seconds):
        return _Element(run, manifest, index, allocation, leads=True).run(load, lambda: True)


def run_pack(manifest: Manifest, path: Path, offset: int, pack: int, me: own.Identity) -> int:
    """Run the neighbours that share this Slurm job, each in a process; requeue the job for those that ask."""
    run = RunDir(Path(manifest.run))
    first = offset + me.task * pack
    neighbours = range(first, min(first + pack, len(manifest.payloads)))
    elements = [index for index in neighbours if _said(run, manifest.job, index, me) not in ("done", "failed")]
    allocation = Allocation(
        job_id=me.job_id, index=first, restarts=me.restarts, backend="slurm", end_time=own.end_time(me.job_id)
    )
    environment = dict(os.environ)
    if allocation.end_time is not None:
        environment["SLURM_JOB_END_TIME"] = str(int(allocation.end_time))
    pool = ElementPool(
        run,
        manifest.job,
        command=[sys.executable, "-P", "-m", "jobs", str(path)],
        job_id=lambda _index: me.job_id,
        log=lambda index: run.job_logs(manifest.job) / f"{me.job_id}.{index}.out",
        environment=environment,
        width=max(1, len(elements)),
        again=False,
        restarts=me.restarts,
    )
    allocation.on_stop(pool.stop)
    with _slurm_watcher(allocation, manifest, me):
        codes = pool.run(elements)
        if REQUEUE in codes.values() and allocation.stop_reason != "cancel" and own.requeue(me.job_id, me.restarts):
            return REQUEUE
        return 1 if any(codes.values()) else 0


# ---- parts ------------------------------------------------------------------------------------


def _said(run: RunDir, job: str, index: int, me: own.Identity) -> str | None:
    """What an earlier start of this very element said last (not a faster process of this start)."""
    outcome = read_outcome(run, job, index)
    earlier = outcome is not None and outcome.job_id == me.job_id and outcome.attempt <= me.restarts
    return outcome.state if outcome is not None and earlier else None


def _judge(number: int, view: own.JobView | None, allocation: Allocation, manifest: Manifest) -> StopReason:
    return own.judge_signal(
        number,
        view,
        restarts=allocation.restarts,
        end_time=allocation.end_time,
        signal_seconds=manifest.signal_seconds,
        now=time.time(),
    )


def _slurm_watcher(allocation: Allocation, manifest: Manifest, me: own.Identity) -> StopWatcher:
    def moved() -> float | None:
        view = own.look(me.job_id)
        return view.end_time if view is not None else None

    return StopWatcher(
        allocation,
        judge=lambda number: _judge(number, own.look(me.job_id), allocation, manifest),
        signal_seconds=manifest.signal_seconds,
        end_time=moved,
    )


class _Element:
    """One attempt at one element, and what is said of it."""

    def __init__(self, run: RunDir, manifest: Manifest, index: int, allocation: Allocation, *, leads: bool) -> None:
        self.run_dir = run
        self.manifest = manifest
        self.index = index
        self.allocation = allocation
        self.leads = leads  # of several processes one speaks for all

    def run(self, load: Callable[[dict[str, Any]], Work], requeue: Callable[[], bool]) -> int:
        if self.allocation.restarts > self.manifest.max_requeues:  # Slurm runs again without asking us
            return self._give_up("Slurm ran it again after a lost node or a preemption")
        self._say("running")
        code, error = self._attempt(load)
        cancelled = self.allocation.stop_reason == "cancel"
        if code == 0:
            self._say("done", code)
        elif cancelled:
            self._say("cancelled", code, "cancelled")
        elif code == REQUEUE:
            return self._requeue(requeue)
        else:
            self._say("failed", code, error)
        return code if code != REQUEUE else 1

    def _attempt(self, load: Callable[[dict[str, Any]], Work]) -> tuple[int, str]:
        """Exit status and, if it failed, one line on why."""
        try:
            work = load(self.manifest.payload(self.index))
            code = work(self.run_dir, self.allocation)
        except HpcError as error:
            log.error("%s%s", error.message, f"\n  fix: {error.hint}" if error.hint else "")
            return error.exit_code, str(error)
        except Exception as error:
            log.exception("element %d of %s failed", self.index, self.manifest.job)
            return 1, f"{type(error).__name__}: {error}"
        return code, f"ended with exit status {code}" if code else ""

    def _requeue(self, requeue: Callable[[], bool]) -> int:
        why = self.allocation.stop_reason or "asked for it"
        if self.allocation.restarts >= self.manifest.max_requeues:
            return self._give_up(f"to be run again ({why})")
        self._say("requeued", REQUEUE, why)  # first: being requeued may be the end of this process
        try:
            if not self.leads or requeue():
                return REQUEUE
            self._say("cancelled", 1, "cancelled")
        except JobError as error:
            log.error("%s", error)
            self._say("failed", 1, str(error))
        return 1

    def _give_up(self, why: str) -> int:
        cap = self.manifest.max_requeues
        error = f"{why}, but it has been started {cap + 1} times already (max_requeues is {cap})"
        log.error("%s", error)
        self._say("failed", 1, error)
        return 1

    def _say(self, state: Any, code: int | None = None, error: str = "") -> None:
        if not self.leads:
            return
        outcome = Outcome(
            state=state,
            job_id=self.allocation.job_id,
            attempt=self.allocation.restarts + 1,
            exit=code,
            error=error,
            host=os.environ.get("SLURMD_NODENAME") or os.uname().nodename,
            at=time.time(),
        )
        write_outcome(self.run_dir, self.manifest.job, self.index, outcome)
