"""Where every element of a run is: the queue first, then accounting, then what the elements wrote.

One squeue for all jobs; sacct only where the cluster keeps accounts, only for what has left the
queue without an outcome, and not again and again. Nobody's silence is ever taken for a failure.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence

import msgspec

from hpc.rundir import RunDir
from hpc.slurm import localstate
from hpc.slurm.commands import call, complaint
from hpc.slurm.elements import LIVE, ElementState, Outcome, State, read_outcomes
from hpc.slurm.facts import limits
from hpc.slurm.record import Chunk, JobRecord, Submission, parse_spec, read_record

ACCOUNTS_SECONDS = 20.0
"""How long an answer of sacct is believed before it is asked again."""

_STATES: dict[str, State] = {
    "PENDING": "PENDING",
    "COMPLETED": "DONE",
    "FAILED": "FAILED",
    "BOOT_FAIL": "NODE_FAIL",
    "NODE_FAIL": "NODE_FAIL",
    "OUT_OF_MEMORY": "FAILED",
    "LAUNCH_FAILED": "FAILED",
    "TIMEOUT": "TIMEOUT",
    "DEADLINE": "TIMEOUT",
    "CANCELLED": "CANCELLED",
    "REVOKED": "CANCELLED",
    "PREEMPTED": "PREEMPTED",
    "REQUEUED": "REQUEUED",
    "REQUEUE_FED": "REQUEUED",
    "REQUEUE_HOLD": "REQUEUED",
    "SPECIAL_EXIT": "REQUEUED",
}
"""Slurm's states; all others (CONFIGURING, COMPLETING, SUSPENDED, …) hold a node: RUNNING."""

_OUTCOMES: dict[str, State] = {"done": "DONE", "failed": "FAILED", "cancelled": "CANCELLED", "blocked": "BLOCKED"}
_NEVER = "DependencyNeverSatisfied"


class Row(msgspec.Struct, frozen=True):
    """What Slurm says of one array element."""

    state: str
    reason: str = ""
    host: str = ""


def parse_squeue(text: str) -> dict[str, Row]:
    """``squeue --array --format=%F|%K|%T|%r|%N``: ``123_4`` -> its row.

    Elements that were cancelled one by one before they started have a common row without an
    index; it has the key ``123``.
    """
    rows = {}
    for line in text.splitlines():
        array, task, state, reason, host = (line.split("|") + [""] * 4)[:5]
        if array.isdigit():
            key = f"{array}_{task}" if task.isdigit() else array
            rows[key] = Row(state, reason if reason != "None" else "", host)
    return rows


def parse_sacct(text: str) -> dict[str, Row]:
    """``sacct --parsable2 --format=JobID,State,Reason,NodeList``: ``123_4`` -> its row.

    Waiting elements share a line (``123_[5-9%2]``), a cancelled one says by whom.
    """
    rows = {}
    for line in text.splitlines():
        name, state, reason, host = (line.split("|") + [""] * 3)[:4]
        if match := re.fullmatch(r"(\d+)_(?:(\d+)|\[([\d,-]+)(?:%\d+)?\])", name):
            array, task, tasks = match.groups()
            by = f"by user {state.split()[-1]}" if " by " in state else ""
            row = Row(
                state.split()[0] if state else "",
                by or (reason if reason != "None" else ""),
                "" if host == "None assigned" else host,
            )
            for index in [int(task)] if task else parse_spec(tasks):
                rows[f"{array}_{index}"] = row
    return rows


def merge(
    job: str,
    index: int,
    job_id: str,
    row: Row | None,
    outcome: Outcome | None,
    *,
    silence: str = "",
    cancelled: bool = False,
) -> ElementState:
    """One element's state from all that is known of it. Pure.

    Args:
        row: Slurm's word; None when it has none.
        outcome: the element's own, of this very submission.
        silence: why Slurm has no word; empty: it answered, and does not know the element (any more).
        cancelled: we cancelled what was alive of its submission.
    """
    attempt = outcome.attempt if outcome else 0
    error = outcome.error if outcome else ""
    code = outcome.exit if outcome else None

    def element(state: State, reason: str, *, gone: bool) -> ElementState:
        host = (row.host if row else "") or (outcome.host if outcome else "")
        return ElementState(
            job=job,
            index=index,
            state=state,
            reason=reason,
            job_id=job_id,
            attempt=attempt,
            host=host,
            exit=code,
            gone=gone,
        )

    if row is not None:
        state = _STATES.get(row.state, "RUNNING")
        if state == "PENDING" and row.reason == _NEVER:
            return element("BLOCKED", "waits for a job that failed (DependencyNeverSatisfied)", gone=False)
        if state in ("PENDING", "REQUEUED") and outcome is not None:
            return element("REQUEUED", "; ".join(filter(None, [error, row.reason])), gone=False)
        if state == "RUNNING" and outcome is not None and outcome.state == "requeued":
            return element("REQUEUED", error or row.reason, gone=False)
        if state in LIVE:
            return element(state, row.reason, gone=False)
        if outcome is not None and outcome.state in ("done", "failed", "cancelled"):
            own = _OUTCOMES[outcome.state]  # a packed neighbour may have decided how the job ended
            if own == "FAILED" and state not in ("FAILED", "DONE"):
                return element(state, error or row.reason, gone=True)
            return element(own, error, gone=True)
        plain = {"OUT_OF_MEMORY": "out of memory", "BOOT_FAIL": "node did not boot"}.get(row.state, "")
        return element(state, error or plain or row.reason, gone=True)
    if outcome is not None and outcome.state in _OUTCOMES:
        return element(_OUTCOMES[outcome.state], error, gone=not silence)
    if silence:
        return element("UNKNOWN", silence, gone=False)
    if cancelled:
        return element("CANCELLED", "cancelled", gone=True)
    last = f"; its last word was {outcome.state!r}" if outcome else ""
    return element("UNKNOWN", f"left the queue without an outcome, and the cluster keeps no accounts{last}", gone=True)


