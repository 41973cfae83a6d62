"""Prompts as differences: what a step's prompt shares with the context before it is not stored again.

The context after a step is its prompt followed by its answer, both as the engine tokenised them.
The next prompt almost always begins with it, so a step stores only how many leading ids are shared
and the ids that are new. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


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
