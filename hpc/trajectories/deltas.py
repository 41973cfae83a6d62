"""Prompts as differences: what a step's prompt shares with the context before it is not stored again.

The context after a step is its prompt followed by its answer, both as the engine tokenised them.
The next prompt almost always begins with it, so a step stores only how many leading ids are shared
and the ids that are new. Pure functions.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

LEAST_COPIED = 8
"""A shorter run of equal ids may be chance."""


def split_prompt(context: Sequence[int], prompt: Sequence[int]) -> tuple[int, list[int]]:
    """How ``prompt`` differs from the context before it.

    Args:
        context: ids of the previous step's prompt and answer, in order; empty before step 1.
        prompt: ids of the new prompt.

    Returns:
        The number of leading ids that both share, and the rest of the prompt.
    """
    if not isinstance(prompt, list) or not isinstance(context, list):
        context, prompt = list(context), list(prompt)
    limit = min(len(context), len(prompt))
    if context[:limit] == prompt[:limit]:  # compared in C: the common case, and contexts are long
        return limit, prompt[limit:]
    shared = next(i for i in range(limit) if context[i] != prompt[i])
    return shared, prompt[shared:]


def join_prompt(context: Sequence[int], shared: int, new: Sequence[int]) -> list[int]:
    """The prompt that `split_prompt` took apart."""
    return [*context[:shared], *new]


def copied_spans(context: Sequence[int], prompt: Sequence[int], shared: int) -> list[tuple[int, int]]:
    """Where a prompt behind a summary repeats the end of the context before it, token by token.

    A summary takes the place of the middle of a context: what follows it is attached again. That tail is
    found from its end backwards; where a chat template or tokeniser writes it anew (an answer as
    the model sampled it need not be as it is tokenised from text) the span is parted.

    Args:
        context: ids of the prompt and answer before the summary.
        prompt: ids of the prompt behind it.
        shared: leading ids that both share, which are no copies.

    Returns:
        Ranges (first, behind the last) of the prompt, in order, of at least `LEAST_COPIED` ids, whose ids
        are in the context in the same order.
    """
    old, new = np.asarray(context[shared:], np.int64), np.asarray(prompt[shared:], np.int64)
    places: dict[int, list[int]] = {}
    for place, name in enumerate(_names(new)):
        places.setdefault(name, []).append(place)
    names = _names(old)
    spans: list[tuple[int, int]] = []
    end_old, end_new = len(old), len(new)
    while end_old >= LEAST_COPIED and end_new >= LEAST_COPIED:
        found = places.get(names[end_old - LEAST_COPIED], [])
        at = bisect.bisect_right(found, end_new - LEAST_COPIED) - 1
        stop = found[at] + LEAST_COPIED if at >= 0 else 0
        room = min(end_old, stop)
        same = old[end_old - room : end_old][::-1] == new[stop - room : stop][::-1]
        length = room if same.all() else int(np.argmin(same))
        if length < LEAST_COPIED:
            end_old -= 1
            continue
        spans.append((shared + stop - length, shared + stop))
        end_old, end_new = end_old - length, stop - length
    return spans[::-1]


def _names(ids: NDArray[np.int64]) -> list[int]:
    """A number for each run of `LEAST_COPIED` ids: equal runs have equal ones (and others hardly ever)."""
    if len(ids) < LEAST_COPIED:
        return []
    runs = np.lib.stride_tricks.sliding_window_view(ids, LEAST_COPIED)
    factors = np.array([6364136223846793005**power % 2**63 for power in range(LEAST_COPIED)], np.int64)
    named: list[int] = (runs * factors).sum(axis=1).tolist()  # wraps around, which does no harm
    return named


def replay_prompt(newest_first: Iterable[tuple[int, Sequence[int], Sequence[int]]]) -> list[int]:
    """The prompt of a step, put together from that step and those before it.

    Walks back and takes of each step only the ids that the prompt still shows; stops asking for
    earlier steps once the prompt is complete.

    Args:
        newest_first: ``(shared, new prompt ids, answer ids)`` of the step itself, then of the steps
            before it, backwards to the first.
    """
    steps = iter(newest_first)
    need, new, _ = next(steps, (0, (), ()))
    pieces: list[list[int]] = [list(new)]
    while need > 0:
        base, added, answer = next(steps, (0, (), ()))
        if need > base:
            pieces.append([*added, *answer][: need - base])
            need = base
    return [token for piece in reversed(pieces) for token in piece]
