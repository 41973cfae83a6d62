"""ATIF: documents that its validator takes, and those of others."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from hpc.core.errors import HpcError, TrajectoryError, TrajectoryLayoutError
from hpc.trajectories.deltas import replay_prompt
from hpc.trajectories.exchange import atif, atif_reader
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
from tests.unit.trajectories.exchange.support import odd_episode
from tests.unit.trajectories.exchange.test_chats import PATHS, VALUES, put

ORIGIN = Origin(format="atif", file="t.json", sha256="ab" * 32)
# The keys that ATIF-v1.6 knows, and which it asks for; it forbids others.
KEYS = {
    "document": ({"schema_version", "session_id", "agent", "steps"}, {"notes", "final_metrics", "extra"}),
    "agent": ({"name", "version"}, {"model_name", "tool_definitions", "extra"}),
    "step": (
        {"step_id", "source", "message"},
        {"timestamp", "model_name", "tool_calls", "observation", "metrics", "is_copied_context", "extra"},
    ),
    "call": ({"tool_call_id", "function_name", "arguments"}, set()),
    "result": (set(), {"source_call_id", "content"}),
    "metrics": (
        set(),
        {"prompt_tokens", "completion_tokens", "completion_token_ids", "logprobs", "extra"},
    ),
}


def assert_keys(kind: str, value: dict[str, Any]) -> None:
    needed, allowed = KEYS[kind]
    assert needed <= set(value) <= needed | allowed, kind


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("records", [samples.episode(12), odd_episode()], ids=["plain", "odd"])
def test_documents_have_the_shape_of_the_specification(records: list[Record], bare: bool) -> None:
    document = json.loads(json.dumps(atif.document_of(records, bare=bare)))
    assert_keys("document", document)
    assert_keys("agent", document["agent"])
    assert document["schema_version"] == "ATIF-v1.6"
    assert [step["step_id"] for step in document["steps"]] == list(range(1, len(document["steps"]) + 1))
    assert document["final_metrics"]["total_steps"] == len(document["steps"])
    for step in document["steps"]:
        assert_keys("step", step)
        assert isinstance(step["message"], str)
        datetime.fromisoformat(step.get("timestamp", "2026-01-01T00:00:00+00:00"))
        if step["source"] != "agent":
            assert not {"model_name", "tool_calls", "metrics"} & set(step)
        calls = step.get("tool_calls", [])
        for call in calls:
            assert_keys("call", call)
            assert isinstance(call["arguments"], dict)
        for result in step.get("observation", {}).get("results", []):
            assert_keys("result", result)
            assert result.get("source_call_id") in {None, *(call["tool_call_id"] for call in calls)}
        assert_keys("metrics", step.get("metrics", {}))
    assert ("apollo_hpc" in json.dumps(document)) is not bare


def document(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    numbered = [{"step_id": i, **step} for i, step in enumerate(steps, start=1)]
    agent = {"name": "terminus", "version": "2", "model_name": "m", "tool_definitions": [{"type": "function"}]}
    return {"schema_version": "ATIF-v1.7", "session_id": "s1", "agent": agent, "steps": numbered, **more}


def test_others_documents_become_steps_with_their_tokens() -> None:
    prompt, first, second = [1, 2, 3], [4, 5], [8]
    records = atif_reader.records_of_document(
        document(
            {"source": "system", "message": "Work."},
            {"source": "user", "message": [{"type": "text", "text": "Go."}], "timestamp": "2026-01-02T03:04:05Z"},
            {
                "source": "agent",
                "message": "look",
                "timestamp": "2026-01-02T03:04:06Z",
                "reasoning_content": "hm",
                "tool_calls": [
                    {"tool_call_id": "a", "function_name": "ls", "arguments": {}},
                    {"tool_call_id": "b", "function_name": "cat", "arguments": {"file": "x"}},
                ],
                "observation": {
                    "results": [{"source_call_id": "b", "content": "X"}, {"source_call_id": "a", "content": "x"}]
                },
            },
            {"source": "user", "message": "try y"},
            {
                "source": "agent",
                "message": "tokens",
                "metrics": {
                    "prompt_token_ids": prompt,
                    "completion_token_ids": first,
                    "logprobs": [-0.1, -0.2],
                    "cost_usd": 1,
                },
                "observation": {"results": [{"content": "seen"}]},
            },
            {"source": "system", "message": "context was compacted"},
            {
                "source": "agent",
                "message": "done",
                "model_name": "n",
                "metrics": {"prompt_token_ids": [*prompt, *first, 7], "completion_token_ids": second},
            },
        ),
        ORIGIN,
        "t.json",
    )
    header, outcome = records[0], records[-1]
    assert isinstance(header, EpisodeHeader)
    assert header.origin is not None
    assert (header.episode_id, header.tools) == ("s1", [{"type": "function"}])
    assert [message["content"] for message in header.messages] == ["Work.", "Go."]
    taken = [record for record in records if isinstance(record, ActionTaken)]
    assert [(each.action.name, each.text, each.model) for each in taken] == [
        ("ls", "look", "m"),
        ("cat", "", "m"),
        ("message", "tokens", "m"),
        ("message", "done", "n"),
    ]
    assert [each.observation.text for each in records if isinstance(each, Observed)] == ["x", "X", "seen"]
    assert [each.text for each in records if isinstance(each, GuidanceApplied)] == ["try y"]
    parts = [(each.shared_tokens, each.new_prompt_ids, each.token_ids) for each in taken]
    assert replay_prompt(reversed(parts[:3])) == prompt
    assert replay_prompt(reversed(parts)) == [*prompt, *first, 7]
    assert parts[3][0] == 5  # stored as a difference
    assert taken[0].at == datetime.fromisoformat("2026-01-02T03:04:06+00:00").timestamp()
    assert isinstance(outcome, OutcomeReached)
    assert outcome.status == "finished"
    said = " ".join(header.origin.lost)
    for words in ("reasoning of 1 steps", "costs and counts of tokens of 1 steps", "1 system messages", "of prompts"):
        assert words in said
    assert header.origin.extra["system_steps"][0]["message"] == "context was compacted"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"steps": []}, "is not ATIF"),
        (document(), "`$.steps`"),
        (document({"source": "robot", "message": ""}), "`$.steps[0].source`"),
        (document({"source": "user", "message": ""}), "no answer"),
        (document({"source": "agent", "message": "", "tool_calls": [{"arguments": []}]}), "`$.steps[0].tool_calls[0]"),
        (
            document({"source": "agent", "message": "", "observation": {"results": [1]}}),
            "`$.steps[0].observation.results[0]`",
        ),
        (document({"source": "agent", "message": "a"}, {"source": "agent", "message": "b"}), "step 2 is an answer"),
    ],
)
def test_what_cannot_be_read_names_the_step(tmp_path: Path, value: Any, words: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(value))
    with pytest.raises(TrajectoryLayoutError) as raised:
        list(atif_reader.read(path, sha256=""))
    assert words in raised.value.message
    assert raised.value.message.startswith(str(path))


def test_a_truncated_file_is_told_from_one_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(document({"source": "user", "message": "x"}))[:-5])
    with pytest.raises(TrajectoryError, match="truncated"):
        list(atif_reader.read(path, sha256=""))


@settings(max_examples=int(os.environ.get("HPC_TEST_FUZZ", "40")), deadline=None)
@given(path=PATHS, new=VALUES)
def test_no_document_whatever_it_holds_does_more_than_be_refused(path: list[int], new: Any) -> None:
    value = put(json.loads(json.dumps(atif.document_of(samples.episode(3)))), path, new)
    try:
        atif_reader.records_of_document(value, ORIGIN, "t.json")
    except HpcError as error:
        assert "\n" not in error.message
