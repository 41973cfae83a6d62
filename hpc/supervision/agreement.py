"""How far labellers agree: Cohen's kappa with an interval. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

RESAMPLES = 1000


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Of two labellers over the steps that both have judged: the share of equal verdicts, kappa (None where
    both always say the same one thing), and its 95 % interval over resampled trajectories."""

    one: str
    other: str
    steps: int
    equal: float
    kappa: float | None
    low: float | None
    high: float | None


def kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Cohen's kappa of two verdicts on each item: (observed - expected) / (1 - expected) agreement, where
    expected is what two labellers with these habits would have by chance (Cohen 1960). None where
    chance alone explains everything, or there is nothing.
    """
    if not pairs:
        return None
    values = np.asarray(pairs, dtype=float)
    observed = float((values[:, 0] == values[:, 1]).mean())
    first, second = values.mean(axis=0)
    expected = float(first * second + (1 - first) * (1 - second))
    return None if expected == 1.0 else (observed - expected) / (1 - expected)


def agreement(
    one: str, other: str, verdicts: Sequence[tuple[Mapping[int, bool], Mapping[int, bool]]], *, seed: int = 0
) -> Agreement:
    """Agreement over many trajectories.

    Args:
        verdicts: of each trajectory what either says of its steps: step -> whether it is good.
    """
    by_trajectory = [
        [(mine[step], theirs[step]) for step in sorted(mine.keys() & theirs.keys())] for mine, theirs in verdicts
    ]
    by_trajectory = [pairs for pairs in by_trajectory if pairs]
    everything = [pair for pairs in by_trajectory for pair in pairs]
    if not everything:
        return Agreement(one=one, other=other, steps=0, equal=0.0, kappa=None, low=None, high=None)
    random = np.random.default_rng(seed)
    resampled = []
    for _ in range(RESAMPLES):
        chosen = random.integers(len(by_trajectory), size=len(by_trajectory))
        value = kappa([pair for number in chosen for pair in by_trajectory[number]])
        if value is not None:
            resampled.append(value)
    low, high = (float(value) for value in np.quantile(resampled, [0.025, 0.975])) if resampled else (None, None)
    return Agreement(
        one=one,
        other=other,
        steps=len(everything),
        equal=sum(first == second for first, second in everything) / len(everything),
        kappa=kappa(everything),
        low=low,
        high=high,
    )
