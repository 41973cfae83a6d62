"""What must hold of an example, proven from its tokens: each function yields (fault, detail) for what does not."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc.datasets.chat import Chat, TemplateError
from hpc.datasets.conversations import Conversation
from hpc.datasets.episode import digest_of
from hpc.examples import Example
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.turns import real_user

Fault = tuple[str, str]
QUOTED = 60
CHOICES = 256
"""So many ways to drop some of several equal guidance turns are tried."""


def runs_of(mask: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Where the mask is not 0: (start, end) of each stretch."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (mask != 0).astype(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def arrays(example: Example, chat: Chat) -> Iterator[Fault]:
    """Ids of this vocabulary, and tokens and mask as they were built."""
    high = int(example.tokens.max())
    if high >= chat.vocabulary:
        yield "a token id beyond the vocabulary", f"{high}, the tokenizer knows {chat.vocabulary}"
    if digest_of(example.tokens, example.loss_mask) != example.meta.get("digest"):
        yield "tokens or mask are not those that were built", ""


def spans(example: Example, chat: Chat, *, cut_off: bool) -> Iterator[Fault]:
    """Exactly whole answers are trained, with their end-of-turn token, and those that the example names.

    Args:
        cut_off: answers without an end-of-turn token may be trained.
    """
    tokens = [int(token) for token in example.tokens]
    answers = chat.answers_in(tokens)
    trained = runs_of(example.loss_mask)
    for start, end in trained:
        yield from _span(start, end, tokens, answers, chat, cut_off=cut_off)
    meta = example.meta
    if trained != [(start, end) for start, end, _ in meta.get("spans", [])]:
        yield "other spans are trained than the example says", f"{len(trained)} in the mask"
    named = sorted(span[0] for key in ("spans", "context_only") for span in meta.get(key, []))
    if named != (begun := [start for start, _ in answers if start >= int(meta.get("prompt", 0))]):
        yield "the answers in the tokens are not those that the example names", f"{len(begun)}, not {len(named)}"
    if not trained:
        yield "nothing is trained", ""
    elif trained[-1][1] != len(tokens):
        yield "the example does not end with a trained answer", f"{len(tokens) - trained[-1][1]} tokens follow"


def _span(
    start: int, end: int, tokens: list[int], answers: list[tuple[int, int]], chat: Chat, *, cut_off: bool
) -> Iterator[Fault]:
    said = repr(chat.decode([token for token in tokens[start:end] if token < chat.vocabulary])[:QUOTED])
    where = f"tokens {start}:{end} {said}"
    touched = [answer for answer in answers if answer[0] < end and start < answer[1]]
    if not touched:
        yield "a token that is not the assistant's is trained", where
        return
    if len(touched) > 1:
        yield "a trained span goes across turns", where
        return
    first, last = touched[0]
    if start < first or end > last:
        yield "a token that is not the assistant's is trained", where
    if start > first or (end < last - 1):
        yield "only a part of an answer is trained", where
    ended = tokens[end - 1] in chat.end_of_turn
    if not ended and not (cut_off and end >= last - 1):
        yield "the end-of-turn token is not in the trained span", where


def conversation(example: Example, said: Conversation, chat: Chat) -> Iterator[Fault]:
    """The messages beside the example are those in its tokens."""
    if not said.messages:
        if example.meta.get("segment") == 0:
            yield "the conversation is empty", ""
        return
    first = next((i for i, told in enumerate(said.messages) if told["role"] == "assistant" and i >= said.opening), None)
    prompt = [int(token) for token in example.tokens[: int(example.meta.get("prompt", 0))]]
    try:
        opening = chat.render(said.messages[:first], said.tools, answer=True)
        whole = chat.render(said.messages, said.tools)
    except TemplateError as error:
        yield "the chat template refuses the conversation", str(error)
        return
    text = chat.decode([token for token in prompt if token < chat.vocabulary])
    if text != opening:
        yield "the prompt is not what the chat template writes", f"{text[:QUOTED]!r}, not {opening[:QUOTED]!r}"
    if example.meta.get("ids") == "text":
        # the last token ends the turn, which some templates leave to a turn that is not here
        text = chat.decode([int(token) for token in example.tokens[:-1] if token < chat.vocabulary])
        if not whole.startswith(text):
            yield "the tokens are not what the chat template writes", ""
    answered = sorted([(s[0], 1) for s in example.meta["spans"]] + [(s[0], 0) for s in example.meta["context_only"]])
    loss = [
        flag
        for i, (told, flag) in enumerate(zip(said.messages, said.loss, strict=True))
        if told["role"] == "assistant" and i >= said.opening
    ]
    if loss != [flag for _, flag in answered] or sum(said.loss) != len(example.meta["spans"]):
        yield "the messages that are trained are not the spans", f"{sum(said.loss)} messages"


def source(example: Example, trajectory: Trajectory, chat: Chat) -> Iterator[Fault]:
    """The tokens are the engine's of this trajectory, and of what was said only dropped guidance is missing.

    Not for examples that were tokenised from text: of those there are no engine's tokens.
    """
    meta: dict[str, Any] = example.meta
    tokens = [int(token) for token in example.tokens]
    listed = [*meta["spans"], *(answer[:3] for answer in meta["context_only"])]
    for start, end, step in listed:
        if tokens[start:end] != trajectory.step(step).action.token_ids:
            yield "an answer is not the engine's", f"step {step}"
            return
    last = max(step for _, _, step in listed)
    stored = trajectory.tokens(last)
    whole = [*stored.prompt, *stored.answer]
    if not meta["guidance_dropped"]:
        if tokens != whole:
            yield "the tokens are not the engine's", f"{len(tokens)} of {len(whole)} tokens"
        return
    if chat.decode(tokens) not in _reduced(chat, chat.decode(whole), trajectory, meta["guidance_dropped"]):
        yield "the tokens are not the engine's without the dropped guidance", ""


def _reduced(chat: Chat, text: str, trajectory: Trajectory, dropped: Sequence[str]) -> Iterator[str]:
    """The text without the turns of dropped guidance; several where some of equal turns were kept."""
    header = trajectory.header
    gone = Counter(each.text for each in trajectory.guidance if each.id in dropped)
    texts = [text]
    for said, count in gone.items():
        turn = chat.added(header.messages, {"role": "user", "content": real_user(said)}, header.tools)
        texts = [reduced for each in texts for reduced in _without(each, turn, count)][:CHOICES]
    yield from texts


def _without(text: str, turn: str, count: int) -> Iterator[str]:
    parts = text.split(turn)
    for chosen in itertools.islice(itertools.combinations(range(1, len(parts)), count), CHOICES):
        yield parts[0] + "".join(
            ("" if number in chosen else turn) + part for number, part in enumerate(parts[1:], start=1)
        )
