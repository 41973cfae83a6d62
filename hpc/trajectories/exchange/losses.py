"""What a format cannot hold. Every format has a ``LOSSES``; nothing else of a record may change on the
way there and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from hpc.trajectories.exchange.conversation import is_plain_call
from hpc.trajectories.records import Record


class Loss(NamedTuple):
    """One thing that a format cannot hold: ``what`` in words, and the ``fields`` of records that it means.

    A field is written ``kind.field`` with the record's type, such as ``action.logprobs``.
    """

    what: str
    fields: tuple[str, ...]


TOKENS = Loss(
    "token ids and log-probabilities (text only; take the HDF5 file where the engine's own tokens matter)",
    ("action.shared_tokens", "action.new_prompt_ids", "action.token_ids", "action.logprobs"),
)
PROMPT_FIELDS = Loss(
    "keys of prompt messages other than role, content, name, tool_calls and tool_call_id, and parts that are not text",
    ("header.messages",),
)
BARE = Loss(
    "everything but messages and tools: ids, times, costs, scores, alerts, provenance of guidance, summaries, "
    "snapshots, outcome (--bare)",
    (),
)


def occurrences(losses: Sequence[Loss], records: Sequence[Record]) -> Counter[str]:
    """How many of these records really lose something, for each loss."""
    found: Counter[str] = Counter()
    for record in records:
        kind = str(record.__struct_config__.tag)
        for loss in losses:
            if any(
                has(record, field.removeprefix(f"{kind}.")) for field in loss.fields if field.startswith(f"{kind}.")
            ):
                found[loss.what] += 1
    return found


def has(record: Record, field: str) -> bool:
    """Whether the field says anything, that is, more than its default does."""
    value: Any = getattr(record, field)
    if field == "messages":
        return any(not _plain_message(message) for message in value)
    return bool(value)


def _plain_message(message: dict[str, Any]) -> bool:
    held = {"role", "content", "name", "tool_calls", "tool_call_id"}
    calls = message.get("tool_calls") or []
    return (
        set(message) <= held
        and isinstance(message.get("content", ""), str)
        and isinstance(calls, list)
        and all(isinstance(call, dict) and is_plain_call(call) for call in calls)
    )
