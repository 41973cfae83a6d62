"""The state of one element, in one vocabulary for every backend; and the outcome that it writes itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from hpc.core import files
from hpc.rundir import RunDir

State = Literal[
    "PENDING",
    "RUNNING",
    "REQUEUED",
    "BLOCKED",
    "DONE",
    "FAILED",
    "TIMEOUT",
    "CANCELLED",
    "PREEMPTED",
    "NODE_FAIL",
    "UNKNOWN",
]
"""PENDING, RUNNING, REQUEUED (waits to be run again), BLOCKED (waits for what can never come), then
the ends; UNKNOWN: nobody says, the reason tells why."""

LIVE = frozenset({"PENDING", "RUNNING", "REQUEUED"})
"""States of an element that will still do something by itself."""

ENDED = frozenset({"DONE", "FAILED", "TIMEOUT", "CANCELLED", "PREEMPTED", "NODE_FAIL"})
"""States in which an element's work is over, well or badly."""


class ElementState(msgspec.Struct, frozen=True, kw_only=True):
    """Where one element is."""

    job: str
    index: int
    state: State
    reason: str = ""
    """Why it waits or how it ended, in the scheduler's words or its own."""
    job_id: str = ""
    """The scheduler's id of this element, such as ``123_4``."""
    backend: Literal["slurm", "local"] = "slurm"
    attempt: int = 0
    """How often it has been started."""
    host: str = ""
    exit: int | None = None
    gone: bool = False
    """Certainly nothing of it runs or waits any more."""


def is_settled(element: ElementState) -> bool:
    """Whether nothing more will certainly come of an element unless it is run again."""
    return element.gone or element.state == "BLOCKED" or element.state in ENDED


def unsure(elements: Iterable[ElementState]) -> list[ElementState]:
    """The elements of which nobody can say whether they live: silence is not death."""
    return [element for element in elements if element.state == "UNKNOWN" and not element.gone]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What an element says of itself in ``elements/<job>/<index>.json``."""

    state: Literal["running", "done", "failed", "requeued", "cancelled", "blocked"]
    job_id: str
    attempt: int = 1
    exit: int | None = None
    error: str = ""
    host: str = ""
    at: float = 0.0


def write_outcome(run: RunDir, job: str, index: int, outcome: Outcome) -> None:
    """Replace the outcome of one element."""
    files.write_bytes(run.element_result(job, index), msgspec.json.encode(outcome) + b"\n")


def read_outcome(run: RunDir, job: str, index: int) -> Outcome | None:
    """What an element said last; None when it never started or its file is damaged."""
    try:
        return msgspec.json.decode(run.element_result(job, index).read_bytes(), type=Outcome)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def read_outcomes(run: RunDir, job: str) -> dict[int, Outcome]:
    """What all started elements of a job said last."""
    try:
        names = [path.stem for path in run.element_results(job).iterdir() if path.stem.isdigit()]
    except FileNotFoundError:
        return {}
    found = ((int(name), read_outcome(run, job, int(name))) for name in names)
    return {index: outcome for index, outcome in found if outcome is not None}
