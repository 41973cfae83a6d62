from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from hpc.evaluation.results import Arm, LeftOut
from hpc.evaluation.statistics import parts, pass_at_k, summarize
from tests.unit.evaluation.runs import arm, result


@pytest.mark.parametrize("episodes", range(1, 8))
def test_pass_at_k_is_the_share_of_all_choices_of_k(episodes: int) -> None:
    for successes in range(episodes + 1):
        outcomes = [1] * successes + [0] * (episodes - successes)
        for k in range(1, episodes + 1):
            choices = [any(chosen) for chosen in itertools.combinations(outcomes, k)]
            assert pass_at_k(episodes, successes, k) == pytest.approx(sum(choices) / len(choices), abs=1e-12)


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_needs_k_episodes(k: int) -> None:
    with pytest.raises(ValueError, match="must be within 1 and the 4 episodes"):
        pass_at_k(4, 1, k)


def test_a_run_in_figures() -> None:
    found = summarize(arm("a", {"t1": [80, 90], "t2": [10, 20], "t3": [40, 79.9], "t4": [100, 0]}))
    assert (found.episodes, found.tasks, found.seeds) == (8, 4, (2, 2))
    assert found.score.value == pytest.approx((85 + 15 + 59.95 + 50) / 4)
    assert (found.success.count, found.success.of) == (3, 8)
    assert found.success_over_tasks.value == pytest.approx((1 + 0 + 0 + 0.5) / 4)
    assert [one.k for one in found.pass_at] == [1, 2]
    assert [one.share.value for one in found.pass_at] == pytest.approx([0.375, 0.5])
    assert found.cost.value is None and found.cost_known == 0


def test_costs_are_of_those_that_are_known() -> None:
    results = [result("t", 0, 10, cost=0.5), result("t", 1, 10), result("u", 0, 10, cost=1.5)]
    found = summarize(Arm(name="a", results=results, left_out=[]))
    assert found.cost.value == pytest.approx(1.0) and found.cost_known == 2


def test_tasks_with_fewer_episodes_than_k_are_counted() -> None:
    (found,) = summarize(arm("a", {"t": [80, 0, 0], "u": [80]}), ks=[3]).pass_at
    assert (found.tasks, found.too_few, found.share.value) == (1, 1, 1.0)


def test_an_empty_run_has_no_figures() -> None:
    found = summarize(arm("a", {}))
    assert (found.episodes, found.seeds, found.score.value, found.success.value) == (0, (0, 0), None, None)
    assert found.pass_at == []


def test_one_task_has_an_interval_over_its_seeds() -> None:
    found = summarize(arm("a", {"t": [10, 20, 30]}))
    assert found.score.over == "seeds" and found.score.low is not None


def test_a_run_by_task_and_by_domain() -> None:
    whole = arm("a", {"t": [10], "u": [30]})
    gone = LeftOut(episode="a/9", reason="no score (failed)", key=whole.results[0].key._replace(task="v"))
    lost = LeftOut(episode="a/8", reason="damaged")
    whole = replace(whole, left_out=[gone, lost])
    by_task = parts(whole, "task")
    assert list(by_task) == ["lab/t", "lab/u", "lab/v"]
    assert by_task["lab/v"].results == [] and by_task["lab/v"].left_out == [gone]
    assert [each.key.task for each in parts(whole, "domain")["lab"].results] == ["t", "u"]
