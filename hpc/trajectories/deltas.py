"""Prompts as differences: what a step's prompt shares with the context before it is not stored again.

The context after a step is its prompt followed by its answer, both as the engine tokenised them.
The next prompt almost always begins with it, so a step stores only how many leading ids are shared
and the ids that are new. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence


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


def replay_prompt(steps: Sequence[tuple[int, Sequence[int], Sequence[int]]]) -> list[int]:
    """The prompt of the last of ``steps``.

    Walks back from the end and takes of each step only the ids that the last prompt still shows.

    Args:
        steps: ``(shared, new prompt ids, answer ids)`` of all steps from the first on, in order.
    """
    if not steps:
        return []
    need, new, _ = steps[-1]
    pieces: list[list[int]] = [list(new)]
    for base, added, answer in reversed(steps[:-1]):
        if need <= 0:
            break
        if need > base:
            pieces.append([*added, *answer][: need - base])
            need = base
    return [token for piece in reversed(pieces) for token in piece]
