"""Holds what agents applied against what people wrote."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

WRONGS = ("lost", "doubled", "misrouted", "disordered")


@dataclass(frozen=True)
class Written:
    """A reply as it stands in the end; ``draft`` is what an edit replaced, which the agent may have read
    before, but not after."""

    text: str
    draft: str | None = None


def judge(written: dict[str, list[Written]], applied: dict[str, list[dict[str, Any]]]) -> Counter[str]:
    """How many replies were lost, doubled, misrouted and out of order.

    Args:
        written: episode -> its replies, in the order in which they were written.
        applied: episode -> ``text`` and ``alert`` of all guidance in its trajectory, in order.
    """
    wrongs = Counter(dict.fromkeys(WRONGS, 0))
    for episode in written.keys() | applied.keys():
        replies, records = written.get(episode, []), applied.get(episode, [])
        texts = [record["text"] for record in records]
        first = {text: number for number, text in reversed(list(enumerate(texts)))}
        known = {text for reply in replies for text in (reply.text, reply.draft)}
        wrongs["lost"] += sum(reply.text not in first for reply in replies)
        wrongs["doubled"] += len(texts) - len(first)
        wrongs["misrouted"] += sum(text not in known for text in first)
        wrongs["misrouted"] += sum(r["alert"] not in (None, r["text"].split()[0]) for r in records)
        places = [first[reply.text] for reply in replies if reply.text in first]
        wrongs["disordered"] += sum(after < before for before, after in pairwise(places))
        wrongs["disordered"] += sum(
            first[reply.draft] > first[reply.text]
            for reply in replies
            if reply.draft in first and reply.text in first  # type: ignore[index]
        )
    return wrongs
