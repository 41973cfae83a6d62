from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from hpc.evaluation.bootstrap import Estimate
from hpc.evaluation.gate import decide
from hpc.evaluation.pairs import Comparison, compare, compare_all, pair
from hpc.evaluation.results import Arm, LeftOut
from tests.unit.evaluation.runs import arm, result


def shifted(name: str, base: Arm, gain: float, noise: float = 0.0, seed: int = 0) -> Arm:
    draw = random.Random(seed)
    moved = [
        replace(each, score=each.score + gain + draw.gauss(0, noise), best=each.best + gain) for each in base.results
    ]
    return Arm(name=name, results=moved, left_out=[])


BASE = arm("base", {f"t{number:02d}": [20 + 2 * number, 25 + 2 * number] for number in range(15)})


def test_only_the_same_task_and_seed_are_a_pair() -> None:
    one, other = arm("one", {"t": [1, 2, 3], "u": [4]}), arm("other", {"t": [5, 6], "w": [7]})
    pairs, unpaired = pair(one, other)
    assert [(mine.score, theirs.score) for mine, theirs in pairs] == [(1, 5), (2, 6)]
    assert unpaired == {
        "other: not among its episodes": ["lab/t seed 2", "lab/u seed 0"],
        "one: not among its episodes": ["lab/w seed 0"],
    }


def test_what_has_no_partner_is_named_with_its_reason() -> None:
    one = arm("one", {"t": [1, 2]})
    failed = LeftOut(episode="other/1", reason="no score (failed)", key=one.results[1].key)
    both = LeftOut(episode="x", reason="not over", key=one.results[1].key._replace(task="v"))
    other = replace(arm("other", {"t": [5]}), left_out=[failed, both])
    _, unpaired = pair(replace(one, left_out=[both]), other)
    assert unpaired == {
        "other: no score (failed)": ["lab/t seed 1"],
        "one: not over, and not in other": ["lab/v seed 1"],
    }


def test_a_gain_is_the_mean_difference_of_the_pairs() -> None:
    found = compare(shifted("one", BASE, 7.0, noise=3.0), BASE)
    assert (found.pairs, found.tasks) == (30, 15)
    assert found.difference.value == pytest.approx((found.mean or 0) - (found.baseline_mean or 0))
    assert found.difference.low is not None and found.difference.high is not None
    assert 4 < found.difference.low < 7 < found.difference.high < 10
    assert found.relative.value == pytest.approx((found.difference.value or 0) / (found.baseline_mean or 1))
    assert found.wilcoxon.p is not None and found.wilcoxon.p < 0.001


def test_changing_sides_changes_the_sign() -> None:
    other = shifted("other", BASE, 7.0, noise=3.0)
    there, back = compare(other, BASE), compare(BASE, other)
    assert back.difference.value == pytest.approx(-(there.difference.value or 0))
    assert (back.wins, back.losses) == (there.losses, there.wins)
    assert back.wilcoxon.p == pytest.approx(there.wilcoxon.p)


def test_success_is_tested_by_the_pairs_that_differ() -> None:
    one, other = arm("one", {"t": [80, 90, 10, 85], "u": [80]}), arm("other", {"t": [80, 10, 90, 0], "u": [0]})
    found = compare(one, other, "success")
    assert (found.mcnemar.gained, found.mcnemar.lost) == (3, 1)
    assert (found.wins, found.ties, found.losses) == (3, 1, 1)
    assert compare(one, other, "success", success_at=95).mcnemar.gained == 0


def test_seeds_of_a_task_are_one_unit_of_the_rank_test() -> None:
    assert compare(shifted("one", BASE, 1.0, noise=5.0), BASE).wilcoxon.used == 15
    one = arm("one", {"t": [1, 2, 3, 4]})
    assert compare(shifted("two", one, 1.0), one).wilcoxon.used == 4


