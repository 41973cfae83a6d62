"""Episodes without token ids: text of other tools, tokenised once and proven to be stable."""

from __future__ import annotations

from collections.abc import Sequence

from hpc.datasets.chat import Chat, Message, TemplateError
from hpc.datasets.guidance import Refused
from hpc.datasets.segments import StepIds


def steps_of_text(
    messages: Sequence[Message], steps: Sequence[int], chat: Chat, tools: Sequence[Message]
) -> list[StepIds]:
    """Ids of a whole conversation, cut where each answer begins and ends.

    The conversation is tokenised once. Proven of every answer: what the template writes up to it begins
    the text of the whole, and tokenised alone gives the ids that begin the ids of the whole.

    Args:
        messages: all of them.
        steps: for each assistant message in order, the number of its step.

    Raises:
        Refused: the template or the tokenizer is not stable on this conversation.
    """
    try:
        whole = chat.render(messages, tools)
        places = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        cuts = [
            (chat.render(messages[:at], tools, answer=True), chat.render(messages[: at + 1], tools)) for at in places
        ]
    except TemplateError as error:
        raise Refused("the chat template refuses the conversation", str(error)) from error
    ids = chat.encode(whole)
    if chat.decode(ids) != whole:
        raise Refused("the text does not survive the tokenizer")
    found: list[StepIds] = []
    context = 0
    for step, (asked, answered) in zip(steps, cuts, strict=True):
        if not whole.startswith(asked) or not whole.startswith(answered):
            raise Refused("the chat template writes old turns differently", f"step {step}")
        start, end = _prefix(ids, asked, chat, step), _prefix(ids, answered, chat, step)
        # some templates have no end of turn of their own: the next turn's first token is it (GLM)
        stop = next((at + 1 for at in range(start, min(end + 1, len(ids))) if ids[at] in chat.end_of_turn), end)
        found.append(StepIds(step, context, ids[context:start], ids[start:stop], []))
        context = stop
    return found


def _prefix(ids: Sequence[int], text: str, chat: Chat, step: int) -> int:
    """How many leading ids are this text."""
    alone = chat.encode(text)
    if list(ids[: len(alone)]) != alone:
        raise Refused("the tokenizer is not prefix-stable on the conversation", f"step {step}")
    return len(alone)
