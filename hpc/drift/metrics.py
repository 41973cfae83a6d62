"""How good alerts are against labelled mistakes: counts of each trajectory, ratios, intervals. Pure.

An alert at step a *meets* a mistake at step m when m - before <= a <= m + after (`Window`). Over the
labelled trajectories::

    precision         alerts that meet a mistake / alerts
    recall            mistakes met by an alert / mistakes
    lead time         mean over the met mistakes of m - a, a being the first alert that meets m:
                      steps by which the alert came before (positive) or after (negative) the mistake
    alerts/100 steps  100 * alerts / steps, over all trajectories, labelled or not

All are ratios of sums over trajectories. Their intervals are percentile bootstraps (Efron 1979) that
resample whole trajectories, for the steps of one are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

INTERVAL = 0.95


class Window(msgspec.Struct, frozen=True):
    """Steps before and after a mistake in which an alert counts as meeting it."""

    before: int = 0
    after: int = 10

    def steps(self, mistake: int, last: int) -> range:
        """The steps of an episode of ``last`` steps at which an alert meets ``mistake``."""
        return range(max(1, mistake - self.before), min(last, mistake + self.after) + 1)


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What one trajectory adds to the sums; fractions where alerts are expected ones. All but
    ``steps`` and ``alerts`` are 0 for a trajectory that nobody labelled."""

    steps: float = 0.0
    alerts: float = 0.0
    judged: float = 0.0
    """Alerts of a labelled trajectory."""
    true: float = 0.0
    """Those that meet a mistake."""
    mistakes: float = 0.0
    met: float = 0.0
    lead: float = 0.0
    """Sum of the lead times of the met mistakes, steps."""
    labelled: float = 0.0
    """1 for a trajectory with a label."""


class Estimate(msgspec.Struct, frozen=True):
    """A figure with its 95 % interval; None where it cannot be computed (nothing to divide by)."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one detector, set of detectors or baseline over some trajectories."""

    precision: Estimate
    recall: Estimate
    lead: Estimate
    """Steps."""
    alerts_per_100: Estimate
    alerts: float
    mistakes: int
    labelled: int
    """Trajectories with a label."""
    trajectories: int
    steps: int


def tally(steps: int, mistakes: Sequence[int] | None, alerts: Sequence[int], window: Window) -> Tally:
    """Count one trajectory.

    Args:
        steps: how many it has.
        mistakes: the labelled steps, or None when nobody labelled it.
        alerts: the steps of its alerts, rising.
        window: what counts as meeting a mistake.
    """
    if mistakes is None:
        return Tally(steps=steps, alerts=len(alerts))
    windows = [window.steps(mistake, steps) for mistake in mistakes]
    first = [next((alert for alert in alerts if alert in span), None) for span in windows]
    return Tally(
        steps=steps,
        alerts=len(alerts),
        judged=len(alerts),
        true=sum(any(alert in span for span in windows) for alert in alerts),
        mistakes=len(mistakes),
        labelled=1,
        met=sum(alert is not None for alert in first),
        lead=sum(m - alert for m, alert in zip(mistakes, first, strict=True) if alert is not None),
    )


def chance(steps: int, mistakes: Sequence[int] | None, rate: float, window: Window) -> Tally:
    """The expected count when each step alerts at random with probability ``rate``, in closed form."""
    expected = rate * steps
    if mistakes is None:
        return Tally(steps=steps, alerts=expected)
    windows = [window.steps(mistake, steps) for mistake in mistakes]
    return Tally(
        steps=steps,
        alerts=expected,
        judged=expected,
        true=rate * len(set().union(*windows)),
        mistakes=len(mistakes),
        labelled=1,
        met=sum(1 - (1 - rate) ** len(span) for span in windows),
        lead=sum(
            (mistake - step) * rate * (1 - rate) ** place
            for mistake, span in zip(mistakes, windows, strict=True)
            for place, step in enumerate(span)
        ),
    )


def stride(lengths: Sequence[int], alerts: float) -> int:
    """The N with which "alert every N steps" raises as nearly as possible so many alerts in
    trajectories of these lengths; of two, the larger (fewer alerts)."""
    longest = max(lengths, default=1)
    return min(range(longest + 1, 0, -1), key=lambda n: abs(sum(length // n for length in lengths) - alerts))


def quality(tallies: Sequence[Tally], *, resamples: int = 1000, seed: int = 0) -> Quality:
    """Figures with bootstrap intervals over trajectories.

    Args:
        tallies: one for each trajectory.
        resamples: how often trajectories are drawn again with replacement; 0: no intervals. Draws in
            which a figure has nothing to divide by are left out of its interval.
        seed: of those draws.
    """
    counts = np.array([msgspec.structs.astuple(each) for each in tallies], dtype=np.float64).reshape(
        -1, len(Tally.__struct_fields__)
    )
    total = _figures(counts.sum(axis=0, keepdims=True))
    drawn = None
    if resamples and len(counts):
        draws = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), resamples)
        drawn = _figures(draws @ counts)
    precision, recall, lead, rate = (
        _estimate(total[0, column], None if drawn is None else drawn[:, column]) for column in range(4)
    )
    return Quality(
        precision=precision,
        recall=recall,
        lead=lead,
        alerts_per_100=rate,
        alerts=float(counts[:, 1].sum()),
        mistakes=int(counts[:, 4].sum()),
        labelled=int(counts[:, 7].sum()),
        trajectories=len(counts),
        steps=int(counts[:, 0].sum()),
    )


def f_beta(precision: float | None, recall: float | None, beta: float) -> float:
    """F-beta (van Rijsbergen 1979): recall counts ``beta`` times as much as precision; 0 where nothing
    was met."""
    if not precision or not recall:
        return 0.0
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def _figures(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows, fields of `Tally`) sums -> (rows, 4): precision, recall, lead, alerts per 100 steps; NaN for 0 / 0."""
    steps, alerts, judged, true, mistakes, met, lead, _ = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([true / judged, met / mistakes, lead / met, 100 * alerts / steps], axis=1)


def _estimate(value: float, drawn: NDArray[np.float64] | None) -> Estimate:
    if np.isnan(value):
        return Estimate(None)
    drawn = drawn[~np.isnan(drawn)] if drawn is not None else None
    if drawn is None or not len(drawn):
        return Estimate(float(value))
    low, high = np.quantile(drawn, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return Estimate(float(value), float(low), float(high))
