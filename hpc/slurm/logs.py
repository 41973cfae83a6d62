"""Reading the logs of elements."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from hpc.core.errors import UsageError
from hpc.rundir import RunDir
from hpc.slurm.elements import LIVE
from hpc.slurm.record import read_record
from hpc.slurm.states import states

POLL_SECONDS = 0.5
_ASK_EVERY = 6
"""The scheduler is asked whether the element still lives once in so many looks at its log."""


def log_path(run: RunDir, job: str, index: int) -> Path:
    """The log of an element's newest submission; the file appears when the element starts.

    Raises:
        UsageError: no such job or element.
    """
    record = read_record(run).jobs.get(job)
    if record is None:
        known = ", ".join(read_record(run).jobs) or "none"
        raise UsageError(f"{run.name} has no job {job!r}", f"its jobs: {known}")
    found = record.latest().get(index)
    if found is None:
        raise UsageError(f"{job} has no element {index}", f"it has {record.elements}, counted from 0")
    submission, chunk, task = found
    packed = submission.backend == "slurm" and chunk.pack > 1
    return run.job_logs(job) / f"{chunk.id}_{task}{f'.{index}' if packed else ''}.out"


def tail_log(run: RunDir, job: str, index: int, follow: bool = False) -> Iterator[str]:
    """Lines of an element's log, with their ends; with ``follow`` go on until the element is over.

    Raises:
        UsageError: no such job or element, or it has not written anything yet (without ``follow``).
    """
    path = log_path(run, job, index)
    if not follow and not path.exists():
        raise UsageError(f"element {index} of {job} has no log yet", f"see why: hpc run status {run.name} {job}")
    looks = 0
    position = 0
    over = False
    while True:
        if path.exists():
            with path.open(errors="replace") as file:
                file.seek(position)
                yield from iter(file.readline, "")
                position = file.tell()
        if over or not follow:
            return
        if looks % _ASK_EVERY == 0:
            over = all(e.state not in LIVE | {"UNKNOWN"} for e in states(run, job) if e.index == index)
        looks += 1
        if not over:
            time.sleep(POLL_SECONDS)
