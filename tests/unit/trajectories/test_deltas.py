from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from hpc.trajectories.deltas import copied_spans, join_prompt, replay_prompt, split_prompt

ids = st.lists(st.integers(0, 3), max_size=12)


def test_an_appended_prompt_stores_only_its_end() -> None:
    assert split_prompt([1, 2, 3], [1, 2, 3, 4, 5]) == (3, [4, 5])


def test_a_cut_context_shares_only_its_beginning() -> None:
    assert split_prompt([1, 2, 3, 4], [1, 2, 9]) == (2, [9])


def test_the_first_prompt_is_stored_whole() -> None:
    assert split_prompt([], [7, 8]) == (0, [7, 8])


def test_any_sequence_of_ids_may_be_given() -> None:
    assert split_prompt((1, 2), (1, 3)) == (1, [3])


@given(ids, ids)
def test_joining_undoes_splitting(context: list[int], prompt: list[int]) -> None:
    shared, new = split_prompt(context, prompt)
    assert join_prompt(context, shared, new) == prompt
    assert shared == len(context) or not new or context[shared] != new[0]


@given(st.lists(st.tuples(ids, ids), min_size=1, max_size=8))
def test_replaying_gives_every_prompt_back(turns: list[tuple[list[int], list[int]]]) -> None:
    context: list[int] = []
    stored = []
    for prompt, answer in turns:
        shared, new = split_prompt(context, prompt)
        stored.append((shared, new, answer))
        context = prompt + answer
        assert replay_prompt(reversed(stored)) == prompt


def test_replaying_nothing_is_nothing() -> None:
    assert replay_prompt([]) == []


def test_copies_behind_a_summary_are_found() -> None:
    rng = random.Random(5)
    for _ in range(200):
        opening, old, kept = ([rng.randrange(1000) for _ in range(rng.randrange(low, 60))] for low in (1, 1, 20))
        summary, fresh = ([5000 + rng.randrange(1000) for _ in range(rng.randrange(1, 40))] for _ in range(2))
        context, prompt = opening + old + kept, opening + summary + kept + fresh
        [(start, stop)] = copied_spans(context, prompt, len(opening))
        assert (start, stop) == (len(opening) + len(summary), len(prompt) - len(fresh))


def test_every_copy_is_one_whatever_the_prompt() -> None:
    rng = random.Random(6)
    for _ in range(300):
        context = [rng.randrange(3) for _ in range(rng.randrange(0, 80))]
        prompt = [rng.randrange(3) for _ in range(rng.randrange(0, 80))]
        shared, _ = split_prompt(context, prompt)
        spans = copied_spans(context, prompt, shared)
        end = shared
        for start, stop in spans:
            assert end <= start < stop <= len(prompt) and stop - start >= 8
            piece = prompt[start:stop]
            assert any(context[at : at + len(piece)] == piece for at in range(len(context)))
            end = stop


def test_an_answer_that_is_tokenised_anew_parts_the_copy() -> None:
    opening, kept = [1] * 4, list(range(100, 160))
    anew = [*kept[:20], 999, *kept[22:]]
    context = opening + [7] * 9 + kept
    prompt = opening + [8] * 5 + anew
    spans = copied_spans(context, prompt, 4)
    assert [(9, 29), (30, len(prompt))] == spans
