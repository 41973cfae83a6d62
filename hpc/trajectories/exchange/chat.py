"""Chats in OpenAI's form, ``{messages, tools}``: what the JSONL and the Parquet rows are made of.

Beside the two a row has ``metadata``; its key ``apollo_hpc`` holds the remainders of the records (see
`hpc.trajectories.exchange.conversation`), so that our own rows come back as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from hpc.core.errors import TrajectoryLayoutError
from hpc.trajectories.exchange import foreign
from hpc.trajectories.exchange.conversation import KEY, Mismatch, parts_of, records_of
from hpc.trajectories.exchange.losses import TOKENS
from hpc.trajectories.exchange.source import adopted, episode_id_of, imported_header, text_of
from hpc.trajectories.records import EpisodeHeader, Origin, Record

LOSSES = (TOKENS,)
LOST_ON_IMPORT = [
    "no token ids and log-probabilities: the source has text only",
    "no times: `at` and `created_at` are 0",
]
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_HELD = {"role", "content", "tool_calls", "tool_call_id", "name"}


def row_of(records: Iterable[Record], *, bare: bool = False) -> dict[str, Any]:
    """A trajectory as ``{messages, tools, metadata}``; ``bare`` leaves the metadata out."""
    messages: list[dict[str, Any]] = []
    tools: list[dict[str, Any]] = []
    remainders: list[dict[str, Any]] = []
    for part in parts_of(records):
        if isinstance(part.record, EpisodeHeader):
            tools = part.record.tools
        messages += part.messages
        remainders.append(part.remainder)
    row: dict[str, Any] = {"messages": messages, "tools": tools}
    return row if bare else row | {"metadata": {KEY: remainders}}


def records_of_row(row: Any, origin: Origin, where: str) -> list[Record]:
    """The records of a row.

    Args:
        row: a parsed row.
        origin: what the header is to say of its source.
        where: the row's place, for errors, such as ``chats.jsonl:3``.

    Raises:
        TrajectoryLayoutError: no such row, or its messages cannot be steps.
    """
    messages, tools = _checked(row, where)
    metadata = row.get("metadata")
    remainders = metadata.get(KEY) if isinstance(metadata, dict) else None
    if isinstance(remainders, list):
        try:
            records = records_of(messages, tools, remainders)
        except Mismatch as error:
            note = f"the metadata of this project, because the messages were changed since: {error}"
            origin = msgspec.structs.replace(origin, lost=[*origin.lost, note])
        else:
            lost = [loss.what for loss in LOSSES]
            return adopted(records, msgspec.structs.replace(origin, lost=[*origin.lost, *lost]))
    return _foreign(row, messages, tools, origin, where)


def _checked(row: Any, where: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        raise TrajectoryLayoutError(f"{where} has no list of `messages`", "name a file of OpenAI chats")
    for i, message in enumerate(row["messages"], start=1):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            said = message.get("role") if isinstance(message, dict) else message
            raise TrajectoryLayoutError(
                f"{where}: message {i} has the role {str(said)[:40]!r}", f"roles are {', '.join(ROLES)}"
            )
        calls = message.get("tool_calls") or []
        if not isinstance(calls, list) or not all(
            isinstance(c, dict) and isinstance(c.get("function"), dict) for c in calls
        ):
            raise TrajectoryLayoutError(f"{where}: message {i} has tool calls without a function", "mend the row")
    tools = row.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise TrajectoryLayoutError(f"{where}: `tools` is not a list of objects", "mend the row")
    return row["messages"], tools


def _foreign(
    row: dict[str, Any], messages: list[dict[str, Any]], tools: list[dict[str, Any]], origin: Origin, where: str
) -> list[Record]:
    first = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    extra = {name: value for name, value in row.items() if name not in ("messages", "tools") and value is not None}
    odd, fields = _odd(messages[first:])
    if fields:
        extra["message_fields"] = fields
    origin = msgspec.structs.replace(
        origin, lost=[*origin.lost, *LOST_ON_IMPORT, *odd], extra={**origin.extra, **extra}
    )
    try:
        steps = foreign.steps_of(_turns(messages, first), episode_id=episode_id_of(origin))
    except foreign.NotSteps as error:
        raise TrajectoryLayoutError(f"{where} cannot be steps: {error}", "mend the order of its messages") from error
    header = imported_header(origin, messages=messages[:first], tools=tools)
    return [header, *steps, foreign.outcome_of(steps)]


def _turns(messages: list[dict[str, Any]], first: int) -> Iterator[foreign.Said | foreign.Heard | foreign.Told]:
    for i, message in enumerate(messages[first:], start=first + 1):
        where, text = f"message {i}", text_of(message.get("content"))
        match message["role"]:
            case "assistant":
                calls = message.get("tool_calls") or []
                yield foreign.Said(where=where, text=text, calls=[_call(call) for call in calls])
            case "tool" | "function":
                yield foreign.Heard(where=where, text=text, call_id=str(message.get("tool_call_id") or ""))
            case "user":
                yield foreign.Told(where=where, text=text)
            case role:
                raise foreign.NotSteps(f"{where} is of the role {role!r} after the first answer")


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call without the nulls that columns of structs add."""
    return {name: value for name, value in call.items() if value is not None}


def _odd(messages: list[dict[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """What these messages say beyond text and tool calls: in words, and itself with its place."""
    fields: list[dict[str, Any]] = []
    counted: dict[str, int] = {}
    for i, message in enumerate(messages):
        more = {name: value for name, value in message.items() if name not in _HELD and value is not None}
        content = message.get("content")
        if isinstance(content, list) and any(not _is_text(part) for part in content):
            more["parts that are not text"] = [part for part in content if not _is_text(part)]
        for name in more:
            counted[name] = counted.get(name, 0) + 1
        if more:
            fields.append({"message": i, **more})
    return [f"{name} of {n} messages (kept in origin.extra only)" for name, n in sorted(counted.items())], fields


def _is_text(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("text"), str))
