from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hpc.evaluation.significance import EXACT_UP_TO, holm, mcnemar, signed_rank, wilson


@pytest.mark.parametrize(("count", "of"), [(0, 1), (1, 1), (0, 20), (20, 20), (3, 10), (77, 160), (1, 1000)])
def test_wilson_is_scipys(count: int, of: int) -> None:
    found = wilson(count, of)
    wanted = stats.binomtest(count, of).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert found.value == count / of


def test_nothing_has_no_share() -> None:
    assert wilson(0, 0).value is None and wilson(0, 0).low is None


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 5), (9, 2), (0, 8), (40, 61)])
def test_mcnemar_is_the_binomial_test(gained: int, lost: int) -> None:
    wanted = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost).p == pytest.approx(wanted, abs=1e-12)


def test_signed_ranks_are_scipys_exact_ones() -> None:
    random = np.random.default_rng(4)
    for size in (1, 2, 5, 12, 40):
        differences = random.normal(0.4, 1.0, size=size)
        wanted = stats.wilcoxon(differences, method="exact")
        found = signed_rank(differences.tolist())
        assert found.p == pytest.approx(wanted.pvalue, abs=1e-12)
        assert min(found.statistic, size * (size + 1) / 2 - found.statistic) == wanted.statistic


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_signed_ranks_with_ties_are_those_of_all_signs(differences: list[int]) -> None:
    used = [value for value in differences if value]
    found = signed_rank([float(value) for value in differences])
    assert (found.used, found.zeros) == (len(used), len(differences) - len(used))
    if not used:
        assert found.p is None
        return
    ranks = stats.rankdata(np.abs(used))
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product((0, 1), repeat=len(used))]
    seen = sum(rank for rank, value in zip(ranks, used, strict=True) if value > 0)
    assert found.statistic == seen
    below, above = (np.mean([one <= seen for one in sums]), np.mean([one >= seen for one in sums]))
    assert found.p == pytest.approx(min(1.0, 2 * min(below, above)), abs=1e-12)


def test_many_signed_ranks_are_nearly_normal() -> None:
    random = np.random.default_rng(6)
    differences = np.round(random.normal(0.15, 1.0, size=EXACT_UP_TO + 50), 1)
    differences = differences[differences != 0]
    assert len(differences) > EXACT_UP_TO
    wanted = stats.wilcoxon(differences, method="asymptotic", correction=False)
    assert signed_rank(differences.tolist()).p == pytest.approx(wanted.pvalue, rel=1e-9)
    assert signed_rank(differences[:EXACT_UP_TO].tolist()).p == pytest.approx(
        stats.wilcoxon(differences[:EXACT_UP_TO], method="asymptotic", correction=False).pvalue, abs=0.01
    )


def test_holms_own_steps() -> None:
    """Four p-values by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, and the last may not be below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_what_was_not_tested_does_not_count() -> None:
    assert holm([None, 0.02, None]) == [None, 0.02, None]
    assert holm([]) == []
