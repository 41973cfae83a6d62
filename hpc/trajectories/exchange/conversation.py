"""Records as messages, and back.

A chat's messages hold what was said. The rest of each record (ids, times, scores, provenance) goes
along as small JSON objects, its *remainder*, in whatever place a format has for metadata; from messages
and remainders together the same records are made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from hpc.trajectories.order import RecordOrder
from hpc.trajectories.records import (
    Action,
    ActionTaken,
    EpisodeHeader,
    GuidanceApplied,
    Observed,
    Record,
)
from hpc.trajectories.turns import answer_message, real_user, result_message

KEY = "apollo_hpc"
"""Under this key of a format's metadata the remainders lie."""
TOKEN_FIELDS = ("shared_tokens", "new_prompt_ids", "token_ids", "logprobs")


class Part(NamedTuple):
    """One record: the messages that it stands for, and the remainder."""

    record: Record
    messages: list[dict[str, Any]]
    remainder: dict[str, Any]


def parts_of(records: Iterable[Record]) -> Iterator[Part]:
    """Each record with its messages, in order. Token ids are in neither."""
    taken: ActionTaken | None = None
    for record in records:
        if isinstance(record, EpisodeHeader):
            rest = _without(record, "messages", "tools") | {"prompt": len(record.messages)}
            yield Part(record, [dict(message) for message in record.messages], rest)
        elif isinstance(record, ActionTaken):
            taken = record
            calls = record.tool_calls
            held = ["text", *TOKEN_FIELDS]
            if not calls or (len(calls) == 1 and is_plain_call(calls[0])):
                held.append("tool_calls")
            if calls and called(calls[0]) == record.action:
                held.append("action")
            yield Part(record, [answer_message(record)], _without(record, *held))
        elif isinstance(record, Observed) and taken is not None:
            rest = _without(record)
            rest["observation"].pop("text")
            yield Part(record, [result_message(taken, record)], rest)
        elif isinstance(record, GuidanceApplied):
            yield Part(record, [{"role": "user", "content": real_user(record.text)}], _without(record))
        else:
            yield Part(record, [], _without(record))


class Mismatch(ValueError):
    """Messages that were changed since their remainders were written."""


def records_of(
    messages: Sequence[dict[str, Any]], tools: list[dict[str, Any]], remainders: Sequence[dict[str, Any]]
) -> list[Record]:
    """The records of which `parts_of` made these messages and remainders, without token ids.

    Raises:
        Mismatch: they do not belong together.
    """
    if not all(isinstance(message, dict) for message in messages):
        raise Mismatch("a message is no object")
    try:
        return _matched(messages, tools, remainders)
    except Mismatch:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration, RecursionError) as error:
        raise Mismatch(" ".join(str(error).split()) or "there are fewer messages") from error


def _matched(
    messages: Sequence[dict[str, Any]], tools: list[dict[str, Any]], remainders: Sequence[dict[str, Any]]
) -> list[Record]:
    left = iter(messages)
    records = []
    for remainder in remainders:
        records.append(_restored(dict(remainder), left, tools))
    if next(left, None) is not None:
        raise Mismatch("there are more messages")
    if not records or not isinstance(records[0], EpisodeHeader):
        raise Mismatch("there is no header")
    order = RecordOrder()
    for record in records:
        problem = order.problem(record)
        if problem:
            raise Mismatch(problem)
        order.take(record)
    ours = [message for part in parts_of(records) for message in part.messages]
    for written, message in zip(ours, messages, strict=True):
        if not _alike(written, message):
            raise Mismatch("a message is not the one that was written")
    return records


def _restored(rest: dict[str, Any], left: Iterator[dict[str, Any]], tools: list[dict[str, Any]]) -> Record:
    kind = rest.get("type")
    if kind == "header":
        rest |= {"messages": [next(left) for _ in range(rest.pop("prompt"))], "tools": tools}
    elif kind == "action":
        message = next(left)
        calls = rest.get("tool_calls", message.get("tool_calls") or [])
        rest |= {"text": message.get("content") or "", "tool_calls": calls}
        if "action" not in rest:
            rest["action"] = called(calls[0]) if calls else Action(name="")
    elif kind == "observation":
        rest["observation"] = {**rest["observation"], "text": next(left)["content"]}
    elif kind == "guidance":
        next(left)
    record: Record = msgspec.convert(msgspec.to_builtins(rest), Record)
    return record


def called(call: dict[str, Any]) -> Action:
    """The action that a tool call (as OpenAI writes it) asks for."""
    function = call.get("function") or {}
    name, written, call_id = str(function.get("name", "")), function.get("arguments") or "{}", str(call.get("id", ""))
    try:
        arguments = json.loads(written) if isinstance(written, str) else written
    except (ValueError, RecursionError) as error:
        return Action(name="null", call_id=call_id, problem=f"arguments of {name} are not JSON: {error}")
    if not isinstance(arguments, dict):
        return Action(name="null", call_id=call_id, problem=f"arguments of {name} are not a JSON object")
    return Action(name=name, arguments=arguments, call_id=call_id)


def is_plain_call(call: dict[str, Any]) -> bool:
    """Whether a tool call has no more than OpenAI's keys, with its arguments as text."""
    function = call.get("function")
    return (
        set(call) <= {"id", "type", "function"}
        and isinstance(function, dict)
        and set(function) == {"name", "arguments"}
        and all(isinstance(value, str) for value in [*function.values(), call.get("id", ""), call.get("type", "")])
    )


def _without(record: Record, *fields: str) -> dict[str, Any]:
    """The record as plain values, leaving out these fields and those that say no more than their default."""
    value: dict[str, Any] = msgspec.to_builtins(record)
    for field in msgspec.structs.fields(record):
        if field.name in fields or value[field.name] == _default(field):
            del value[field.name]
    return value


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return field.default
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else msgspec.NODEFAULT


def _alike(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether two messages say the same: role, text, and which tool is called with what."""
    if any((ours.get(name) or "") != (theirs.get(name) or "") for name in ("role", "content")):
        return False
    return [_asked(call) for call in ours.get("tool_calls") or []] == [
        _asked(call) for call in theirs.get("tool_calls") or []
    ]


def _asked(call: dict[str, Any]) -> tuple[str, str, str]:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return str(call.get("id") or ""), str(function.get("name") or ""), written