def test_equal_differences_tie_whatever_their_rounding() -> None:
    found = compare(arm("a", {"t": [53.3], "u": [40.0]}), arm("b", {"t": [33.3], "u": [60.0]}))
    assert found.wilcoxon.statistic == 1.5 and found.wilcoxon.p == 1.0


def test_equal_runs_have_no_difference_and_no_test() -> None:
    found = compare(replace(BASE, name="again"), BASE)
    assert (found.difference.low, found.difference.value, found.difference.high) == (0.0, 0.0, 0.0)
    assert (found.ties, found.wilcoxon.p, found.mcnemar.p) == (30, None, 1.0)


def test_nothing_in_common_is_no_comparison() -> None:
    found = compare(arm("one", {"t": [1]}), arm("other", {"u": [1]}))
    assert (found.pairs, found.mean, found.difference.value) == (0, None, None)
    assert decide(found, 0.0).says == "cannot be told"


def test_several_runs_are_adjusted_together() -> None:
    arms = [shifted("good", BASE, 5.0, noise=4.0), shifted("same", BASE, 0.0, noise=4.0, seed=3)]
    good, same = compare_all(arms, BASE)
    assert good.wilcoxon.p is not None and same.wilcoxon.p is not None and good.wilcoxon.p < same.wilcoxon.p
    assert good.p_holm == pytest.approx(2 * good.wilcoxon.p) and same.p_holm == pytest.approx(same.wilcoxon.p)
    (alone,) = compare_all(arms[:1], BASE)
    assert alone.p_holm == alone.wilcoxon.p


# ---- the gate


def gained(low: float | None, high: float | None, *, pairs: int = 20, alone: int = 0) -> Comparison:
    middle = None if low is None or high is None else (low + high) / 2
    gain = Estimate(value=0.0 if middle is None else middle, low=low, high=high)
    missing = {"one: not over": [str(number) for number in range(alone)]} if alone else {}
    return replace(compare(BASE, BASE), pairs=pairs, difference=gain, relative=gain, unpaired=missing)


@pytest.mark.parametrize(
    ("comparison", "says"),
    [
        (gained(5.0, 9.0), "yes"),
        (gained(5.1, 5.1), "yes"),
        (gained(4.9, 9.0), "cannot be told"),
        (gained(1.0, 5.0), "cannot be told"),
        (gained(1.0, 4.9), "no"),
        (gained(-9.0, -5.0), "no"),
        (gained(None, None), "cannot be told"),
        (gained(8.0, 9.0, pairs=9), "cannot be told"),
        (gained(8.0, 9.0, pairs=90, alone=10), "yes"),
        (gained(8.0, 9.0, pairs=90, alone=11), "cannot be told"),
    ],
)
def test_the_gate_reads_the_interval(comparison: Comparison, says: str) -> None:
    assert decide(comparison, 5.0).says == says


def test_a_constant_gain_is_enough_although_it_rounds() -> None:
    base = arm("base", {f"t{number}": [33.3] for number in range(12)})
    one = arm("one", {f"t{number}": [53.4] for number in range(12)})
    assert decide(compare(one, base), 20.1).says == "yes"
    assert decide(compare(one, base), 20.2).says == "no"


def test_no_gain_counts_on_trained_tasks() -> None:
    verdict = decide(gained(8.0, 9.0), 5.0, trained_on=["lab/t01"])
    assert verdict.says == "no" and "1 of the tasks" in verdict.reason


def test_no_share_of_nothing() -> None:
    base = arm("base", {f"t{number}": [0.0] for number in range(12)})
    verdict = decide(compare(shifted("one", base, 5.0), base), 0.1, use_relative=True)
    assert verdict.says == "cannot be told" and "not above 0" in verdict.reason


def test_results_of_steps_have_their_own_unit() -> None:
    one = Arm(name="one", results=[result(f"t{n}", 0, 1, steps=10 + n) for n in range(6)], left_out=[])
    other = Arm(name="other", results=[result(f"t{n}", 0, 1, steps=20 + n) for n in range(6)], left_out=[])
    assert compare(one, other, "steps").difference.value == pytest.approx(-10.0)
