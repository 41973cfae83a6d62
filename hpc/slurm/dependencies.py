"""Whether what a job waits for has come, will come, or never can. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hpc.slurm.elements import ElementState, is_settled

Verdict = Literal["met", "waiting", "never"]

_UNSTARTED = ("PENDING", "BLOCKED")


def judge(kind: str, elements: Sequence[ElementState]) -> Verdict:
    """Judge one condition by the elements of the job that it names, as Slurm judges arrays.

    Args:
        kind: as in `hpc.slurm.Dependency`.
        elements: all elements of the other job; a job that was never submitted has none, and
            nothing will come of it.
    """
    if not elements:
        return "never"
    if kind == "after":
        return "waiting" if any(element.state in _UNSTARTED for element in elements) else "met"
    ended = all(element.gone for element in elements)
    if kind == "afterany":
        return "met" if ended else "waiting"
    failed = any(is_settled(element) and element.state != "DONE" for element in elements)  # others may still run
    if kind == "afterok":
        return "never" if failed else "met" if ended else "waiting"
    return "waiting" if not ended else "met" if failed else "never"
