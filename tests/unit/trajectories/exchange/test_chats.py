"""Chats of others: which conversations become steps, and one clear line for those that cannot."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc.core.errors import HpcError, TrajectoryLayoutError
from hpc.trajectories import codec
from hpc.trajectories.exchange import chat, jsonl
from hpc.trajectories.exchange.conversation import KEY
from hpc.trajectories.order import RecordOrder
from hpc.trajectories.records import (
    ActionTaken,
    EpisodeHeader,
    GuidanceApplied,
    Observed,
    Origin,
    OutcomeReached,
    Record,
)
from tests.unit.trajectories import samples

ORIGIN = Origin(format="jsonl", file="chats.jsonl", sha256="ab" * 32, entry="line 1")
SYSTEM, USER = {"role": "system", "content": "Work."}, {"role": "user", "content": "Go."}


def call(call_id: str, name: str = "run", arguments: str = '{"x": 1}') -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def said(text: str, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **({"tool_calls": list(calls)} if calls else {})}


def result(call_id: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def read(*messages: dict[str, Any], **row: Any) -> list[Record]:
    return chat.records_of_row({"messages": list(messages), **row}, ORIGIN, "chats.jsonl:1")


def steps(records: list[Record]) -> list[tuple[str, str, str | None]]:
    """Action, what was said and what came of it."""
    found: list[tuple[str, str, str | None]] = []
    for record in records:
        if isinstance(record, ActionTaken):
            found.append((record.action.name, record.text, None))
        elif isinstance(record, Observed):
            found[-1] = (*found[-1][:2], record.observation.text)
    return found


def test_answers_and_results_become_steps() -> None:
    tools = [{"type": "function", "function": {"name": "run"}}]
    records = read(SYSTEM, USER, said("first", call("a")), result("a", "one"), said("done"), tools=tools, score=3)
    header, outcome = records[0], records[-1]
    assert isinstance(header, EpisodeHeader)
    assert isinstance(outcome, OutcomeReached)
    assert steps(records) == [("run", "first", "one"), ("message", "done", None)]
    assert (header.messages, header.tools) == ([SYSTEM, USER], tools)
    assert header.origin is not None
    assert header.origin.extra == {"score": 3}
    assert (outcome.status, outcome.steps) == ("finished", 2)


def test_parallel_calls_become_a_step_each_in_their_order() -> None:
    records = read(
        USER, said("both", call("a"), call("b", "look")), result("b", "two"), result("a", "one"), said("end")
    )
    assert steps(records) == [("run", "both", "one"), ("look", "", "two"), ("message", "end", None)]
    assert [record.action.call_id for record in records if isinstance(record, ActionTaken)] == ["a", "b", ""]


def test_a_user_after_a_result_is_guidance_and_after_a_mere_answer_the_observation() -> None:
    hint = {"role": "user", "content": "<real_user>try b</real_user>"}
    records = read(
        USER, said("x", call("a")), result("a", "one"), hint, said("what?"), {"role": "user", "content": "yes"}
    )
    (guidance,) = [record for record in records if isinstance(record, GuidanceApplied)]
    assert (guidance.text, guidance.applied_step, guidance.annotator) == ("try b", 1, "unknown")
    assert steps(records)[-1] == ("message", "what?", "yes")


def test_only_the_last_call_may_lack_its_result() -> None:
    records = read(USER, said("x", call("a"), call("b")), result("a", "one"))
    assert steps(records) == [("run", "x", "one"), ("run", "", None)]
    outcome = records[-1]
    assert isinstance(outcome, OutcomeReached)
    assert outcome.status == "truncated"


def test_what_has_no_place_is_kept_and_named() -> None:
    parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "u"}}]
    answer = {**said("x", call("a")), "reasoning_content": "because"}
    records = read(USER, answer, {**result("a", ""), "content": parts})
    header = records[0]
    assert isinstance(header, EpisodeHeader)
    assert header.origin is not None
    assert {"message": 0, "reasoning_content": "because"} in header.origin.extra["message_fields"]
    assert any("reasoning_content of 1 messages" in lost for lost in header.origin.lost)
    assert any("parts that are not text of 1 messages" in lost for lost in header.origin.lost)
    assert steps(records) == [("run", "x", "see")]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([USER], "there is no answer"),
        ([USER, said("a"), said("b")], "message 3 is an answer, but message 2 has had no result"),
        ([USER, said("a", call("a")), said("b")], "message 3 is an answer, but message 2 has had no result"),
        ([USER, said("a", call("a")), result("z", "")], "message 3 is the result of call 'z'"),
        ([USER, said("a"), result("z", "")], "message 3 is the result of call 'z', but message 2 calls no tool"),
        ([USER, said("a", call("a")), result("a", ""), result("a", "")], "message 4 is a result, but no tool"),
        ([USER, said("a", call("a"), call("b"))], "2 tool calls of message 2"),
        ([USER, said("a", call("a"), call("a"))], "message 2 has tool calls with the same id"),
        ([USER, said("a", call("a"), call("b")), USER], "message 3 is the user's"),
        ([USER, said("a", call("a")), result("a", ""), SYSTEM], "message 4 is of the role 'system'"),
        ([{"role": "robot"}], "message 1 has the role 'robot'"),
        ([USER, {"role": "assistant", "tool_calls": [{"id": "a"}]}], "message 2 has tool calls without a function"),
        (["text"], "message 1 has the role 'text'"),
    ],
)
def test_a_conversation_that_cannot_be_steps_names_the_message(messages: list[Any], words: str) -> None:
    with pytest.raises(TrajectoryLayoutError) as raised:
        read(*messages)
    assert words in raised.value.message
    assert raised.value.message.startswith("chats.jsonl:1")


def test_each_bad_line_is_an_error_of_its_own(tmp_path: Path) -> None:
    good = json.dumps({"messages": [USER, said("end")]}).encode()
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b"\n".join([good, b"{", b"", b"\xff", good, b'["a"]', b'{"messages": "a"}', good[:-9]]))
    found = list(jsonl.read(path, sha256=""))
    assert [entry for entry, _ in found] == [f"line {n}" for n in (1, 2, 4, 5, 6, 7, 8)]
    errors = {entry: records.message for entry, records in found if isinstance(records, HpcError)}
    assert {entry: errors[entry].removeprefix(str(path)).split(":")[1].split()[0] for entry in errors} == {
        f"line {n}": str(n) for n in (2, 4, 6, 7, 8)
    }
    assert "truncated" in errors["line 2"]
    assert "not UTF-8" in errors["line 4"]
    assert "no list of `messages`" in errors["line 6"]
    assert "truncated" in errors["line 8"]


def test_changed_messages_are_read_as_anybodys_and_said_so() -> None:
    row = chat.row_of(samples.episode(6))
    row["messages"] = [message for message in row["messages"] if not str(message["content"]).startswith("<real_user>")]
    header = chat.records_of_row(row, ORIGIN, "x")[0]
    assert isinstance(header, EpisodeHeader)
    assert header.origin is not None
    assert "the messages were changed since" in header.origin.lost[0]
    assert header.episode_id.startswith("im-")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PATHS = st.lists(st.integers(0, 30), min_size=1, max_size=6)


def put(value: Any, path: list[int], new: Any) -> Any:
    """The value with what is at some place in it replaced."""
    if not path or not value or not isinstance(value, list | dict):
        return new
    if isinstance(value, list):
        at = path[0] % len(value)
        return [*value[:at], put(value[at], path[1:], new), *value[at + 1 :]]
    name = list(value)[path[0] % len(value)]
    return {**value, name: put(value[name], path[1:], new)}


@settings(max_examples=int(os.environ.get("HPC_TEST_FUZZ", "50")), deadline=None)
@given(path=PATHS, new=VALUES)
def test_no_row_whatever_it_holds_does_more_than_be_refused(path: list[int], new: Any) -> None:
    row = put(json.loads(json.dumps(chat.row_of(samples.episode(3)))), path, new)
    try:
        records = chat.records_of_row(row, ORIGIN, "x")
    except HpcError as error:
        assert "\n" not in error.message
        return
    order = RecordOrder()
    for record in records:
        assert order.problem(record) is None
        order.take(record)


def test_the_metadata_is_small_beside_the_messages() -> None:
    row = chat.row_of(samples.episode(50, size=2000))
    written = [codec.encode(record) for record in samples.episode(50, size=2000)]
    assert len(json.dumps(row["metadata"][KEY])) < 0.5 * sum(map(len, written))
