"""Choosing the limits of detectors on one part of the trajectories, to report on the other.

Random search over grids (Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR
2012). Limits that were chosen on some trajectories look better there than they are: the figures to
believe are those of the trajectories that the search never saw.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from hpc.config.drift import DriftConfig
from hpc.drift.cases import Case
from hpc.drift.detectors import DRIFT_DETECTORS
from hpc.drift.metrics import Quality, Tally, Window, f_beta, quality, tally
from hpc.drift.replay import baselines, tallies

Space = Mapping[str, Sequence[Any]]
"""A dotted key of `DriftConfig` -> the values to try."""

GRIDS: dict[str, tuple[Any, ...]] = {
    "repetition.times": (2, 3, 4, 5, 6),
    "repetition.window": (6, 12, 24, 48),
    "error_streak.errors": (1, 2, 3, 4, 5, 7, 10),
    "monitoring.polls": (3, 5, 7, 10, 15, 20, 30),
    "malformed.answers": (1, 2, 3, 4, 5, 7),
    "no_progress.steps": (5, 10, 20, 40, 75, 150, 300),
    "failure_streak.attempts": (2, 3, 4, 5, 6),
    "failure_streak.window": (12, 24, 40, 80),
    "budget_burn.lead": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "logprob.window": (4, 8, 16),
    "logprob.deviations": (2.0, 3.0, 4.0, 6.0, 8.0),
    "judge.confidence": (0.3, 0.5, 0.6, 0.7, 0.8, 0.9),
    "combined_at": (None, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95),
    "release": (0.1, 0.25, 0.4, 0.5),
    "repeat_after": (None, 4, 8, 16, 32),
    "cooldown": (0, 2, 5, 10, 20),
}
"""Values tried for each limit unless the caller names others."""
_SWITCH = (True, True, True, False)
"""A detector is left out of one try in four: the best set may be a smaller one."""


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """What is best: the highest recall within ``budget`` alerts per 100 steps, or the highest F-beta."""

    kind: Literal["recall", "f-beta"] = "recall"
    budget: float = 5.0
    beta: float = 1.0

    def rank(self, found: Quality) -> tuple[float, ...]:
        """Larger is better; ties go to precision, then to fewer alerts."""
        rate = found.alerts_per_100.value or 0.0
        precision, recall = found.precision.value or 0.0, found.recall.value or 0.0
        if self.kind == "f-beta":
            return f_beta(precision, recall, self.beta), precision, -rate
        if rate > self.budget:
            return -rate, 0.0, 0.0
        return recall, precision, -rate


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the report: what was measured on which part."""

    part: Literal["choosing", "reporting"]
    name: str
    quality: Quality


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a search: the best configuration, where it differs from the start, and figures."""

    config: DriftConfig
    changed: dict[str, Any]
    tried: int
    lines: list[Line]


def split(cases: Sequence[Case], *, share: float, seed: int) -> tuple[list[Case], list[Case]]:
    """The cases to choose on and those to report on. A hash of the task decides, so that episodes of
    one task stay together and a case never changes sides because others came or went.

    Args:
        cases: the trajectories.
        share: of the tasks to choose on, about, in (0, 1).
        seed: another one gives another split.
    """
    choosing = [case for case in cases if _place(case.task, seed) < share]
    return choosing, [case for case in cases if _place(case.task, seed) >= share]


def space_of(config: DriftConfig) -> dict[str, tuple[Any, ...]]:
    """The limits of the detectors that are switched on, their switches, and the monitor's own limits."""
    off = {name for name in DRIFT_DETECTORS if not getattr(config, name).enabled}
    limits = {key: values for key, values in GRIDS.items() if key.partition(".")[0] not in off}
    return limits | {f"{name}.enabled": _SWITCH for name in DRIFT_DETECTORS if name not in off}