def states(run: RunDir, job: str | None = None) -> list[ElementState]:
    """The state of every element of a run's jobs (of one job), in order of submission and index.

    A job that was never submitted has no elements. Never raises for a scheduler that does not
    answer: its elements are UNKNOWN and the reason says so.
    """
    return states_of([run], job)[run.root.as_posix()]


def states_of(runs: Sequence[RunDir], job: str | None = None) -> dict[str, list[ElementState]]:
    """`states` of several runs with one question to the scheduler; keys are the runs' folders."""
    jobs = [
        (run, name, record)
        for run in runs
        for name, record in read_record(run).jobs.items()
        if job is None or name == job
    ]
    ids = {
        chunk.id
        for _, _, record in jobs
        for submission in record.submissions
        if submission.backend == "slurm"
        for chunk in submission.chunks
    }
    rows, silence = _queue(ids)
    found: dict[str, list[ElementState]] = {run.root.as_posix(): [] for run in runs}
    for run, name, record in jobs:
        found[run.root.as_posix()] += _of_job(run, name, record, rows, silence)
    return found


def _of_job(run: RunDir, name: str, record: JobRecord, rows: dict[str, Row], silence: str) -> list[ElementState]:
    outcomes = read_outcomes(run, name)
    latest = sorted(record.latest().items())
    if not silence:
        rows = {**rows, **_accounts_of_the_missing(latest, rows, outcomes)}
    elements = []
    for index, (submission, chunk, task) in latest:
        outcome = outcomes.get(index)
        if submission.backend == "local":
            elements.append(localstate.state(name, index, submission, chunk, outcome))
            continue
        job_id = f"{chunk.id}_{task}"
        own = outcome if outcome is not None and outcome.job_id == job_id else None
        row = rows.get(job_id) or rows.get(chunk.id)
        elements.append(merge(name, index, job_id, row, own, silence=silence, cancelled=submission.cancelled))
    return elements


def _queue(ids: set[str]) -> tuple[dict[str, Row], str]:
    """Rows of everything that squeue knows, and why it says nothing, if it does not answer."""
    if not ids:
        return {}, ""
    done = call(
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        f"--jobs={','.join(sorted(ids))}",
        "--format=%F|%K|%T|%r|%N",
    )
    if done.returncode == 0:
        return parse_squeue(done.stdout), ""
    words = complaint(done)
    if "invalid job id" in words.lower():  # it has forgotten the only one it was asked for
        return {}, ""
    return {}, f"squeue does not answer: {words}"


def _accounts_of_the_missing(
    latest: Iterable[tuple[int, tuple[Submission, Chunk, int]]], rows: dict[str, Row], outcomes: dict[int, Outcome]
) -> dict[str, Row]:
    missing: set[str] = set()
    since = time.time()
    for index, (submission, chunk, task) in latest:
        outcome = outcomes.get(index)
        told = outcome is not None and outcome.state in _OUTCOMES and outcome.job_id == f"{chunk.id}_{task}"
        if submission.backend == "slurm" and not rows.keys() & {f"{chunk.id}_{task}", chunk.id} and not told:
            missing.add(chunk.id)
            since = min(since, submission.at)
    if not missing or not limits().accounting:
        return {}
    return _accounts(tuple(sorted(missing)), since)


_asked: dict[tuple[str, ...], tuple[float, dict[str, Row]]] = {}


def _accounts(ids: tuple[str, ...], since: float) -> dict[str, Row]:
    """sacct's rows. Its start is given, as ids are used again after years; an answer is kept a while."""
    at, rows = _asked.get(ids, (0.0, {}))
    if time.monotonic() - at < ACCOUNTS_SECONDS and at:
        return rows
    done = call(
        "sacct",
        "--noheader",
        "--parsable2",
        "--allocations",
        f"--starttime={time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(since - 60))}",
        f"--jobs={','.join(ids)}",
        "--format=JobID,State,Reason,NodeList",
    )
    rows = parse_sacct(done.stdout) if done.returncode == 0 else {}
    _asked[ids] = (time.monotonic(), rows)
    return rows
