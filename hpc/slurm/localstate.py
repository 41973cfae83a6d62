"""What becomes of a job that runs as processes of a machine: watching and ending it from any process."""

from __future__ import annotations

import contextlib
import os
import signal

import psutil

from hpc.slurm.elements import ElementState, Outcome, State
from hpc.slurm.record import Chunk, Submission

_ENDS: dict[str, State] = {"done": "DONE", "failed": "FAILED", "cancelled": "CANCELLED", "blocked": "BLOCKED"}


def _process(submission: Submission) -> psutil.Process | None:
    """The live process of a submission; None when it has ended (its pid may be another's now)."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(submission.pid)
        same = abs(process.create_time() - submission.process_started) < 1.0
        if same and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def end(submission: Submission) -> bool:
    """Ask a submission's elements to save and go; whether there was anything to ask."""
    if submission.host != os.uname().nodename:
        return False
    process = _process(submission)
    if process is None:
        return False
    with contextlib.suppress(psutil.Error):
        process.send_signal(signal.SIGTERM)
    return True


def state(job: str, index: int, submission: Submission, chunk: Chunk, outcome: Outcome | None) -> ElementState:
    """The state of one element that runs (or ran) on a machine rather than in a queue."""
    job_id = f"{chunk.id}_{index}"
    own = outcome if outcome is not None and outcome.job_id == job_id else None

    def element(word: State, reason: str, *, gone: bool) -> ElementState:
        return ElementState(
            job=job,
            index=index,
            state=word,
            reason=reason,
            job_id=job_id,
            backend="local",
            attempt=own.attempt if own else 0,
            host=own.host if own else submission.host,
            exit=own.exit if own else None,
            gone=gone,
        )

    if own is not None and own.state in _ENDS:
        # the process that ran it may still write its last lines into the run directory
        here = submission.host == os.uname().nodename
        return element(_ENDS[own.state], own.error, gone=not here or _process(submission) is None)
    if submission.host != os.uname().nodename:
        return element("UNKNOWN", f"runs on {submission.host}; ask there", gone=False)
    if _process(submission) is not None:
        if own is None:
            waits = "waits for " + ", ".join(each["job"] for each in submission.after)
            return element("PENDING", waits if submission.after else "waits for its turn", gone=False)
        return element("RUNNING" if own.state == "running" else "REQUEUED", own.error, gone=False)
    if submission.cancelled:
        return element("CANCELLED", "cancelled", gone=True)
    return element("FAILED", "its process was killed, or the machine restarted", gone=True)
