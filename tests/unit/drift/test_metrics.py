"""Precision, recall, lead time and rates against cases counted by hand."""

from __future__ import annotations

import pytest

from hpc.drift.metrics import Tally, Window, chance, f_beta, quality, stride, tally

WINDOW = Window(before=2, after=5)


def test_a_window_stays_within_the_episode() -> None:
    assert list(Window(3, 2).steps(2, 10)) == [1, 2, 3, 4]
    assert list(Window(0, 10).steps(8, 10)) == [8, 9, 10]


@pytest.mark.parametrize(
    ("alerts", "true", "met", "lead"),
    [
        ([], 0, 0, 0),
        ([10], 1, 1, 0),
        ([8], 1, 1, 2),  # before counts as lead
        ([15], 1, 1, -5),  # after as the opposite
        ([7], 0, 0, 0),
        ([16], 0, 0, 0),
        ([3, 12, 14, 18], 2, 1, -2),  # the first that meets it tells the lead; each that does is true
    ],
    ids=str,
)
def test_one_mistake_at_step_10(alerts: list[int], true: int, met: int, lead: int) -> None:
    counted = tally(20, [10], alerts, WINDOW)
    assert (counted.true, counted.met, counted.lead) == (true, met, lead)
    assert (counted.alerts, counted.judged, counted.mistakes, counted.labelled) == (len(alerts), len(alerts), 1, 1)


def test_one_alert_may_meet_two_mistakes() -> None:
    counted = tally(20, [10, 12], [12], WINDOW)
    assert (counted.true, counted.met, counted.lead) == (1, 2, -2)


def test_figures_by_hand() -> None:
    """Ten steps with a mistake met late by one of two alerts; ten with a mistake missed; ten without a
    mistake and one false alert; ten that nobody labelled with two alerts."""
    window = Window(0, 3)
    found = quality(
        [
            tally(10, [4], [2, 6], window),
            tally(10, [4], [], window),
            tally(10, [], [9], window),
            tally(10, None, [1, 2], window),
        ]
    )
    assert found.precision.value == pytest.approx(1 / 3)
    assert found.recall.value == pytest.approx(1 / 2)
    assert found.lead.value == -2
    assert found.alerts_per_100.value == pytest.approx(100 * 5 / 40)
    assert (found.alerts, found.mistakes, found.labelled, found.trajectories, found.steps) == (5, 2, 3, 4, 40)


def test_nothing_to_divide_by_is_none_and_not_zero() -> None:
    found = quality([tally(10, None, [3], WINDOW)])
    assert found.precision.value is None and found.recall.value is None and found.lead.value is None
    assert found.alerts_per_100.value == 10
    assert quality([]).alerts_per_100.value is None


def test_intervals_hold_the_value_narrow_with_data_and_repeat_with_the_seed() -> None:
    few = [tally(10, [5], [5] if i % 2 else [], WINDOW) for i in range(10)]
    assert len({quality(few, resamples=30, seed=seed).recall for seed in range(20)}) > 1
    found = quality(few, seed=3)
    assert found == quality(few, seed=3)
    recall, many = found.recall, quality(few * 40, seed=3).recall
    assert recall.value == many.value == 0.5
    assert recall.low is not None and recall.high is not None and many.low is not None and many.high is not None
    assert recall.low < many.low < 0.5 < many.high < recall.high
    # The share of 10 fair coins, in its 95 % interval: 0.5 +- 1.96 * sqrt(0.25 / 10), in tenths.
    assert (recall.low, recall.high) == (pytest.approx(0.2, abs=0.1), pytest.approx(0.8, abs=0.1))


def test_intervals_resample_trajectories_not_steps() -> None:
    """All alerts in one of two trajectories: the rate of a resample is 0, half or the whole."""
    found = quality([tally(10, None, list(range(1, 11)), WINDOW), tally(10, None, [], WINDOW)])
    assert (found.alerts_per_100.low, found.alerts_per_100.value, found.alerts_per_100.high) == (0, 50, 100)


def test_without_resamples_there_are_no_intervals() -> None:
    found = quality([tally(10, [5], [5], WINDOW)], resamples=0)
    assert found.recall.value == 1 and found.recall.low is None


def test_chance_is_the_mean_of_alerting_at_random() -> None:
    import random

    rng = random.Random(7)
    window, rate, draws = Window(1, 3), 0.2, 20000
    drawn = [tally(12, [5, 7], [step for step in range(1, 13) if rng.random() < rate], window) for _ in range(draws)]
    expected = chance(12, [5, 7], rate, window)
    for field in Tally.__struct_fields__:
        mean = sum(getattr(each, field) for each in drawn) / draws
        assert getattr(expected, field) == pytest.approx(mean, abs=0.05), field


def test_chance_at_rate_1_is_an_alert_at_every_step() -> None:
    assert chance(12, [5, 7], 1.0, WINDOW) == tally(12, [5, 7], range(1, 13), WINDOW)


def test_a_stride_raises_as_many_alerts_as_it_can() -> None:
    assert stride([10, 10], 4) == 5
    assert stride([10, 10], 20) == 1
    assert stride([10, 7], 0) == 11


def test_f_beta_leans_to_recall() -> None:
    assert f_beta(0.5, 0.5, 1) == 0.5
    assert f_beta(0.2, 0.8, 2) > f_beta(0.8, 0.2, 2)
    assert f_beta(None, 0.0, 1) == f_beta(0.0, 0.0, 1) == 0
