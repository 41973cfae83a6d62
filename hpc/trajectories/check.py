"""What is whole in a stored trajectory and what is not. Never raises for a bad file: it says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from hpc.core.errors import SnapshotError, TrajectoryError, TrajectoryIncomplete, TrajectoryLayoutError
from hpc.rundir import RunDir
from hpc.trajectories.log import read_log, require_records
from hpc.trajectories.order import RecordOrder
from hpc.trajectories.reader import Trajectory, is_hdf5, path_of
from hpc.trajectories.records import (
    ActionTaken,
    AttemptStarted,
    ContextRewritten,
    GuidanceApplied,
    Observed,
    OutcomeReached,
    Record,
)
from hpc.trajectories.salvage import read_here, salvage
from hpc.trajectories.sealed import require_untouched
from hpc.trajectories.snapshots import SnapshotStore

State = Literal["whole", "damaged", "unreadable"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong.

    ``kind``: unreadable (nothing can be read), bytes (stored data changed or missing), order
    (records repeated, missing or out of place), unobserved (an action without its observation),
    lengths (tokens and log-probabilities do not match), guidance (applied twice, or lost in a summary),
    snapshot (a workspace that it names is not whole).
    """

    kind: Literal["unreadable", "bytes", "order", "unobserved", "lengths", "guidance", "snapshot"]
    detail: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one file. ``steps`` and ``records`` count what is whole; ``notes`` are normal
    for an episode that has not ended."""

    path: str
    form: Literal["sealed", "log", "unknown"]
    state: State
    steps: int = 0
    records: int = 0
    findings: list[Finding] = []
    notes: list[str] = []


def check(path: Path) -> Report:
    """Read everything in a sealed file or a log and report every kind of damage."""
    try:
        return _check_sealed(path) if is_hdf5(path) else _check_log(path)
    except TrajectoryError as error:
        return Report(
            path=str(path), form="unknown", state="unreadable", findings=[Finding("unreadable", error.message)]
        )


def check_episode(run: RunDir, index: int, *, snapshots: SnapshotStore | None = None) -> Report:
    """`check` of an episode's trajectory, and of the workspaces that it names if their store is given."""
    report = check(path_of(run, index))
    if snapshots is None or report.state == "unreadable":
        return report
    findings = list(report.findings)
    try:
        with Trajectory.open((run, index)) as trajectory:
            taken = [one for one in trajectory.snapshots if one.id]
    except TrajectoryError:
        return report
    if taken and not snapshots.folder.exists():  # a run that was copied, or imported, without them
        return msgspec.structs.replace(report, notes=[*report.notes, "the workspaces that it names are not here"])
    for one in taken:
        try:
            problems = snapshots.missing(one.id)
        except SnapshotError as error:
            problems = [error.message]
        if problems:
            findings.append(Finding("snapshot", f"workspace after step {one.step}: {'; '.join(problems[:3])}"))
    state: State = "damaged" if findings else report.state
    return msgspec.structs.replace(report, findings=findings, state=state)


def check_records(records: Sequence[Record]) -> list[Finding]:
    """What is wrong with whole records that should make up a trajectory. Pure."""
    return [*_order(records), *_contents(records)]


def _check_log(path: Path) -> Report:
    contents = read_log(path)
    if not contents.records:
        require_records(path, contents)
    findings = check_records(contents.records)
    notes = [] if _has_outcome(contents.records) else ["no outcome yet"]
    if contents.damage:
        findings.insert(0, Finding("bytes", contents.damage))
    elif contents.tail and contents.torn:
        notes.append(f"torn tail of {contents.tail} bytes: never acknowledged, cut off when the episode goes on")
    elif contents.tail:
        findings.insert(
            0, Finding("bytes", f"the last {contents.tail} bytes, from byte {contents.size}, are no record")
        )
    return _report(path, "log", contents.records, findings, notes)


