"""How often the hidden evaluator was asked, and what it said: durable, so no crash gives a gift.

A submission is counted on disk before the evaluator runs. When the process dies in between, or
before the agent has seen the answer, the same submission is taken up again by the next process
instead of a new one being spent.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from hpc.core import files
from hpc.core.errors import ActionError, EvaluatorError, GymError, HpcError
from hpc.trajectories.records import Evaluation

log = logging.getLogger(__name__)

Evaluate = Callable[[], Awaitable[tuple[float, str]]]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of the evaluator; ``at`` is Unix time."""

    score: float
    message: str
    forced: bool
    left: int
    at: float

    def evaluation(self) -> Evaluation:
        return Evaluation(score=self.score, message=self.message, forced=self.forced, left=self.left)


class GymState(msgspec.Struct, kw_only=True):
    """What of an episode's environment survives its process, apart from the workspace."""

    task_id: str
    used: int = 0
    """Submissions made by the agent."""
    pending: bool = False
    """The latest of them has no verdict yet."""
    unseen: bool = False
    """The agent has not acted since the latest verdict, so it may not have seen it."""
    verdicts: list[Verdict] = []
    final: Verdict | None = None
    task: dict[str, Any] = {}
    """The task's own."""
    format: int = 1


class Submissions:
    """The evaluation counter of one episode, kept in a file.

    Raises:
        GymError: the file belongs to another task or is damaged.
    """

    def __init__(self, path: Path, *, task_id: str, limit: int) -> None:
        self._path = path
        self._limit = limit
        self.state = GymState(task_id=task_id)
        self._acted = False
        if path.exists():
            try:
                self.state = msgspec.convert(files.read_json(path), GymState)
            except (HpcError, msgspec.ValidationError) as error:
                raise GymError(f"{path} is damaged: {error}", "remove the episode to start it over") from error
            if self.state.task_id != task_id:
                raise GymError(f"{path} belongs to task {self.state.task_id}, not {task_id}", "use another run")

    @property
    def left(self) -> int:
        """Submissions that the agent still has."""
        return max(self._limit - self.state.used, 0)

    @property
    def best(self) -> float | None:
        """The highest score so far, the final one included."""
        scores = [verdict.score for verdict in self.state.verdicts]
        if self.state.final is not None:
            scores.append(self.state.final.score)
        return max(scores, default=None)

    def save(self) -> None:
        """Put the state on disk, the task's part included."""
        files.write_json(self._path, msgspec.to_builtins(self.state))

    def acting(self, *, evaluates: bool) -> None:
        """The agent acts, so it has seen the latest verdict; unless this is the first thing that
        happens in this process and ``evaluates``: then the verdict may have died with the last one."""
        if self.state.unseen and (self._acted or not evaluates):
            self.state.unseen = False
            self.save()
        self._acted = True

    async def submit(self, evaluate: Evaluate) -> Evaluation:
        """One submission of the agent.

        Raises:
            ActionError: none is left.
            EvaluatorError: the evaluator broke; the submission is not lost, the next call repeats it.
        """
        if self.state.unseen:
            return self.state.verdicts[-1].evaluation()
        if not self.state.pending:
            if self.left == 0:
                raise ActionError("no evaluations left")
            self.state.used += 1
            self.state.pending = True
            self.save()
        verdict = await self._ask(evaluate, forced=False)
        self.state.verdicts.append(verdict)
        self.state.pending = False
        self.state.unseen = True
        self.save()
        return verdict.evaluation()

    async def final(self, evaluate: Evaluate) -> Evaluation:
        """The forced evaluation at the end; asked for again it gives the same answer.

        Raises:
            EvaluatorError: the evaluator broke.
        """
        if self.state.final is None:
            self.state.final = await self._ask(evaluate, forced=True)
            self.save()
        return self.state.final.evaluation()

    async def _ask(self, evaluate: Evaluate, *, forced: bool) -> Verdict:
        try:
            score, message = await evaluate()
        except Exception as error:
            # what it says may give references away: it is for the log, not for the agent
            log.exception("the evaluator of task %s failed", self.state.task_id)
            raise EvaluatorError("the evaluator failed; this submission is not spent") from error
        if not (math.isfinite(score) and 0 <= score <= 100):
            log.error("the evaluator of task %s gave the score %r", self.state.task_id, score)
            raise EvaluatorError("the evaluator gave no valid score; this submission is not spent")
        return Verdict(score=float(score), message=message, forced=forced, left=self.left, at=time.time())
