"""Steps to sequences: what is trained, once, and what is context."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hpc.datasets.segments import Cut, Segment, StepIds, segments

END = 9


def cut_nothing(step: int, ids: Sequence[int], whole: bool) -> list[Cut]:
    return []


def made(
    *steps: StepIds,
    why: Callable[[int], str] = lambda step: "",
    cuts: Callable[[int, Sequence[int], bool], list[Cut]] = cut_nothing,
) -> list[Segment]:
    return list(segments(steps, end=END, why_not=why, cuts=cuts))


def a_step(step: int, shared: int, new: list[int], answer: list[int]) -> StepIds:
    return StepIds(step=step, shared=shared, new=new, answer=answer, logprobs=[-1.0] * len(answer))


def test_a_context_that_grows_is_one_sequence_with_a_span_for_each_answer() -> None:
    (segment,) = made(a_step(1, 0, [1, 2], [3, END]), a_step(2, 4, [4, 5], [6, 7, END]))
    assert segment.tokens == [1, 2, 3, END, 4, 5, 6, 7, END]
    assert segment.mask == [0, 0, 1, 1, 0, 0, 1, 1, 1]
    assert [math.isnan(value) for value in segment.logprobs] == [True, True, False, False, True, True] + [False] * 3


def test_what_is_not_to_be_trained_stays_in_the_context() -> None:
    (segment,) = made(
        a_step(1, 0, [1], [3, END]), a_step(2, 3, [4], [6, END]), why=lambda step: "bad" if step == 1 else ""
    )
    assert segment.tokens == [1, 3, END, 4, 6, END]
    assert segment.mask == [0, 0, 0, 0, 1, 1]
    assert [span.untrained for span in segment.spans] == ["bad", ""]


def test_a_rewritten_context_begins_a_segment_in_which_nothing_old_is_trained_again() -> None:
    first, second = made(
        a_step(1, 0, [1, 2], [3, END]),
        a_step(2, 4, [4], [5, END]),
        a_step(3, 1, [8, 3, END, 4], [6, END]),  # a summary, and an old answer after it
    )
    assert first.mask == [0, 0, 1, 1, 0, 1, 1]
    assert second.tokens == [1, 8, 3, END, 4, 6, END]
    assert second.mask == [0, 0, 0, 0, 0, 1, 1]


def test_an_answer_that_was_cut_off_is_not_trained() -> None:
    (segment,) = made(a_step(1, 0, [1], [3, 4]), a_step(2, 3, [5], [6, END]))
    assert segment.mask == [0, 0, 0, 0, 1, 1]
    assert segment.spans[0].untrained == "the answer was cut off"
    assert made(a_step(1, 0, [1], [])) == []


def test_a_cut_takes_tokens_out_and_log_probabilities_behind_it_are_unknown() -> None:
    (segment,) = made(
        a_step(1, 0, [1], [3, END]),
        a_step(2, 3, [4, 70, 71, 5], [6, END]),
        cuts=lambda step, ids, whole: [Cut(1, 3)] if step == 2 else [],
    )
    assert segment.tokens == [1, 3, END, 4, 5, 6, END]
    assert segment.mask == [0, 1, 1, 0, 0, 1, 1]
    assert not math.isnan(segment.logprobs[1])
    assert math.isnan(segment.logprobs[-1])
    assert segment.cuts == 1


def test_segments_in_which_nothing_is_trained_are_left_out() -> None:
    assert made(a_step(1, 0, [1], [3, END]), why=lambda step: "bad") == []
