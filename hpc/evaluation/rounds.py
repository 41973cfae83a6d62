"""What became of the rounds of GRPO: one small file each, and what they show together. Without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from hpc.core import files
from hpc.core.errors import HpcError

DRAWS = 2000
LEVEL = 0.95


class Interval(msgspec.Struct, frozen=True):
    """A mean and its bootstrap interval at `LEVEL`."""

    mean: float
    low: float
    high: float


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One round: the version of the weights that played, what they scored, and what the update was like.

    ``reward`` is in [0, 1]. ``used`` counts episodes whose group taught something. ``ratio`` and ``gap``
    (distance of trainer and engine, natural logarithm) are means over tokens at the first step of the update, ``kl``
    and ``clipped`` at its last. ``update`` is None where every group's rewards were all equal: nothing
    was learned, and the next round plays with the same weights.
    """

    number: int
    version: str
    weights: str
    rollouts: str
    reward: Interval
    episodes: int
    used: int
    stale: int
    groups: int
    rewards: dict[str, list[float]]
    trained_tokens: int = 0
    update: str | None = None
    export: str | None = None
    steps: int = 0
    ratio: float | None = None
    gap: float | None = None
    kl: float | None = None
    clipped: float | None = None
    grad_norm: float | None = None
    seconds: dict[str, float] = {}


def mean_of_groups(rewards: Mapping[str, Sequence[float]], *, seed: int = 0) -> Interval:
    """The mean reward, and its interval by drawing whole groups: rollouts of one task are not independent.

    Raises:
        ValueError: there is no group.
    """
    if not rewards:
        raise ValueError("no group of rollouts")
    sums = np.array([sum(group) for group in rewards.values()])
    counts = np.array([len(group) for group in rewards.values()])
    drawn = np.random.default_rng(seed).integers(0, len(sums), (DRAWS, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def gain(rounds: Sequence[Round], *, share: float = 0.25, seed: int = 0) -> Interval | None:
    """How much the mean reward of the last quarter of rounds is above that of the first, with the interval by
    drawing groups within each; None below four rounds."""
    part = int(len(rounds) * share)
    if part < 1:
        return None
    generator = np.random.default_rng(seed)
    first, last = (
        np.array([np.mean(group) for each in chosen for group in each.rewards.values()])
        for chosen in (rounds[:part], rounds[-part:])
    )
    draws = [generator.choice(values, (DRAWS, len(values))).mean(1) for values in (first, last)]
    low, high = np.quantile(draws[1] - draws[0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(last.mean() - first.mean()), float(low), float(high))


def round_path(folder: Path, number: int) -> Path:
    """Where a round is written down once it is over."""
    return folder / f"{number:04d}.json"


def write_round(folder: Path, done: Round) -> None:
    """Write a round down: from then on it is never made again."""
    files.write_json(round_path(folder, done.number), msgspec.to_builtins(done))


def read_rounds(folder: Path) -> list[Round]:
    """The rounds that are over, in order, up to the first one missing.

    Raises:
        HpcError: a file is damaged.
    """
    found: list[Round] = []
    while (path := round_path(folder, len(found) + 1)).exists():
        try:
            found.append(msgspec.convert(files.read_json(path), Round))
        except msgspec.ValidationError as error:
            raise HpcError(f"{path} is damaged: {error}", "remove it: the round is then counted again") from error
    return found
