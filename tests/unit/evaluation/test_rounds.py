"""What the rounds of GRPO show together, and the files that they are written down in."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy import stats

from hpc.core.errors import HpcError
from hpc.evaluation.rounds import Round, gain, mean_of_groups, read_rounds, round_path, superseded, write_round


def a_round(number: int, *groups: list[float]) -> Round:
    rewards = {f"t{place}": group for place, group in enumerate(groups)}
    return Round(
        number=number, version=f"m@{number - 1}", weights="/w", rollouts=f"r-{number:03d}-rollouts",
        reward=mean_of_groups(rewards), episodes=4, used=4, stale=0, groups=len(groups), rewards=rewards,
    )  # fmt: skip


def test_the_interval_of_a_reward_is_of_whole_groups_and_absent_for_too_few() -> None:
    few = mean_of_groups({"a": [0.0, 1.0], "b": [1.0, 1.0]})
    assert (few.value, few.low, few.high) == (0.75, None, None)
    alike = mean_of_groups({name: [0.2, 0.4] for name in "abcd"})  # rollouts differ, their groups do not
    assert alike.low == pytest.approx(0.3) == alike.high
    apart = mean_of_groups({"a": [0.0], "b": [0.5], "c": [1.0]})
    assert apart.low == 0.0 and apart.high == 1.0  # wide, and never beyond what a reward can be


def test_the_gain_is_that_of_the_last_quarter_over_the_first_with_welchs_interval() -> None:
    random = np.random.default_rng(1)
    means = [[float(x) for x in random.uniform(0.1 + 0.02 * n, 0.3 + 0.02 * n, 4)] for n in range(8)]
    rounds = [a_round(n + 1, *([mean] for mean in each)) for n, each in enumerate(means)]
    found = gain(rounds)
    first, last = means[0] + means[1], means[6] + means[7]
    theirs = stats.ttest_ind(last, first, equal_var=False).confidence_interval(0.95)
    assert found is not None and found.value == pytest.approx(np.mean(last) - np.mean(first))
    assert (found.low, found.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    assert gain(rounds[:3]) is None
    single = gain([a_round(n, [0.1 * n]) for n in range(1, 5)])
    assert single is not None and single.value == pytest.approx(0.3) and single.low is None


def test_old_weights_go_but_not_those_that_the_best_rewards_came_from() -> None:
    rounds = [
        msgspec.structs.replace(
            a_round(number, [reward]), update=f"u{number}", export=f"/e{number}", weights=f"/e{number - 1}"
        )
        for number, reward in enumerate([0.1, 0.2, 0.9, 0.3, 0.4], 1)
    ]
    assert superseded(rounds, keep=2) == ["u1", "u3"]  # /e2 played best
    rounds[1] = msgspec.structs.replace(rounds[1], update=None, export=None)
    assert superseded(rounds, keep=9) == []


def test_rounds_are_read_up_to_the_first_one_missing_and_damage_is_named(tmp_path: Path) -> None:
    for number in (1, 2, 4):
        write_round(tmp_path, a_round(number, [0.1, 0.2]))
    assert [each.number for each in read_rounds(tmp_path)] == [1, 2]
    round_path(tmp_path, 2).write_text("{}")
    with pytest.raises(HpcError, match=r"0002\.json is damaged"):
        read_rounds(tmp_path)
