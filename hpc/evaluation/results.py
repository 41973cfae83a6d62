"""What evaluated episodes came to, and which of them cannot count and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from hpc.rundir import RunDir
from hpc.trajectories.index import DAMAGED, Entry, read_index

FigureName = Literal["score", "best", "success", "steps"]
Unscored = Literal["leave-out", "zero"]
SUCCESS_AT = 80.0
"""Score of the reference solution of a task, in [0, 100]: what counts as success unless something else is said."""
_COPIED = "branched off another episode"


class Key(NamedTuple):
    """What makes episodes of different runs a pair: the same task under the same seed."""

    family: str
    task: str
    seed: int

    def __str__(self) -> str:
        return f"{self.family}/{self.task} seed {self.seed}"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One episode that counts.

    ``score`` is that of the last submission, ``best`` the highest of all, both in [0, 100]. ``working_seconds``
    is without queue time, ``wall_seconds`` from beginning to end with it. ``read_tokens`` are those of all
    prompts, ``answer_tokens`` what was sampled, ``cost`` US dollars; None: not known.
    """

    key: Key
    status: str
    score: float
    best: float
    steps: int
    working_seconds: float
    wall_seconds: float | None
    read_tokens: int
    answer_tokens: int
    cost: float | None

    def figure(self, name: FigureName, success_at: float = SUCCESS_AT) -> float:
        """The value of a figure; success is 1 or 0."""
        if name == "success":
            return float(self.score >= success_at)
        return float(getattr(self, name))


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """An episode that cannot count. ``key`` is None where even that is not known."""

    episode: str
    reason: str
    key: Key | None = None


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """The episodes of one run."""

    name: str
    results: list[Result]
    left_out: list[LeftOut]

    @property
    def reasons(self) -> dict[str, int]:
        """How many episodes were left out, by reason."""
        return dict(Counter(each.reason for each in self.left_out).most_common())


def read_arm(run: RunDir, *, unscored: Unscored = "leave-out") -> Arm:
    """The episodes of a run, from its index.

    Raises:
        HpcError: its manifest cannot be read.
    """
    launched = range(int(run.read_manifest().get("episodes", 0)))
    return arm_of(run.name, read_index(run), launched, unscored=unscored)


def arm_of(
    name: str, entries: Sequence[Entry], launched: Sequence[int] = (), *, unscored: Unscored = "leave-out"
) -> Arm:
    """Sort the entries of a run into those that count and those that do not. Pure.

    Args:
        entries: of all its trajectories.
        launched: the indices that there should be.
        unscored: what becomes of an episode that is over without a score (or with one that is no finite
            number): it is left out, or counts 0.
    """
    results: dict[Key, Result] = {}
    left: list[LeftOut] = []
    for entry in entries:
        key = Key(entry.task_family, entry.task, entry.seed) if entry.status != DAMAGED else None
        reason = _reason(entry, unscored)
        if not reason and key in results:
            reason = "the same task and seed once more"
        if reason or key is None:
            left.append(LeftOut(episode=_name(name, entry.index), reason=reason, key=key))
        else:
            results[key] = _result(entry, key)
    there = {entry.index for entry in entries}
    left += [LeftOut(episode=_name(name, index), reason="not started") for index in launched if index not in there]
    return Arm(name=name, results=[results[key] for key in sorted(results)], left_out=left)


def _reason(entry: Entry, unscored: Unscored) -> str:
    """Why an episode cannot count; empty: it does."""
    if entry.status == DAMAGED:
        return "damaged"
    if entry.status == "running":
        return "not over"
    if entry.branched_from:  # a copy of its beginning, so no independent one
        return _COPIED
    if _number(entry.final_score) is None and unscored == "leave-out":
        return f"no score ({entry.status})"
    return ""


def _result(entry: Entry, key: Key) -> Result:
    score = _number(entry.final_score)
    best = _number(entry.best_score)
    last = 0.0 if score is None else score
    return Result(
        key=key,
        status=entry.status,
        score=last,
        best=last if best is None else max(best, last),
        steps=entry.steps,
        working_seconds=entry.working_seconds,
        wall_seconds=None if entry.ended_at is None else entry.ended_at - entry.created_at,
        read_tokens=entry.prompt_tokens,
        answer_tokens=entry.answer_tokens,
        cost=_number(entry.cost),
    )


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _name(run: str, index: int) -> str:
    return f"{run}/{index}"
