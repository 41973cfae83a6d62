"""Guidance in the training context: where its turns lie in the engine's ids, and taking them out.

Kept, the right action can be copied from the context and the model learns to obey; dropped, the model
must know it by itself. A turn is found by what the chat template writes for it, never guessed: fresh
guidance stands directly before the generation prompt of the next step, and in a prompt that was
written anew every turn must be there exactly as often as it was given.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeVar

from hpc.datasets.chat import Chat, Message, TemplateError
from hpc.datasets.segments import Piece, Segment
from hpc.trajectories.reader import Step
from hpc.trajectories.records import GuidanceApplied
from hpc.trajectories.turns import answer_message, real_user, result_message

T = TypeVar("T")


class Refused(Exception):
    """A segment that cannot be proven correct. ``reason`` is a short fixed text, ``detail`` names the place."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Turn(NamedTuple):
    """``tokens[start:end]`` is the turn of one guidance."""

    start: int
    end: int
    id: str


def draws(seed: int, episode: str, guidance: str) -> float:
    """A number in [0, 1) that belongs to this guidance turn and seed."""
    digest = hashlib.sha256(f"{seed}/{episode}/{guidance}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def find(
    segment: Segment,
    given: Sequence[GuidanceApplied],
    chat: Chat,
    opening: Sequence[Message],
    tools: Sequence[Message],
    step_of: Callable[[int], Step],
) -> list[Turn]:
    """The guidance turns of a segment, in order.

    Args:
        given: all guidance of the episode in the order in which it was applied.
        opening: the messages before step 1.
        step_of: a step by its number.

    Raises:
        Refused: one is not where it must be.
    """
    turns: list[Turn] = []
    for number, piece in enumerate(segment.pieces):
        fresh = [each for each in given if each.applied_step == piece.step - 1]
        start = piece.start
        if fresh:
            turns += (found := _at_the_end(segment, piece, fresh, chat, opening, tools, step_of))
            end = found[0].start
        else:
            end = piece.end
        if number == 0 and segment.number > 0:  # a prompt written anew holds the older turns too
            older = [each for each in given if each.applied_step < piece.step - 1]
            turns = [*_in(segment.tokens, start, end, older, chat, opening, tools), *turns]
    return turns


def _at_the_end(
    segment: Segment,
    piece: Piece,
    fresh: Sequence[GuidanceApplied],
    chat: Chat,
    opening: Sequence[Message],
    tools: Sequence[Message],
    step_of: Callable[[int], Step],
) -> list[Turn]:
    before = list(opening)
    if piece.step > 1:
        step = step_of(piece.step - 1)
        before.append(answer_message(step.action))
        if step.observed is not None:
            before.append(result_message(step.action, step.observed))
    texts = []
    for each in fresh:
        turn = {"role": "user", "content": real_user(each.text)}
        texts.append(_turn_text(chat, before, turn, tools))
        before.append(turn)
    end = piece.end - len(chat.generation)
    if segment.tokens[max(end, piece.start) : piece.end] != chat.generation:
        raise Refused("a prompt does not end with the generation prompt", f"step {piece.step}")
    turns: list[Turn] = []
    for each, text in zip(reversed(fresh), reversed(texts), strict=True):
        start = _start_of(segment.tokens, piece.start, end, text, chat)
        if start is None:
            raise Refused("guidance is not where its turn must be", f"step {piece.step}, guidance {each.id}")
        turns.insert(0, Turn(start, end, each.id))
        end = start
    return turns


def _start_of(tokens: Sequence[int], low: int, end: int, text: str, chat: Chat) -> int | None:
    """Where the ids that end at ``end`` and decode to ``text`` begin."""
    ids = chat.encode(text)
    start = end - len(ids)
    if start < low or list(tokens[start:end]) != ids or chat.decode(ids) != text:
        return None
    return start


def _in(
    tokens: Sequence[int],
    low: int,
    high: int,
    older: Sequence[GuidanceApplied],
    chat: Chat,
    opening: Sequence[Message],
    tools: Sequence[Message],
) -> list[Turn]:
    turns: list[Turn] = []
    by_text: dict[str, list[str]] = {}
    for each in older:
        by_text.setdefault(each.text, []).append(each.id)
    for said, names in by_text.items():
        text = _turn_text(chat, opening, {"role": "user", "content": real_user(said)}, tools)
        ids = chat.encode(text)
        if chat.decode(ids) != text:
            raise Refused("guidance does not survive the tokenizer", names[0])
        places = _places(tokens, low, high, ids)
        if len(places) != len(names):
            raise Refused(
                "guidance is not whole in a rewritten context",
                f"{names[0]} is there {len(places)} times, not {len(names)}",
            )
        turns += [Turn(place, place + len(ids), name) for place, name in zip(places, names, strict=True)]
    return sorted(turns)


def _places(tokens: Sequence[int], low: int, high: int, ids: list[int]) -> list[int]:
    width = len(ids)
    return [at for at in range(low, high - width + 1) if tokens[at] == ids[0] and list(tokens[at : at + width]) == ids]


def _turn_text(chat: Chat, before: Sequence[Message], turn: Message, tools: Sequence[Message]) -> str:
    try:
        return chat.added(before, turn, tools)
    except TemplateError as error:
        raise Refused("the chat template has no turns of its own for guidance", str(error)) from error


def without(segment: Segment, turns: Sequence[Turn], dropped: Collection[str]) -> tuple[Segment, list[Turn]]:
    """The segment with the ``dropped`` turns (by id) taken out, and the others where they are then."""
    gone = [turn for turn in turns if turn.id in dropped]
    if not gone:
        return segment, list(turns)
    ends = [turn.end for turn in gone]
    widths = list(itertools.accumulate((turn.end - turn.start for turn in gone), initial=0))

    def moved(place: int) -> int:
        return place - widths[bisect.bisect_right(ends, place)]

    kept = [Turn(moved(turn.start), moved(turn.end), turn.id) for turn in turns if turn.id not in dropped]
    short = segment._replace(
        tokens=_rest(segment.tokens, gone),
        logprobs=_rest(segment.logprobs, gone),
        answers=[answer._replace(start=moved(answer.start), end=moved(answer.end)) for answer in segment.answers],
        pieces=[piece._replace(start=moved(piece.start), end=moved(piece.end)) for piece in segment.pieces],
    )
    return short, kept


def _rest(values: list[T], gone: Sequence[Turn]) -> list[T]:
    """What is left without these turns, which are in order."""
    rest: list[T] = []
    at = 0
    for turn in gone:
        rest += values[at : turn.start]
        at = turn.end
    return rest + values[at:]
