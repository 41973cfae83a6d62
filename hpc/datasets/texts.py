"""Examples of conversations that come without token ids: tokenised once, and proven prefix-stable.

Tokenising a conversation again is only safe if each answer's ids follow from the text before it alone. That
is checked turn by turn; a conversation of which it is not true is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hpc.core.errors import DatasetError
from hpc.datasets.segments import Segment, Span
from hpc.datasets.template import Template


class NotStable(DatasetError):
    """The template or tokenizer writes a turn in another way once more follows."""


def from_texts(
    template: Template, messages: Sequence[dict[str, Any]], tools: Any, why_not: Callable[[int], str]
) -> Segment:
    """One segment of a whole conversation; its answers are numbered from 1 like steps.

    Raises:
        NotStable: an answer's ids are not those that its prefix gives.
    """
    whole = template.ids(messages, tools=tools)
    segment = Segment(whole, [float("nan")] * len(whole), [])
    answers = 0
    for place, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        answers += 1
        before = template.ids(messages[:place], tools=tools, answer=True)
        after = template.ids(messages[: place + 1], tools=tools)
        if whole[: len(before)] != before or after[: len(before)] != before or whole[: len(after)] != after:
            raise NotStable(f"answer {answers} is tokenised in another way once more follows", "use another template")
        end = next((spot for spot in range(len(before), len(after)) if after[spot] == template.end), None)
        if end is None:
            raise NotStable(f"answer {answers} has no token that ends it", "use another template")
        segment.spans.append(Span(step=answers, start=len(before), end=end + 1, untrained=why_not(answers)))
    return segment
