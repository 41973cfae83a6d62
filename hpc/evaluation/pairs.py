"""Two runs compared on the same tasks and seeds. Pure.

Most of the chance in a score is the task's. Episodes of the same task and seed share it, so their
differences are far steadier than the difference of two means (Miller 2024, arXiv 2411.00640, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from hpc.evaluation.bootstrap import Estimate, Level, difference, estimate, relative
from hpc.evaluation.results import SUCCESS_AT, Arm, FigureName, Key, Result
from hpc.evaluation.significance import McNemar, SignedRank, holm, mcnemar, signed_rank
from hpc.evaluation.statistics import by_task

BOUNDS: dict[FigureName, tuple[float, float]] = {
    "score": (-100.0, 100.0),
    "best": (-100.0, 100.0),
    "success": (-1.0, 1.0),
    "steps": (-np.inf, np.inf),
}
_DIGITS = 9
"""Differences are equal, or zero, to so many digits: 53.3 - 33.3 and 40.0 - 20.0 must tie."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A run against the baseline, over the pairs.

    ``mean`` and ``baseline_mean`` are means over the tasks of the pairs; ``difference`` is the one less the
    other, in units of the figure, and ``relative`` that as a share of the baseline's mean. ``wins``, ``ties``
    and ``losses`` count pairs by the sign of the difference. ``mcnemar`` is of success, ``wilcoxon`` of the
    figure: of the tasks' mean differences, or where there is one task of its seeds'. ``p_holm`` and
    ``mcnemar_holm`` are their p adjusted for all runs that are compared. ``unpaired`` names by reason what
    has no partner.
    """

    run: str
    baseline: str
    group: str = ""
    figure: FigureName
    pairs: int
    tasks: int
    mean: float | None
    baseline_mean: float | None
    difference: Estimate
    relative: Estimate
    wins: int
    ties: int
    losses: int
    mcnemar: McNemar
    wilcoxon: SignedRank
    p_holm: float | None = None
    mcnemar_holm: float | None = None
    unpaired: dict[str, list[str]]


def pair(one: Arm, other: Arm) -> tuple[list[tuple[Result, Result]], dict[str, list[str]]]:
    """The pairs of the same task and seed, in order, and by reason what has no partner.

    What neither run could count is named once, under the first reason.
    """
    mine, theirs = ({result.key: result for result in arm.results} for arm in (one, other))
    pairs = [(mine[key], theirs[key]) for key in sorted(mine.keys() & theirs.keys())]
    unpaired: dict[str, list[str]] = {}
    for here, there, absent in ((mine, theirs, other), (theirs, mine, one)):
        why: dict[Key, str] = {each.key: each.reason for each in absent.left_out if each.key is not None}
        for key in sorted(here.keys() - there.keys()):
            reason = f"{absent.name}: {why.get(key, 'not among its episodes')}"
            unpaired.setdefault(reason, []).append(str(key))
    neither = {each.key: f"{one.name}: {each.reason}" for each in one.left_out if each.key is not None}
    gone = {each.key for each in other.left_out}
    for key in sorted(neither.keys() & gone):
        if key not in mine and key not in theirs:
            unpaired.setdefault(f"{neither[key]}, and not in {other.name}", []).append(str(key))
    return pairs, unpaired


def compare(
    one: Arm,
    baseline: Arm,
    figure: FigureName = "score",
    *,
    success_at: float = SUCCESS_AT,
    over: Level = "tasks",
    seed: int = 0,
    group: str = "",
) -> Comparison:
    """A run against the baseline in one figure.

    Args:
        over: what the intervals speak of (`hpc.evaluation.bootstrap`).
        seed: of the bootstrap.
        group: name of the task or domain, if the arms are such a part.
    """
    pairs, unpaired = pair(one, baseline)
    values = [[each.figure(figure, success_at) for each in both] for both in pairs]
    groups = by_task((mine, row) for (mine, _), row in zip(pairs, values, strict=True))
    gaps = [round(mine - theirs, _DIGITS) for mine, theirs in values]
    by_tasks = [round(float((task[:, 0] - task[:, 1]).mean()), _DIGITS) for task in groups]
    units = by_tasks if len(groups) > 1 else gaps
    means = np.stack([task.mean(axis=0) for task in groups]).mean(axis=0) if groups else None
    won = [tuple(each.score >= success_at for each in both) for both in pairs]
    return Comparison(
        run=one.name,
        baseline=baseline.name,
        group=group,
        figure=figure,
        pairs=len(pairs),
        tasks=len(groups),
        mean=None if means is None else float(means[0]),
        baseline_mean=None if means is None else float(means[1]),
        difference=estimate(groups, difference, over=over, bounds=BOUNDS[figure], seed=seed),
        relative=estimate(groups, relative, over=over, seed=seed),
        wins=sum(gap > 0 for gap in gaps),
        ties=sum(gap == 0 for gap in gaps),
        losses=sum(gap < 0 for gap in gaps),
        mcnemar=mcnemar(won.count((True, False)), won.count((False, True))),
        wilcoxon=signed_rank(units),
        unpaired=unpaired,
    )


def compare_all(
    arms: Sequence[Arm],
    baseline: Arm,
    figure: FigureName = "score",
    *,
    success_at: float = SUCCESS_AT,
    over: Level = "tasks",
    seed: int = 0,
    group: str = "",
) -> list[Comparison]:
    """Each of the arms against the baseline; p-values are adjusted by Holm's rule over all of them."""
    found = [compare(arm, baseline, figure, success_at=success_at, over=over, seed=seed, group=group) for arm in arms]
    ranks = holm([each.wilcoxon.p for each in found])
    successes = holm([each.mcnemar.p for each in found])
    return [
        msgspec.structs.replace(each, p_holm=rank, mcnemar_holm=success)
        for each, rank, success in zip(found, ranks, successes, strict=True)
    ]
