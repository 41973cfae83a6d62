from __future__ import annotations

import re

import pytest

from hpc.tasks.minilab.facts import CATEGORIES, KNOBS, UNSET, fact_table, knob_of


def all_words() -> list[str]:
    values = [value for members in CATEGORIES.values() for value in members]
    options = [option for members in KNOBS.values() for option in members]
    return [*values, *options, *KNOBS, *CATEGORIES, UNSET]


def test_six_categories_of_twenty_and_six_knobs_of_eight():
    assert [len(members) for members in CATEGORIES.values()] == [20] * 6
    assert [len(members) for members in KNOBS.values()] == [8] * 6


def test_words_are_single_and_globally_distinct():
    words = all_words()
    assert len(words) == len(set(words))
    assert all(re.fullmatch(r"[A-Za-z0-9]+", word) for word in words)


def test_no_word_means_something_else_in_the_lab_output():
    said = "stage metric pass low next for set to all stages passed no runs left error"
    spoken = set(re.findall(r"\w+", said))
    assert not spoken & set(all_words())


def test_table_covers_every_value_with_an_option_of_its_own_knob():
    table = fact_table(7)
    assert len(table) == 120
    for value, fact in table.items():
        assert fact.value == value
        assert fact.knob == knob_of(value)
        assert fact.option in KNOBS[fact.knob]


def test_table_depends_on_the_seed_and_only_on_it():
    assert fact_table(1) == fact_table(1)
    differing = sum(fact_table(1)[value] != fact_table(2)[value] for value in fact_table(1))
    assert differing > 80  # 7 of 8 expected


def test_advice_is_one_sentence_in_fixed_words():
    fact = fact_table(3)["cobalt"]
    assert fact.advice == f"for cobalt set anneal to {fact.option}"


def test_unknown_value_has_no_knob():
    with pytest.raises(KeyError):
        knob_of("water")
