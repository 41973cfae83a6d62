from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from hpc.evaluation.bootstrap import Estimate, Level, difference, estimate, relative

EXPERIMENTS = 300
RESAMPLES = 400
Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator], tuple[list[Floats], float]]


def column(*tasks: list[float]) -> list[Floats]:
    return [np.array(task, dtype=float).reshape(-1, 1) for task in tasks]


def coverage(draw: Draw, over: Level = "tasks", figure: Callable[[Floats], Floats] | None = None) -> float:
    """Share of experiments whose interval holds the truth."""
    random = np.random.default_rng(20251030)
    held = 0
    for number in range(EXPERIMENTS):
        groups, truth = draw(random)
        how = {} if figure is None else {"figure": figure}
        found = estimate(groups, over=over, seed=number, resamples=RESAMPLES, **how)
        assert found.low is not None and found.high is not None
        held += found.low <= truth <= found.high
    return held / EXPERIMENTS


def normal(tasks: int, seeds: int, between: float, within: float) -> Draw:
    def draw(random: np.random.Generator) -> tuple[list[Floats], float]:
        means = 50 + between * random.standard_normal(tasks)
        return [mean + within * random.standard_normal((seeds, 1)) for mean in means], 50.0

    return draw


@pytest.mark.parametrize(
    ("tasks", "seeds", "between", "within"),
    [(20, 3, 15, 10), (20, 3, 0, 10), (20, 1, 15, 10), (6, 3, 15, 10), (4, 2, 15, 10)],
    ids=["tasks and seeds vary", "seeds alone vary", "one seed", "six tasks", "four tasks"],
)
def test_intervals_over_tasks_hold_the_truth(tasks: int, seeds: int, between: float, within: float) -> None:
    assert 0.90 <= coverage(normal(tasks, seeds, between, within)) <= 0.99


def test_skewed_and_uneven_experiments_are_covered_too() -> None:
    def draw(random: np.random.Generator) -> tuple[list[Floats], float]:
        means = random.exponential(20, size=20)
        return [mean + random.normal(0, 10, size=(random.integers(1, 5), 1)) for mean in means], 20.0

    assert 0.88 <= coverage(draw) <= 0.99


@pytest.mark.parametrize(("tasks", "seeds"), [(20, 3), (5, 3), (1, 8)])
def test_intervals_over_seeds_hold_the_mean_of_these_very_tasks(tasks: int, seeds: int) -> None:
    def draw(random: np.random.Generator) -> tuple[list[Floats], float]:
        means = 50 + 15 * random.standard_normal(tasks)
        return [mean + 10 * random.standard_normal((seeds, 1)) for mean in means], float(means.mean())

    assert 0.90 <= coverage(draw, over="seeds") <= 0.99


@pytest.mark.parametrize("figure", [difference, relative])
def test_paired_gains_hold_the_truth(figure: Callable[[Floats], Floats]) -> None:
    def draw(random: np.random.Generator) -> tuple[list[Floats], float]:
        groups = []
        for hardness in 40 + 15 * random.standard_normal(15):
            gain = 8 + 4 * random.standard_normal()
            baseline = hardness + 8 * random.standard_normal(2)
            groups.append(np.stack([baseline + gain + 5 * random.standard_normal(2), baseline], axis=1))
        return groups, 8.0 if figure is difference else 0.2

    assert 0.90 <= coverage(draw, figure=figure) <= 0.99


def test_pairs_are_narrower_than_the_runs_apart() -> None:
    random = np.random.default_rng(1)
    hardness = random.normal(40, 20, size=(20, 1))
    both = np.stack([hardness + 5 + random.normal(0, 2, (20, 1)), hardness], axis=2)
    gain = estimate(list(both), difference)
    alone = estimate([row[:, :1] for row in both])
    assert gain.low is not None and gain.high is not None and alone.low is not None and alone.high is not None
    assert gain.high - gain.low < (alone.high - alone.low) / 4


def test_the_interval_of_normal_means_is_that_of_the_t_test() -> None:
    values = np.random.default_rng(3).normal(50, 10, size=8)
    found = estimate([np.array([[value]]) for value in values])
    wanted = stats.t.interval(0.95, 7, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(wanted, abs=0.12 * (wanted[1] - wanted[0]))


def test_seeds_are_not_counted_twice() -> None:
    """Drawing tasks and then their seeds once more would be wider by about a third where the seeds alone vary."""
    random = np.random.default_rng(5)
    groups = [random.normal(50, 10, size=(3, 1)) for _ in range(100)]
    found = estimate(groups)
    assert found.low is not None and found.high is not None
    exact = 2 * 1.984 * 10 / np.sqrt(300)
    assert found.high - found.low == pytest.approx(exact, rel=0.15)


def test_a_task_counts_the_same_however_many_seeds_it_has() -> None:
    assert estimate(column([0.0], [90.0, 90.0, 90.0], [30.0])).value == pytest.approx(40.0)


def test_the_same_data_and_seed_give_the_same_interval() -> None:
    groups = list(np.random.default_rng(8).normal(50, 10, size=(9, 2, 1)))
    assert estimate(groups, seed=1) == estimate(groups, seed=1) != estimate(groups, seed=2)


def test_without_variance_the_interval_is_a_point() -> None:
    found = estimate(column([40.0] * 2, [40.0] * 2, [40.0] * 2))
    assert (found.value, found.low, found.high) == pytest.approx((40.0, 40.0, 40.0))


def test_one_task_speaks_of_its_seeds() -> None:
    found = estimate(column([10.0, 20.0, 30.0, 40.0]))
    assert (found.over, found.units, found.value) == ("seeds", 4, 25.0)
    assert found.low is not None and found.high is not None and found.low < 25 < found.high


@pytest.mark.parametrize(
    ("groups", "over"),
    [
        (column([10.0]), "tasks"),
        (column([10.0, 20.0]), "tasks"),
        (column([10.0], [20.0]), "tasks"),
        (column([10.0, 20.0, 30.0], [20.0]), "seeds"),
    ],
    ids=["one episode", "two seeds", "two tasks", "a task with one seed"],
)
def test_too_little_gives_the_value_and_no_interval(groups: list[Floats], over: Level) -> None:
    found = estimate(groups, over=over)
    assert found.value is not None and found.low is None and found.high is None


def test_nothing_gives_nothing() -> None:
    assert estimate([]) == Estimate() == estimate([np.zeros((0, 1))])


def test_a_gain_over_nothing_is_no_share() -> None:
    groups = [np.array([[5.0, 0.0]])] * 5
    assert estimate(groups, relative).value is None
    mostly = [*groups, np.array([[5.0, 1.0]])]  # many draws have no baseline left
    found = estimate(mostly, relative)
    assert found.value == pytest.approx(29.0) and found.low is None


def test_intervals_end_at_the_bounds() -> None:
    found = estimate(column([1.0], [1.0], [0.0], [1.0]), bounds=(0.0, 1.0))
    assert found.high == 1.0 and found.low is not None and found.low >= 0.0


def test_many_tasks_are_drawn_in_blocks_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    groups = [random.normal(50, 10, size=(1, 1)) for _ in range(50)]
    whole = estimate(groups)
    monkeypatch.setattr("hpc.evaluation.bootstrap._BLOCK", 50 * 7)
    assert estimate(groups) == whole
