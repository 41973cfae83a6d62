"""The steps of one episode so far, and what all detectors ask of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import overload

from hpc.trajectories.records import StepView

THINK = "think"
"""The action that only writes down a thought: no detector counts it for or against a streak."""

_EXIT = re.compile(r"^\[exit (-?\d+)\]$")
_NUMBER = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+(?:\.\d+)?(?:e[+-]?\d+)?", re.IGNORECASE)


class History(Sequence[StepView]):
    """The steps in order; remembers where each new best progress or score was reached.

    Only a value above 0 can be a best: progress starts at 0.
    """

    def __init__(self, views: Iterable[StepView] = ()) -> None:
        self._views: list[StepView] = []
        self._progress = 0.0
        self._score = 0.0
        self._bests: list[tuple[int, float]] = []
        for view in views:
            self.append(view)

    def append(self, view: StepView) -> None:
        """Take in the next step."""
        self._views.append(view)
        progress, score = view.progress or 0.0, view.score or 0.0
        if progress > self._progress or score > self._score:
            self._progress = max(self._progress, progress)
            self._score = max(self._score, score)
            self._bests.append((len(self._views) - 1, max(self._progress, self._score / 100)))

    @overload
    def __getitem__(self, index: int) -> StepView: ...
    @overload
    def __getitem__(self, index: slice) -> list[StepView]: ...
    def __getitem__(self, index: int | slice) -> StepView | list[StepView]:
        return self._views[index]

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[StepView]:
        return iter(self._views)

    @property
    def bests(self) -> Sequence[tuple[int, float]]:
        """Every new best, oldest first: its position in the history and the value in [0, 1], which
        is the larger of best progress and best score / 100."""
        return self._bests

    @property
    def best(self) -> float:
        """The best so far, in [0, 1]; 0 before anything was measured."""
        return self._bests[-1][1] if self._bests else 0.0

    def since_best(self) -> int:
        """Position of the first step after the newest best; 0 when there is none."""
        return self._bests[-1][0] + 1 if self._bests else 0

    def last_steps(self, count: int) -> list[StepView]:
        """At most ``count`` last steps, newest first."""
        return self._views[: -count - 1 : -1]


def strength(count: float, limit: float) -> float:
    """Score of ``count`` signs against a limit: 0 at 0, 0.5 exactly at the limit, below 1 always."""
    return count / (count + limit) if count > 0 else 0.0


def scaled(value: float, limit: float) -> float:
    """Score of a share in [0, 1] against a limit in (0, 1]: 0.5 exactly at the limit, 1 at 1."""
    return 0.5 * value / limit if value <= limit else 0.5 + 0.5 * (value - limit) / (1 - limit)


def exit_code(observation: str) -> int | None:
    """Exit code of a finished command (the last line, ``[exit N]``); None where there is none."""
    match = _EXIT.match(observation.rstrip().rpartition("\n")[2])
    return int(match.group(1)) if match else None


@lru_cache(maxsize=4096)  # a window of steps is compared again at each step, and in a search for each limit
def mask(text: str) -> str:
    """``text`` with every number, address and hash replaced by ``#``."""
    return _NUMBER.sub("#", text)


def output_lines(observation: str) -> list[str]:
    """Lines of an observation that say something: neither blank nor the exit code."""
    lines = (line.strip() for line in observation.splitlines())
    return [line for line in lines if line and not _EXIT.match(line)]


def said(arguments: str) -> str:
    """What an action's arguments say in words: their text values, joined by a blank."""
    try:
        values = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments.strip()
    if not isinstance(values, dict):
        return arguments.strip()
    return " ".join(value.strip() for value in values.values() if isinstance(value, str))


def shorten(text: str, limit: int = 160) -> str:
    """One line of at most ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
