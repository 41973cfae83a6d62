from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpc.trajectories.deltas import join_prompt, replay_prompt, split_prompt

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