def _check_sealed(path: Path) -> Report:
    proven, touched = False, ""
    try:
        proven = require_untouched(path)
    except TrajectoryIncomplete as error:
        touched = _detail(error, path)
    found = read_here(path) if proven else salvage(path)  # HDF5 may crash on what was changed
    if found.view:
        raise TrajectoryLayoutError(f"{path} is a live view", "check its episode as RUN/INDEX")
    records = [record for _, record in found.records()]
    findings = [Finding("bytes", problem) for problem in found.problems]
    # with records missing the order cannot be told from what is left
    findings += _contents(records) if findings else check_records(records)
    if touched:
        findings.append(Finding("bytes", touched))
    notes = [] if findings or _has_outcome(records) else ["no outcome"]
    if not proven and not findings:
        notes.append("no checksums of the whole file behind it; each row matches its own")
    return _report(path, "sealed", records, findings, notes)


def _report(
    path: Path, form: Literal["sealed", "log"], records: list[Record], findings: list[Finding], notes: list[str]
) -> Report:
    state: State = "whole" if not findings else "damaged" if records else "unreadable"
    steps = sum(isinstance(record, Observed) for record in records)
    return Report(
        path=str(path),
        form=form,
        state=state,
        steps=steps,
        records=len(records),
        findings=findings,
        notes=notes,
    )


def _order(records: Sequence[Record]) -> Iterator[Finding]:
    order = RecordOrder()
    for record in records:
        problem = order.problem(record)
        if problem:
            kind: Literal["unobserved", "order"] = "unobserved" if order.awaiting else "order"
            yield Finding(kind, problem)
        order.take(record)
    outcome = next((record for record in records if isinstance(record, OutcomeReached)), None)
    if outcome is None:
        return
    if order.awaiting and outcome.status != "failed":
        yield Finding("unobserved", f"step {order.step} has no observation, yet the episode {outcome.status}")
    if outcome.steps != order.step:
        yield Finding("order", f"the outcome counts {outcome.steps} steps, the last one is {order.step}")


def _contents(records: Sequence[Record]) -> Iterator[Finding]:
    applied: dict[str, int] = {}
    epoch = context = rewritten = 0
    for record in records:
        if isinstance(record, ActionTaken):
            answer, logprobs = len(record.token_ids), len(record.logprobs)
            if logprobs not in (0, answer):  # an engine may give none
                yield Finding("lengths", f"step {record.step} has {answer} tokens and {logprobs} log-probabilities")
            if record.shared_tokens > context:
                yield Finding(
                    "lengths", f"step {record.step} shares {record.shared_tokens} tokens with a context of {context}"
                )
            prompt = record.shared_tokens + len(record.new_prompt_ids)
            if any(not 0 <= start < stop <= prompt for start, stop in record.duplicate_spans):
                yield Finding("lengths", f"step {record.step} has duplicates beyond its prompt of {prompt} tokens")
            context = prompt + answer
        elif isinstance(record, GuidanceApplied):
            if record.id in applied:
                yield Finding(
                    "guidance", f"{record.id} was applied at step {applied[record.id]} and {record.applied_step}"
                )
            applied.setdefault(record.id, record.applied_step)
        elif isinstance(record, ContextRewritten):
            lost = [name for name, step in applied.items() if step <= record.last_step and name not in record.guidance]
            if lost:
                yield Finding("guidance", f"summary {record.number} leaves out {', '.join(lost[:3])}")
            if record.number != rewritten + 1:
                yield Finding("order", f"summary {record.number} after summary {rewritten}")
            rewritten = record.number
        elif isinstance(record, AttemptStarted):
            if record.epoch <= epoch:
                yield Finding("order", f"attempt {record.epoch} after attempt {epoch}")
            epoch = record.epoch


def _has_outcome(records: Sequence[Record]) -> bool:
    return any(isinstance(record, OutcomeReached) for record in records)


def _detail(error: TrajectoryError, path: Path) -> str:
    return error.message.removeprefix(f"{path} is damaged: ")
