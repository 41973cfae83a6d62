"""Whether a run is better than a baseline by enough: yes, no, or it cannot be told. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from hpc.evaluation.bootstrap import Estimate
from hpc.evaluation.pairs import Comparison

MIN_PAIRS = 10
MAX_UNPAIRED = 0.1
_ROUNDING = 1e-9
"""Where no difference varies, the interval is a point, and must not miss the least gain by a rounding error."""

Says = Literal["yes", "no", "cannot be told"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate says and why. ``gain`` is what was held against ``min_gain``."""

    says: Says
    reason: str
    gain: Estimate
    min_gain: float
    relative: bool


def decide(
    comparison: Comparison,
    min_gain: float,
    *,
    use_relative: bool = False,
    min_pairs: int = MIN_PAIRS,
    max_unpaired: float = MAX_UNPAIRED,
    trained_on: Sequence[str] = (),
) -> Verdict:
    """Hold the 95 % interval of the paired gain against the least gain that is asked for.

    - ``yes``: the whole interval is at ``min_gain`` or above.
    - ``no``: the whole interval is below it, or evaluated tasks were trained on.
    - ``cannot be told``: the interval holds it or there is none; there are fewer than ``min_pairs`` pairs; or
      more than ``max_unpaired`` of the episodes that could be paired are not, for those left may be the easy ones.

    Args:
        min_gain: in units of the figure, or with ``use_relative`` as a share of the baseline's mean.
        max_unpaired: share in [0, 1].
        trained_on: evaluated tasks that either run's weights had seen.
    """
    gain = comparison.relative if use_relative else comparison.difference

    def verdict(says: Says, reason: str) -> Verdict:
        return Verdict(says=says, reason=reason, gain=gain, min_gain=min_gain, relative=use_relative)

    if trained_on:
        return verdict("no", f"{len(trained_on)} of the tasks were trained on")
    alone = sum(map(len, comparison.unpaired.values()))
    if comparison.pairs < min_pairs:
        return verdict("cannot be told", f"{comparison.pairs} pairs, {min_pairs} are needed")
    if alone > max_unpaired * (comparison.pairs + alone):
        share = alone / (comparison.pairs + alone)
        return verdict("cannot be told", f"{alone} episodes ({share:.0%}) have no partner, {max_unpaired:.0%} may have")
    if gain.value is None:
        return verdict("cannot be told", "the baseline's mean is not above 0, so no gain is a share of it")
    if gain.low is None or gain.high is None:
        return verdict("cannot be told", f"no interval from {gain.units} {gain.over}")
    if gain.low >= min_gain - _ROUNDING:
        return verdict("yes", "the whole interval is at the least gain or above")
    if gain.high < min_gain - _ROUNDING:
        return verdict("no", "the whole interval is below the least gain")
    return verdict("cannot be told", "the interval holds the least gain")
