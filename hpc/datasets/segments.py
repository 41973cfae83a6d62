"""Steps to token sequences: one long sequence for as long as the context only grows.

A step's prompt is the first ``shared`` tokens of the context before it, then new ones; its answer
follows. While ``shared`` is the whole context, steps make one segment with many answers, each computed
once. Where the context was rewritten (a summary, elided output, a template that writes old turns
differently) a new segment begins with the whole prompt as context: answers that were attached again
are not trained a second time. Pure functions on lists.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

CUT_OFF = "cut off: no end-of-turn token"


class Verdict(Protocol):
    """What a policy says of a step: whether its answer is trained, and why (not)."""

    @property
    def train(self) -> bool: ...

    @property
    def reason(self) -> str: ...


class StepIds(NamedTuple):
    """One step in ids: the prompt is ``context[:shared] + new``. ``logprobs`` may be empty."""

    step: int
    shared: int
    new: list[int]
    answer: list[int]
    logprobs: list[float]


class Answer(NamedTuple):
    """``tokens[start:end]`` of a segment is the answer of ``step``; ``reason``: why it is not trained, if so."""

    start: int
    end: int
    step: int
    reason: str


class Piece(NamedTuple):
    """``tokens[start:end]`` is what the prompt of ``step`` added."""

    start: int
    end: int
    step: int


class Segment(NamedTuple):
    """A token sequence with the spans of its answers and of what was added between them, in order."""

    number: int
    tokens: list[int]
    logprobs: list[float]
    answers: list[Answer]
    pieces: list[Piece]

    @property
    def trained(self) -> list[Answer]:
        return [answer for answer in self.answers if not answer.reason]

    def mask(self) -> NDArray[np.uint8]:
        """1 on the tokens of trained answers, shape ``[tokens]``."""
        mask = np.zeros(len(self.tokens), np.uint8)
        for answer in self.trained:
            mask[answer.start : answer.end] = 1
        return mask


def judge(
    steps: Iterable[StepIds],
    verdicts: Mapping[int, Verdict] | None,
    ends: Collection[int],
    *,
    train_cut_off: bool = False,
) -> dict[int, str]:
    """For each step why its answer is not trained; empty: it is.

    Args:
        verdicts: by step; a step without one is not trained. None trains every whole answer.
        ends: ids of end-of-turn tokens.
        train_cut_off: also train answers that do not end with one.
    """
    return {step.step: _reason(step, verdicts, ends, train_cut_off) for step in steps}


def _reason(step: StepIds, verdicts: Mapping[int, Verdict] | None, ends: Collection[int], train_cut_off: bool) -> str:
    if verdicts is not None:
        verdict = verdicts.get(step.step)
        if verdict is None:
            return "no decision"
        if not verdict.train:
            return verdict.reason or "context only"
    if not step.answer:
        return "no tokens"
    if any(token in ends for token in step.answer[:-1]):
        return "an end-of-turn token inside the answer"
    return CUT_OFF if step.answer[-1] not in ends and not train_cut_off else ""


def segments(steps: Iterable[StepIds], reasons: Mapping[int, str]) -> Iterator[Segment]:
    """The segments of an episode, each ending with its last trained answer; one without is left out.

    Args:
        steps: in order.
        reasons: as `judge` gives them.
    """
    segment = Segment(0, [], [], [], [])
    for step in steps:
        if step.shared < len(segment.tokens):
            yield from _closed(segment)
            prompt = [*segment.tokens[: step.shared], *step.new]
            segment = Segment(segment.number + 1, [], [], [], [])
        else:
            prompt = step.new
        start = len(segment.tokens)
        segment.tokens.extend(prompt)
        segment.logprobs.extend([float("nan")] * len(prompt))
        segment.pieces.append(Piece(start, len(segment.tokens), step.step))
        start = len(segment.tokens)
        segment.tokens.extend(step.answer)
        known = step.logprobs if len(step.logprobs) == len(step.answer) else [float("nan")] * len(step.answer)
        segment.logprobs.extend(known)
        segment.answers.append(Answer(start, len(segment.tokens), step.step, reasons[step.step]))
    yield from _closed(segment)


def _closed(segment: Segment) -> Iterator[Segment]:
    """What follows the last trained answer teaches nothing and is cut off."""
    trained = segment.trained
    if trained:
        yield cut(segment, trained[-1].end)


def cut(segment: Segment, end: int) -> Segment:
    """The first ``end`` tokens, which must not end inside an answer or a piece."""
    return segment._replace(
        tokens=segment.tokens[:end],
        logprobs=segment.logprobs[:end],
        answers=[answer for answer in segment.answers if answer.end <= end],
        pieces=[piece for piece in segment.pieces if piece.end <= end],
    )


def fitting(segment: Segment, limit: int) -> Segment | None:
    """The segment up to the last trained answer that ends within ``limit`` tokens; None: there is none."""
    ends = [answer.end for answer in segment.trained if answer.end <= limit]
    return cut(segment, ends[-1]) if ends else None
