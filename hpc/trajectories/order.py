"""The order that records must keep, as the writer enforces it and the check reports it. Pure."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from hpc.trajectories.records import ActionTaken, ContextRewritten, EpisodeHeader, Observed, OutcomeReached, Record


class RecordOrder:
    """Follows the records of one trajectory and names what is out of order.

    The header comes first and once; steps are numbered 1, 2, 3 …; an observation follows the action
    of its step; a context is rewritten between steps; nothing follows the outcome.
    """

    def __init__(self) -> None:
        self.step = 0
        self.awaiting = False  # the action of ``step`` has no observation yet
        self.has_header = False
        self.has_outcome = False

    def problem_of(self, records: Sequence[Record]) -> str | None:
        """What is wrong with ``records`` coming next, in their order, or None."""
        if len(records) == 1:  # as an agent appends them
            return self.problem(records[0])
        ahead = copy.copy(self)
        for record in records:
            problem = ahead.problem(record)
            if problem:
                return problem
            ahead.take(record)
        return None

    def problem(self, record: Record) -> str | None:
        """What is wrong with ``record`` coming next, or None."""
        if isinstance(record, EpisodeHeader):
            return "a second header" if self.has_header else None
        if not self.has_header:
            return f"{_name(record)} before the header"
        if self.has_outcome:
            return f"{_name(record)} after the outcome"
        if isinstance(record, ActionTaken):
            if self.awaiting:
                return f"action of step {record.step} while step {self.step} has no observation"
            if record.step != self.step + 1:
                return f"action of step {record.step} after step {self.step}"
        if isinstance(record, ContextRewritten):
            if self.awaiting:
                return f"context rewritten while step {self.step} has no observation"
            if not 0 < record.last_step <= record.after_step or record.after_step != self.step:
                last, after = record.last_step, record.after_step
                return f"a summary of steps up to {last} of {after} after step {self.step}"
        if isinstance(record, Observed):
            if not self.awaiting:
                return f"observation of step {record.step} without its action"
            if record.step != self.step:
                return f"observation of step {record.step} for the action of step {self.step}"
        return None

    def take(self, record: Record) -> None:
        """Go on from ``record``, in order or not."""
        if isinstance(record, EpisodeHeader):
            self.has_header = True
        elif isinstance(record, ActionTaken):
            self.step, self.awaiting = record.step, True
        elif isinstance(record, Observed):
            self.awaiting = False
        elif isinstance(record, OutcomeReached):
            self.has_outcome = True


def _name(record: Record) -> str:
    return str(record.__struct_config__.tag)
