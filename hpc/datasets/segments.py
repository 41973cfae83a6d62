"""From the steps of an episode to token sequences with trained spans. Pure.

A step's prompt repeats the context before it as far as ``shared_tokens`` says. While it repeats all of it,
the episode is one growing sequence, and its answers are spans in it. Where a prompt repeats less (a
summary replaced the beginning, old observations were shortened) a new segment begins with that prompt:
what it repeats of earlier answers is context there and was trained, if at all, in the segment before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec


class StepIds(msgspec.Struct, frozen=True, kw_only=True):
    """A step in the engine's own ids: see docs/trajectory-format.md. ``logprobs`` may be empty."""

    step: int
    shared: int
    new: Sequence[int]
    answer: Sequence[int]
    logprobs: Sequence[float] = ()


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a step in a segment: tokens ``start`` to ``end`` - 1, and why it is not trained (empty: it is)."""

    step: int
    start: int
    end: int
    untrained: str = ""


class Cut(msgspec.Struct, frozen=True):
    """Tokens taken out of prompt ids: ``start`` to ``end`` - 1 of them."""

    start: int
    end: int


class Segment(msgspec.Struct):
    """One token sequence: lists of the same length. ``logprobs`` are NaN but for answers, and for all behind a
    cut: the engine saw another context there."""

    tokens: list[int]
    logprobs: list[float]
    spans: list[Span]
    cuts: int = 0

    @property
    def mask(self) -> list[int]:
        """1 where a token is trained."""
        mask = [0] * len(self.tokens)
        for span in self.spans:
            if not span.untrained:
                mask[span.start : span.end] = [1] * (span.end - span.start)
        return mask


_NAN = float("nan")


def segments(
    steps: Iterable[StepIds],
    *,
    end: int,
    why_not: Callable[[int], str],
    cuts: Callable[[int, Sequence[int], bool], list[Cut]],
) -> Iterator[Segment]:
    """The segments of an episode, in order; those in which nothing is trained are left out.

    Args:
        end: id that ends a turn; an answer without it at its end was cut off and is not trained.
        why_not: why a step's answer is not to be trained; empty: it is.
        cuts: what is to be taken out: asked with the number of a step, prompt ids, and whether these are the
            whole prompt (where a segment begins) or what is new in it.
    """
    context: list[int] = []  # as the engine saw it
    segment = Segment([], [], [])
    for step in steps:
        if step.shared < len(context) or not segment.tokens:
            if any(not span.untrained for span in segment.spans):
                yield segment
            prompt = [*context[: step.shared], *step.new]
            segment = Segment([], [], [])
            _add(segment, prompt, cuts(step.step, prompt, True))
        else:
            prompt = [*context, *step.new]
            _add(segment, step.new, cuts(step.step, step.new, False))
        start = len(segment.tokens)
        segment.tokens += step.answer
        whole = len(step.logprobs) == len(step.answer) and not segment.cuts
        segment.logprobs += step.logprobs if whole else [_NAN] * len(step.answer)
        reason = why_not(step.step)
        if not reason and (not step.answer or step.answer[-1] != end):
            reason = "the answer was cut off"
        segment.spans.append(Span(step=step.step, start=start, end=len(segment.tokens), untrained=reason))
        context = [*prompt, *step.answer]
    if any(not span.untrained for span in segment.spans):
        yield segment


def _add(segment: Segment, ids: Sequence[int], cuts: list[Cut]) -> None:
    position = 0
    for cut in sorted(cuts, key=lambda cut: cut.start):
        segment.tokens += ids[position : cut.start]
        position = cut.end
        segment.cuts += 1
    segment.tokens += ids[position:]
    segment.logprobs += [_NAN] * (len(segment.tokens) - len(segment.logprobs))
