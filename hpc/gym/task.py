"""What the gym wants of a task. Implementations live in ``hpc.tasks``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class Task(Protocol):
    """One assignment with a hidden evaluator."""

    @property
    def id(self) -> str:
        """Unique name of this instance."""
        ...

    @property
    def family(self) -> str:
        """The kind of task."""
        ...

    @property
    def split(self) -> str:
        """The part of the data it belongs to, such as ``train`` or ``eval``."""
        ...

    @property
    def max_evaluations(self) -> int:
        """Submissions that the agent may make; the forced one at the end is not among them."""
        ...

    def prepare(self, workspace: Path) -> None:
        """Lay out the workspace. Called at every start: what the agent has changed must stay."""
        ...

    def description(self) -> str:
        """The assignment as the agent reads it."""
        ...

    async def start(self, workspace: Path, state: dict[str, Any], save: Callable[[], None]) -> dict[str, str]:
        """Start hidden services; the variables that sessions need to reach them.

        ``state`` is the task's own and survives the process: change it in place, then call ``save``,
        which returns once it is on disk.
        """
        ...

    async def evaluate(self, workspace: Path) -> tuple[float, str]:
        """The score in [0, 100] and a message for the agent, which must not give references away.

        A submission that is wrong or malformed scores 0 and says why; an exception means that the
        evaluator itself is broken.
        """
        ...

    def progress(self, observation_text: str) -> float | None:
        """The public progress in [0, 1] that an observation shows, if it shows any."""
        ...

    async def stop(self) -> None:
        """Stop hidden services."""
        ...
