"""Where a trajectory's records come from: a log in memory, or a sealed file read on demand."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Protocol

from numpy.typing import NDArray

from hpc.trajectories.layout import Tabulator
from hpc.trajectories.records import (
    ActionTaken,
    AlertRaised,
    AttemptStarted,
    ContextRewritten,
    EpisodeHeader,
    GuidanceApplied,
    Observed,
    OutcomeReached,
    Record,
    SnapshotTaken,
)
from hpc.trajectories.sealed import StoredFile

KINDS: dict[str, type[Any]] = {
    "header": EpisodeHeader,
    "attempts": AttemptStarted,
    "alerts": AlertRaised,
    "guidance": GuidanceApplied,
    "contexts": ContextRewritten,
    "snapshots": SnapshotTaken,
    "outcome": OutcomeReached,
}
"""Tables whose rows are whole records, and what they are."""


class Source(Protocol):
    """What `hpc.trajectories.reader.Trajectory` reads from. Rows of steps count from 0."""

    @property
    def step_count(self) -> int: ...

    def table(self, name: str) -> NDArray[Any]:
        """A table of docs/trajectory-format.md: a structured array with one row for each record."""
        ...

    def of_kind(self, kind: str) -> list[Record]:
        """All records of a table of whole records (`KINDS`)."""
        ...

    def step(self, row: int) -> tuple[ActionTaken, Observed | None]: ...

    def token_parts(self, row: int) -> tuple[int, list[int], list[int]]:
        """Shared count, new prompt ids and answer ids of a step."""
        ...

    def records(self) -> Iterator[Record]:
        """All records in the order in which they were written."""
        ...

    def close(self) -> None: ...


class LoggedSource:
    """Records of a log, all in memory."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records
        self._steps: list[tuple[ActionTaken, Observed | None]] = []
        for record in records:
            if isinstance(record, ActionTaken):
                self._steps.append((record, None))
            elif isinstance(record, Observed):
                self._steps[-1] = (self._steps[-1][0], record)

    @property
    def step_count(self) -> int:
        return len(self._steps)

    @functools.cached_property
    def _tables(self) -> dict[str, NDArray[Any]]:
        tabulator = Tabulator()
        for record in self._records:
            tabulator.add(record)
        tabulator.finish()
        return tabulator.take().tables

    def table(self, name: str) -> NDArray[Any]:
        return self._tables[name]

    def of_kind(self, kind: str) -> list[Record]:
        return [record for record in self._records if isinstance(record, KINDS[kind])]

    def step(self, row: int) -> tuple[ActionTaken, Observed | None]:
        return self._steps[row]

    def token_parts(self, row: int) -> tuple[int, list[int], list[int]]:
        action = self._steps[row][0]
        return action.shared_tokens, action.new_prompt_ids, action.token_ids

    def records(self) -> Iterator[Record]:
        return iter(self._records)

    def close(self) -> None:
        pass


class SealedSource:
    """Records of a sealed file, read on demand."""

    def __init__(self, file: StoredFile) -> None:
        self._file = file

    @property
    def step_count(self) -> int:
        return len(self._file.table("steps"))

    def table(self, name: str) -> NDArray[Any]:
        return self._file.table(name)

    def of_kind(self, kind: str) -> list[Record]:
        return [self._file.record(kind, row) for row in range(len(self._file.table(kind)))]

    def step(self, row: int) -> tuple[ActionTaken, Observed | None]:
        return self._file.step(row)

    def token_parts(self, row: int) -> tuple[int, list[int], list[int]]:
        return self._file.token_parts(row)

    def records(self) -> Iterator[Record]:
        return self._file.records()

    def close(self) -> None:
        self._file.close()
