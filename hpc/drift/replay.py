"""Replaying detectors over stored trajectories: the same monitor as live, and what it is worth.

A replay shows the detectors what they would have seen live. It cannot show what an annotator's reply
would have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from hpc.config.drift import DriftConfig
from hpc.drift.cases import Case
from hpc.drift.detectors import DRIFT_DETECTORS
from hpc.drift.metrics import Quality, Tally, Window, chance, quality, stride, tally
from hpc.drift.monitor import DriftMonitor
from hpc.trajectories.records import DriftSignal

SET = "all detectors"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a study: a detector alone, the whole set, or a baseline at the set's rate."""

    name: str
    kind: Literal["detector", "set", "baseline"]
    quality: Quality


def replay(case: Case, config: DriftConfig) -> list[DriftSignal]:
    """The drift alerts that a monitor with this configuration raises over the trajectory, in order.
    The agent's own requests and notices of progress are none."""
    monitor = DriftMonitor(config, max_steps=case.max_steps, max_working_seconds=case.max_working_seconds)
    signals = [monitor.observe(view) for view in case.views]
    return [signal for signal in signals if signal is not None and signal.priority == "drift"]


def switched_on(config: DriftConfig) -> list[str]:
    """Names of the detectors that look."""
    return [name for name in DRIFT_DETECTORS if config.enabled and getattr(config, name).enabled]


def alone(config: DriftConfig, name: str) -> DriftConfig:
    """The configuration with one detector only, under the same cool-down and hysteresis."""
    off = {other: replace(getattr(config, other), enabled=False) for other in DRIFT_DETECTORS if other != name}
    return replace(config, combined_at=None, **off)


def tallies(cases: Sequence[Case], config: DriftConfig, window: Window) -> list[Tally]:
    """What each trajectory counts under a configuration."""
    return [
        tally(len(case.views), case.mistakes, [signal.step for signal in replay(case, config)], window)
        for case in cases
    ]


def study(
    cases: Sequence[Case],
    config: DriftConfig,
    window: Window,
    *,
    resamples: int = 1000,
    seed: int = 0,
    on_row: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Measure each detector alone, the set, and the two baselines at the set's rate of alerts.

    Args:
        cases: the trajectories.
        config: the detectors; those that are switched off have no row.
        window: what counts as meeting a mistake.
        resamples: see `hpc.drift.metrics.quality`; so ``seed``.
        on_row: called after each row, for a progress bar.
    """
    rows: list[Row] = []

    def add(name: str, kind: Literal["detector", "set", "baseline"], counted: list[Tally]) -> None:
        rows.append(Row(name=name, kind=kind, quality=quality(counted, resamples=resamples, seed=seed)))
        on_row()

    for name in switched_on(config):
        add(name, "detector", tallies(cases, alone(config, name), window))
    whole = tallies(cases, config, window)
    add(SET, "set", whole)
    for name, counted in baselines(cases, whole, window):
        add(name, "baseline", counted)
    return rows


def baselines(cases: Sequence[Case], measured: Sequence[Tally], window: Window) -> list[tuple[str, list[Tally]]]:
    """Two ways to alert that look at nothing, raising as many alerts as were ``measured``: every N
    steps, and at random (expected counts)."""
    alerts = sum(each.alerts for each in measured)
    steps = sum(len(case.views) for case in cases)
    every = stride([len(case.views) for case in cases], alerts)
    return [
        (
            f"every {every} steps",
            [tally(len(case.views), case.mistakes, range(every, len(case.views) + 1, every), window) for case in cases],
        ),
        (
            "random, same rate",
            [chance(len(case.views), case.mistakes, alerts / steps if steps else 0.0, window) for case in cases],
        ),
    ]
