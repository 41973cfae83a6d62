from __future__ import annotations

import itertools

import pytest

from hpc.tasks.minilab.facts import CATEGORIES, KNOBS
from hpc.tasks.minilab.instances import instances, make_instance, split_of


def combination(instance) -> tuple[str, ...]:
    return tuple(sorted(stage.value for stage in instance.stages))


def test_instance_names_each_knob_once_with_a_value_of_its_category():
    for instance in itertools.islice(instances("train", 1), 50):
        assert sorted(stage.knob for stage in instance.stages) == sorted(KNOBS)
        for stage in instance.stages:
            members = CATEGORIES[list(CATEGORIES)[list(KNOBS).index(stage.knob)]]
            assert stage.value in members


def test_instances_are_reproducible_and_differ():
    first = list(itertools.islice(instances("train", 1), 300))
    assert first == [make_instance("train", 1, index) for index in range(300)]
    assert len({combination(instance) for instance in first}) == 300
    assert len({tuple(stage.knob for stage in instance.stages) for instance in first}) > 100  # of 720 orders
    assert make_instance("train", 2, 0) != first[0]


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2), (5, 5)])
def test_splits_never_share_a_combination_whatever_the_seeds(seeds):
    train = {combination(instance) for instance in itertools.islice(instances("train", seeds[0]), 1500)}
    held_out = {combination(instance) for instance in itertools.islice(instances("eval", seeds[1]), 1500)}
    assert not train & held_out


def test_split_is_a_rule_on_the_values_alone():
    for split in ("train", "eval"):
        for instance in itertools.islice(instances(split, 9), 200):
            values = [stage.value for stage in instance.stages]
            assert split_of(values) == split
            assert split_of(list(reversed(values))) == split


def test_one_combination_in_five_is_held_out():
    members = list(CATEGORIES.values())
    some = itertools.islice(itertools.product(*members), 0, 64_000_000, 64_007)
    splits = [split_of(values) for values in itertools.islice(some, 1000)]
    assert 150 < splits.count("eval") < 250


def test_both_splits_meet_every_fact():
    for split in ("train", "eval"):
        met = {stage.value for instance in itertools.islice(instances(split, 1), 600) for stage in instance.stages}
        assert len(met) == 120
