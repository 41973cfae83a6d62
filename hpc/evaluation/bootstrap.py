"""Intervals of figures over tasks and seeds: a hierarchical bootstrap. Pure.

Scores have two sources of chance: which tasks were asked, and how an episode of a task went (its seed).
A figure is a function of *means over tasks of the mean over their seeds*, so that a task counts the same
however many seeds it has. What is drawn again says what the interval speaks of:

``tasks``
    Tasks with replacement, each with all its seeds: the tasks stand for others like them. The seeds of a
    drawn task are not drawn again: the spread of the tasks' means holds their chance already, and drawing
    both counts it twice (Davison and Hinkley 1997, section 3.8, "strategy 1").
``seeds``
    The seeds within each task, the tasks as they are: this benchmark and no other. Deviations from a
    task's mean are drawn, stretched by sqrt(n / (n - 1)) for its n seeds, for they are taken from a mean
    that they made themselves (the same section). It is also what is left where there is one task.

Percentile intervals are too narrow for few units (Efron and Tibshirani 1993, section 13.3; Hesterberg
2015, "narrowness bias"). So the distances of the percentiles from the figure are stretched by t / z, the
quantiles of Student's t for the degrees of freedom and of the normal distribution, and over n tasks by
sqrt(n / (n - 1)) as well. Of a mean of normal values that gives the interval of the t test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

INTERVAL = 0.95
RESAMPLES = 10_000
FEWEST = 3
"""Tasks (or degrees of freedom of seeds, and one) below which there is no interval."""
_BLOCK = 1 << 22
"""Numbers drawn at a time."""
_COMPUTABLE = 0.99
"""Share of draws in which a figure must have a value, for the others are not left out at random."""

Level = Literal["tasks", "seeds"]
Floats = NDArray[np.float64]
Figure = Callable[[Floats], Floats]


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A figure with its 95 % interval.

    ``value`` is None without data or where the figure is not defined, ``low`` and ``high`` also where there
    are too few units. ``over`` names what was drawn (`Level`), ``units`` how many tasks or seeds that were.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    over: Level = "tasks"
    units: int = 0


def first(means: Floats) -> Floats:
    """The mean of the first column."""
    return means[..., 0]


def difference(means: Floats) -> Floats:
    """The mean of the first column less that of the second."""
    return means[..., 0] - means[..., 1]


def relative(means: Floats) -> Floats:
    """The `difference` as a share of the second column's mean; NaN unless that is positive."""
    one, other = means[..., 0], means[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(other > 0, (one - other) / other, np.nan)


def estimate(
    groups: Sequence[Floats],
    figure: Figure = first,
    *,
    over: Level = "tasks",
    bounds: tuple[float, float] = (-np.inf, np.inf),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """A figure and its interval.

    Args:
        groups: for each task an array (seeds, columns) of finite values; columns of a row belong together
            (the same seed under two models) and are drawn together. Tasks without a row do not count.
        figure: from means (…, columns) to the figure (…).
        over: what to draw; with one task it is always the seeds.
        bounds: of what is measured; the interval is cut there.
        seed: of the draws; the same data and seed give the same interval.
        resamples: how many draws.
    """
    groups = [group for group in groups if len(group)]
    if not groups:
        return Estimate(over=over)
    if len(groups) == 1:
        over = "seeds"
    means = np.stack([group.mean(axis=0) for group in groups])
    value = float(figure(means.mean(axis=0)))
    units = len(groups) if over == "tasks" else sum(len(group) for group in groups)
    if np.isnan(value):
        return Estimate(over=over, units=units)
    freedom = len(groups) - 1 if over == "tasks" else sum(len(group) - 1 for group in groups)
    alone = over == "seeds" and any(len(group) < 2 for group in groups)  # its chance cannot be known
    if freedom < FEWEST - 1 or alone:
        return Estimate(value=value, over=over, units=units)
    random = np.random.default_rng(seed)
    draw = _draw_rows(means, resamples, random) if over == "tasks" else _draw_seeds(groups, resamples, random)
    drawn = figure(draw)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < _COMPUTABLE * resamples:
        return Estimate(value=value, over=over, units=units)
    tail = (1 - INTERVAL) / 2
    stretch = float(stdtrit(freedom, 1 - tail) / ndtri(1 - tail))
    if over == "tasks":
        stretch *= float(np.sqrt(len(groups) / (len(groups) - 1)))
    low, high = value + stretch * (np.quantile(drawn, [tail, 1 - tail]) - value)
    return Estimate(
        value=value,
        low=float(np.clip(low, *bounds)),
        high=float(np.clip(high, *bounds)),
        over=over,
        units=units,
    )


def _draw_rows(rows: Floats, resamples: int, random: np.random.Generator) -> Floats:
    """(n, columns) values -> (resamples, columns): means of n rows drawn with replacement."""
    count = len(rows)
    block = max(1, _BLOCK // rows.size)
    starts = range(0, resamples, block)
    sizes = [(min(block, resamples - start), count) for start in starts]
    return np.concatenate([rows[random.integers(count, size=size)].mean(axis=1) for size in sizes])


def _draw_seeds(groups: Sequence[Floats], resamples: int, random: np.random.Generator) -> Floats:
    """The means over tasks (resamples, columns) with the seeds of each task drawn again."""
    total = np.zeros((resamples, groups[0].shape[1]))
    for group in groups:
        count, mean = len(group), group.mean(axis=0)
        deviations = (group - mean) * np.sqrt(count / (count - 1))
        total += mean + _draw_rows(deviations, resamples, random)
    return total / len(groups)
