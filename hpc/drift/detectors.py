"""All detectors by name.

A detector is a pure function of the steps so far. It returns None when there is no sign at all,
else a signal whose score says how strong the sign is: 0.5 exactly at the configured limit, more
beyond it, less before. Whether a signal becomes an alert is the monitor's business.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hpc.config.drift import DriftConfig
from hpc.drift.headway import Budget, budget_burn, failure_streak, no_progress
from hpc.drift.history import History
from hpc.drift.loops import error_streak, malformed, monitoring, repetition
from hpc.drift.opinion import judge, logprob
from hpc.trajectories.records import DriftSignal

LIMIT = 0.5
"""Score of a detector at its limit."""

Detect = Callable[[History], DriftSignal | None]


class Detector(msgspec.Struct, frozen=True):
    """One detector bound to its configuration, with its share in the drift score."""

    name: str
    weight: float
    detect: Detect


DRIFT_DETECTORS = (
    "repetition",
    "error_streak",
    "monitoring",
    "malformed",
    "no_progress",
    "failure_streak",
    "budget_burn",
    "logprob",
    "judge",
)
"""Names of the detectors of drift; each is a section of `hpc.config.drift.DriftConfig` as well."""


def drift_detectors(config: DriftConfig, budget: Budget) -> list[Detector]:
    """The detectors of drift that are switched on."""
    bound: dict[str, Detect] = {
        "repetition": lambda history: repetition(history, config.repetition),
        "error_streak": lambda history: error_streak(history, config.error_streak),
        "monitoring": lambda history: monitoring(history, config.monitoring),
        "malformed": lambda history: malformed(history, config.malformed),
        "no_progress": lambda history: no_progress(history, config.no_progress),
        "failure_streak": lambda history: failure_streak(history, config.failure_streak),
        "budget_burn": lambda history: budget_burn(history, config.budget_burn, budget),
        "logprob": lambda history: logprob(history, config.logprob),
        "judge": lambda history: judge(history, config.judge),
    }
    sections = {name: getattr(config, name) for name in DRIFT_DETECTORS}
    return [
        Detector(name, section.weight, bound[name])
        for name, section in sections.items()
        if config.enabled and section.enabled
    ]
