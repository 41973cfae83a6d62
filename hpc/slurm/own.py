"""What a running element asks Slurm about itself: why it must stop, until when it may run, to be run again."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Mapping

import msgspec

from hpc.core.errors import JobError
from hpc.slurm.allocation import StopReason
from hpc.slurm.commands import call, complaint

EARLY_SECONDS = 65.0
"""Slurm sends a job's signal up to a minute before it is due."""

_RUNNING = ("RUNNING", "SIGNALING", "CONFIGURING", "SUSPENDED", "STOPPED", "STAGE_OUT", "RESIZING")


class JobView(msgspec.Struct, frozen=True):
    """One job in Slurm's words (``scontrol show job``)."""

    state: str
    reason: str
    restarts: int
    preempted: bool
    end_time: float | None


class Identity(msgspec.Struct, frozen=True):
    """Which array element this process is."""

    job_id: str
    task: int
    restarts: int
    rank: int


def identity(environment: Mapping[str, str] = os.environ) -> Identity | None:
    """This process's element, from Slurm's variables; None outside a job."""
    job = environment.get("SLURM_ARRAY_JOB_ID") or environment.get("SLURM_JOB_ID")
    if job is None:
        return None
    task = int(environment.get("SLURM_ARRAY_TASK_ID", "0"))
    restarts = int(environment.get("SLURM_RESTART_COUNT") or 0)
    return Identity(f"{job}_{task}", task, restarts, int(environment.get("SLURM_PROCID") or 0))


def parse_job(text: str) -> JobView | None:
    """One line of ``scontrol --oneliner show job``."""
    fields = dict(re.findall(r"(\w+)=(\S*)", text))
    if "JobState" not in fields:
        return None
    return JobView(
        state=fields["JobState"],
        reason=fields.get("Reason", ""),
        restarts=int(fields.get("Restarts", "0")),
        preempted=fields.get("PreemptTime", "None") not in ("None", "N/A", ""),
        end_time=parse_time(fields.get("EndTime", "")),
    )


def parse_time(text: str) -> float | None:
    """Unix seconds of Slurm's local time; None for ``Unknown``, ``N/A`` and the like."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def look(job_id: str) -> JobView | None:
    """What Slurm says of the job now; None when it says nothing."""
    return parse_job(call("scontrol", "--oneliner", "show", "job", job_id, timeout=20).stdout)


def end_time(job_id: str) -> float | None:
    """When the walltime of the job ends, Unix seconds, as far as Slurm tells."""
    told = os.environ.get("SLURM_JOB_END_TIME", "")
    if told.isdigit():
        return float(told)
    view = look(job_id)
    return view.end_time if view is not None else None


def judge_signal(
    number: int, view: JobView | None, *, restarts: int, end_time: float | None, signal_seconds: float, now: float
) -> StopReason:
    """Why this element was sent a signal. Pure; the rules are what Slurm was seen to do.

    - SIGUSR2 comes ahead of the walltime, or at the beginning of a preemption's grace time.
    - SIGTERM reaches a batch script only when the job is being ended: Slurm has requeued it
      already (its restart count is ahead of ours), its time is up, or it was cancelled (all of
      which show as COMPLETING). Processes of a step also get it at the beginning of a grace time.
    """
    if view is not None and (view.restarts > restarts or view.preempted):
        return "preempt"
    near_end = end_time is not None and now >= end_time - signal_seconds - EARLY_SECONDS
    if number == signal.SIGUSR2:
        return "walltime" if near_end else "preempt"
    if view is None:
        return "preempt"
    if view.reason == "TimeLimit":
        return "walltime"
    return "preempt" if view.state in _RUNNING else "cancel"


def requeue(job_id: str, restarts: int) -> bool:
    """Have Slurm run this element again; False when somebody has cancelled it meanwhile.

    Raises:
        JobError: Slurm refuses.
    """
    view = look(job_id)
    if view is not None:
        if view.restarts > restarts or view.state in ("PENDING", "REQUEUED"):
            return True  # Slurm has done so itself
        if view.state not in _RUNNING and view.reason != "TimeLimit" and not view.preempted:
            return False  # to requeue a cancelled job would bring it back to life
    done = call("scontrol", "requeue", job_id)
    if done.returncode != 0:
        raise JobError(f"cannot requeue {job_id}: {complaint(done)}", "run it again by hand: hpc episodes resume")
    return True
