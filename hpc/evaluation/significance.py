"""Tests of paired episodes, and proportions. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from scipy.special import bdtr, ndtr, ndtri

EXACT_UP_TO = 200
"""Differences up to which the signed-rank test is exact."""


class Proportion(msgspec.Struct, frozen=True, kw_only=True):
    """``count`` of ``of`` and the 95 % interval of the share; all None of nothing."""

    count: int
    of: int
    value: float | None = None
    low: float | None = None
    high: float | None = None


class McNemar(msgspec.Struct, frozen=True, kw_only=True):
    """Pairs in which only the one (``gained``) or only the other (``lost``) succeeded, and the two-sided p."""

    gained: int
    lost: int
    p: float


class SignedRank(msgspec.Struct, frozen=True, kw_only=True):
    """Wilcoxon's test: ``statistic`` is the sum of the ranks of positive differences, ``used`` of them are
    not zero; ``p`` is two-sided, None where all are zero."""

    statistic: float
    used: int
    zeros: int
    p: float | None


def wilson(count: int, of: int, *, interval: float = 0.95) -> Proportion:
    """The score interval of a proportion (Wilson 1927): all p with |count/of - p| <= z sqrt(p (1 - p) / of).

    It takes the episodes as independent, which several seeds of one task are not.
    """
    if not of:
        return Proportion(count=count, of=of)
    z = float(ndtri((1 + interval) / 2))
    share, weight = count / of, z * z / of
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / of + weight / (4 * of)) / (1 + weight)
    # at the ends the formula is exact only up to rounding
    low = 0.0 if count == 0 else middle - half
    high = 1.0 if count == of else middle + half
    return Proportion(count=count, of=of, value=share, low=low, high=high)


def mcnemar(gained: int, lost: int) -> McNemar:
    """The exact test of McNemar (1947): were both equally good, each discordant pair would fall to either
    side with probability 1/2. Pairs in which both succeed or both fail say nothing."""
    discordant = gained + lost
    p = min(1.0, 2 * float(bdtr(min(gained, lost), discordant, 0.5))) if discordant else 1.0
    return McNemar(gained=gained, lost=lost, p=p)


def signed_rank(differences: Sequence[float]) -> SignedRank:
    """The signed-rank test of paired differences (Wilcoxon 1945), two-sided.

    Zeros are left out and equal absolute values share their mean rank. Up to `EXACT_UP_TO` differences the
    distribution is that of all 2^n signs given those ranks, ties included; beyond it the normal one with
    the ties' variance and without a correction for continuity.

    Args:
        differences: finite; one for each independent unit.
    """
    values = np.asarray(differences, dtype=np.float64)
    used = values[values != 0]
    zeros = len(values) - len(used)
    if not len(used):
        return SignedRank(statistic=0.0, used=0, zeros=zeros, p=None)
    doubled = _doubled_ranks(np.abs(used))
    plus = int(doubled[used > 0].sum())
    total = int(doubled.sum())
    if len(used) <= EXACT_UP_TO:
        ways = np.zeros(total + 1)
        ways[0] = 1.0
        for rank in doubled:
            ways[rank:] = (ways[rank:] + ways[: len(ways) - rank]) / 2
            ways[:rank] /= 2
        p = min(1.0, 2 * float(ways[: min(plus, total - plus) + 1].sum()))
    else:
        deviation = math.sqrt(float((doubled.astype(np.float64) ** 2).sum())) / 2
        p = 2 * float(ndtr(-abs(plus - total / 2) / deviation))
    return SignedRank(statistic=plus / 2, used=len(used), zeros=zeros, p=p)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for how many they are (Holm 1979), in the same order.

    The i-th smallest of m becomes the largest of (m - j + 1) p_j over j <= i, at most 1. None stays None and
    does not count.
    """
    order = sorted((value, place) for place, value in enumerate(values) if value is not None)
    adjusted: list[float | None] = [None] * len(values)
    largest = 0.0
    for number, (value, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - number) * value))
        adjusted[place] = largest
    return adjusted


def _doubled_ranks(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Twice the rank of each value, from 1; equal ones share the mean of theirs, which doubled is whole."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (2 * last - counts + 1)[place]