def tune(
    choosing: Sequence[Case],
    reporting: Sequence[Case],
    start: DriftConfig,
    window: Window,
    objective: Objective,
    *,
    space: Space,
    trials: int,
    resamples: int = 1000,
    seed: int = 0,
    on_trial: Callable[[], None] = lambda: None,
) -> Tuned:
    """Search, then measure start, best and baselines on both parts.

    Args:
        choosing: the only trajectories that the search sees.
        reporting: those whose figures count.
        start: the configuration to begin with; it wins ties.
        window: what counts as meeting a mistake.
        objective: what is best.
        space: the values to try; a grid of at most ``trials`` combinations is tried whole.
        trials: how many configurations are tried at most, ``start`` not counted.
        resamples: bootstrap draws of the report.
        seed: of the search and of those draws.
        on_trial: called after each try, for a progress bar.
    """
    best, best_rank, changed = start, objective.rank(_plain(tallies(choosing, start, window))), dict[str, Any]()
    tried = 0
    for values in _drawn(space, trials, seed):
        candidate = with_values(start, values)
        if candidate is not None:
            rank = objective.rank(_plain(tallies(choosing, candidate, window)))
            if rank > best_rank:
                best, best_rank, changed = candidate, rank, values
            tried += 1
        on_trial()
    once = _best_once(choosing, window, objective)
    lines: list[Line] = []

    def add(part: Literal["choosing", "reporting"], name: str, counted: Sequence[Tally]) -> None:
        lines.append(Line(part=part, name=name, quality=quality(counted, resamples=resamples, seed=seed)))

    parts: tuple[tuple[Literal["choosing", "reporting"], Sequence[Case]], ...] = (
        ("choosing", choosing),
        ("reporting", reporting),
    )
    for part, cases in parts:
        add(part, "start", tallies(cases, start, window))
        measured = tallies(cases, best, window)
        add(part, "tuned", measured)
        for name, counted in baselines(cases, measured, window):
            add(part, name, counted)
        add(part, f"once, at step {once}", _once(cases, once, window))
    return Tuned(config=best, changed=_differences(start, changed), tried=tried, lines=lines)


def with_values(config: DriftConfig, values: Mapping[str, Any]) -> DriftConfig | None:
    """The configuration with other values at dotted keys; None where they do not fit together."""
    try:
        return _changed(config, values)
    except msgspec.ValidationError:
        return None


def problem_with(config: DriftConfig, key: str, value: Any) -> str:
    """Why the configuration does not take a value at a dotted key; empty when it does."""
    try:
        _changed(config, {key: value})
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        return f"no such key: {error}" if isinstance(error, KeyError) else str(error)
    return ""


def _changed(config: DriftConfig, values: Mapping[str, Any]) -> DriftConfig:
    plain: dict[str, Any] = msgspec.to_builtins(config)
    for key, value in values.items():
        section, _, field = key.rpartition(".")
        (plain[section] if section else plain)[field] = value
    return msgspec.convert(plain, DriftConfig)


def _drawn(space: Space, trials: int, seed: int) -> Iterator[dict[str, Any]]:
    """The whole grid where it is small enough, else random points of it, each at most once."""
    keys = list(space)
    if math.prod(len(space[key]) for key in keys) <= trials:
        for point in itertools.product(*space.values()):
            yield dict(zip(keys, point, strict=True))
        return
    rng = random.Random(seed)
    seen: set[tuple[Any, ...]] = set()
    for _ in range(trials):
        drawn = tuple(rng.choice(space[key]) for key in keys)
        if drawn not in seen:
            seen.add(drawn)
            yield dict(zip(keys, drawn, strict=True))


def _best_once(cases: Sequence[Case], window: Window, objective: Objective) -> int:
    """The step K at which one alert in every trajectory would have been best: what knowing where
    mistakes usually lie is worth."""
    longest = max((len(case.views) for case in cases), default=1)
    return max(range(1, longest + 1), key=lambda step: (objective.rank(_plain(_once(cases, step, window))), -step))


def _once(cases: Sequence[Case], step: int, window: Window) -> list[Tally]:
    return [tally(len(case.views), case.mistakes, [step] if step <= len(case.views) else [], window) for case in cases]


def _plain(counted: Sequence[Tally]) -> Quality:
    return quality(counted, resamples=0)


def _differences(start: DriftConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that differ from the start, without limits of detectors that are left out."""
    plain: dict[str, Any] = msgspec.to_builtins(start)
    changed = {}
    for key, value in values.items():
        section, _, field = key.rpartition(".")
        left_out = field != "enabled" and values.get(f"{section}.enabled") is False
        if value != (plain[section] if section else plain)[field] and not left_out:
            changed[key] = value
    return changed


def _place(task: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{task}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
