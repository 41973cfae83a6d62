"""What became of the rounds of GRPO: one small file each, and what they show together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from scipy.special import stdtrit

from hpc.core import files
from hpc.core.errors import HpcError
from hpc.evaluation.bootstrap import FEWEST, INTERVAL, Estimate, estimate


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
    reward: Estimate
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


def mean_of_groups(rewards: Mapping[str, Sequence[float]]) -> Estimate:
    """The mean reward, and its interval over groups: rollouts of one task are not independent."""
    return estimate([np.array(group)[:, None] for group in rewards.values()], bounds=(0.0, 1.0))


def gain(rounds: Sequence[Round], *, share: float = 0.25) -> Estimate | None:
    """How much the mean reward of the last quarter of rounds is above that of the first; None below four rounds.

    The interval is Welch's, of the means of groups: other tasks were played in each quarter, so nothing is paired.
    """
    part = int(len(rounds) * share)
    if part < 1:
        return None
    first, last = (
        np.array([np.mean(group) for each in chosen for group in each.rewards.values()])
        for chosen in (rounds[:part], rounds[-part:])
    )
    value = float(last.mean() - first.mean())
    units = len(first) + len(last)
    if min(len(first), len(last)) < FEWEST:
        return Estimate(value=value, units=units)
    errors = [values.var(ddof=1) / len(values) for values in (first, last)]
    total = sum(errors)
    freedom = total**2 / sum(e**2 / (len(v) - 1) for e, v in zip(errors, (first, last), strict=True)) if total else 1.0
    reach = float(stdtrit(freedom, (1 + INTERVAL) / 2) * np.sqrt(total))
    return Estimate(value=value, low=value - reach, high=value + reach, units=units)


def superseded(rounds: Sequence[Round], *, keep: int) -> list[str]:
    """The updates whose checkpoint and weights may go: neither among the newest ``keep``, nor those that the best
    rewards came from."""
    best = max(rounds, key=lambda each: each.reward.value or 0.0)
    updated = [each for each in rounds if each.update is not None]
    return [str(each.update) for each in updated[:-keep] if each.export != best.weights]


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
