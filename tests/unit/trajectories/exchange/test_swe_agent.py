"""SWE-agent's files: what becomes of each part, and one clear line for what is no such file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from hpc.core.errors import TrajectoryError, TrajectoryIncomplete, TrajectoryLayoutError
from hpc.trajectories import codec
from hpc.trajectories.exchange import swe_agent
from hpc.trajectories.records import ActionTaken, EpisodeHeader, Observed, OutcomeReached, Record
from tests.unit.trajectories.exchange.test_chats import PATHS, VALUES, put

SYSTEM = {
    "role": "system",
    "content": "COMMANDS:\nopen:\n  docstring: opens\nedit\nend_of_edit - replaces",
    "agent": "main",
}
TASK = {"role": "user", "content": "Mend it.", "agent": "main"}


def said(action: str, thought: str = "So.", **more: Any) -> dict[str, Any]:
    content = f"{thought}\n```\n{action}\n```"
    return {"role": "assistant", "content": content, "thought": thought, "action": action, "agent": "main", **more}


def heard(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": f"{text}\n(Open file: n/a)", "agent": "main", **more}


def step(action: str, observation: str, **more: Any) -> dict[str, Any]:
    return {"action": action, "observation": observation, "response": said(action)["content"], **more}


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def read(path: Path) -> tuple[EpisodeHeader, list[ActionTaken], list[Observed], OutcomeReached]:
    records: list[Record] = swe_agent.read(path, sha256="ab" * 32)
    header, outcome = records[0], records[-1]
    assert isinstance(header, EpisodeHeader)
    assert isinstance(outcome, OutcomeReached)
    taken = [record for record in records if isinstance(record, ActionTaken)]
    return header, taken, [record for record in records if isinstance(record, Observed)], outcome


def test_text_commands_become_actions(tmp_path: Path) -> None:
    value = {
        "environment": "swe_main",
        "trajectory": [step("open a.py", "[a.py]", execution_time=0.5, state={"x": 1}), step("ls -a", "a.py")],
        "history": [SYSTEM, TASK, said("open a.py"), heard("[a.py]"), said("ls -a")],
        "info": {"exit_status": "submitted", "submission": "diff"},
    }
    header, taken, observed, outcome = read(write(tmp_path / "t.traj", value))
    assert [message["role"] for message in header.messages] == ["system", "user"]
    assert [(each.action.name, each.action.arguments["command"]) for each in taken] == [
        ("open", "open a.py"),
        ("bash", "ls -a"),
    ]
    assert observed[0].observation.text == "[a.py]\n(Open file: n/a)"  # as the model saw it
    assert observed[0].observation.info == {"state": {"x": 1}, "execution_time": 0.5}
    assert observed[1].observation.text == "a.py"  # the history ends before it
    assert (outcome.status, outcome.steps, outcome.working_seconds) == ("finished", 2, 0.5)
    assert header.origin is not None
    assert header.origin.extra["info"]["submission"] == "diff"
    assert any("token ids" in lost for lost in header.origin.lost)


def test_tool_calls_become_actions(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "open", "arguments": '{"path": "a.py"}'}}
    broken = {"id": "c2", "type": "function", "function": {"name": "open", "arguments": '{"path'}}
    history = [
        SYSTEM,
        TASK,
        said("open a.py", tool_calls=[call]),
        {"role": "tool", "content": [{"type": "text", "text": "[a.py]"}], "tool_call_ids": ["c1"], "agent": "main"},
        said("open", tool_calls=[broken]),
        {"role": "tool", "content": "what?", "tool_call_ids": ["c2"], "agent": "main"},
    ]
    _, taken, observed, outcome = read(write(tmp_path / "t.traj", {"history": history}))
    assert (taken[0].action.name, taken[0].action.arguments, taken[0].action.call_id) == (
        "open",
        {"path": "a.py"},
        "c1",
    )
    assert taken[1].action.name == "null"
    assert "not JSON" in taken[1].action.problem
    assert [each.observation.text for each in observed] == ["[a.py]", "what?"]
    assert (outcome.status, outcome.reason) == ("truncated", "the file does not say how the episode ended")


def test_demonstrations_belong_to_the_prompt(tmp_path: Path) -> None:
    history = [SYSTEM, said("ls", is_demo=True), heard("x", is_demo=True), TASK, said("submit"), heard("")]
    header, taken, _, outcome = read(write(tmp_path / "t.traj", {"history": history}))
    assert [message["role"] for message in header.messages] == ["system", "assistant", "user", "user"]
    assert [each.action.name for each in taken] == ["submit"]
    assert outcome.status == "finished"


def test_other_agents_are_named_among_the_losses(tmp_path: Path) -> None:
    history = [SYSTEM, TASK, said("ls"), heard("x"), {"role": "assistant", "content": "aside", "agent": "helper"}]
    header, taken, _, _ = read(write(tmp_path / "t.traj", {"history": history}))
    assert len(taken) == 1
    assert header.origin is not None
    assert header.origin.lost[-1] == "1 messages of agents other than 'main'"


@pytest.mark.parametrize(
    ("status", "expected", "boundary"),
    [
        ("submitted", "finished", None),
        ("submitted (exit_cost)", "truncated", None),
        ("exit_cost", "truncated", None),
        ("exit_format", "failed", "model"),
        ("exit_environment_error", "failed", "environment"),
        ("exit_error", "failed", "infrastructure"),
    ],
)
def test_the_exit_status_becomes_the_outcome(tmp_path: Path, status: str, expected: str, boundary: str | None) -> None:
    value = {"history": [SYSTEM, TASK, said("ls"), heard("x")], "info": {"exit_status": status}}
    _, _, _, outcome = read(write(tmp_path / "t.traj", value))
    assert (outcome.status, outcome.boundary) == (expected, boundary)
    assert status in outcome.reason


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"", TrajectoryIncomplete, "is empty"),
        (b'{"history": [{"role": "system", "content": "a', TrajectoryIncomplete, ":1 is truncated"),
        (b'{\n"history": \xff\xfe}', TrajectoryLayoutError, ":2 is not UTF-8"),
        (b"{\nhello}", TrajectoryLayoutError, ":2 is not JSON"),
        (b"[1, 2]", TrajectoryLayoutError, "is not a SWE-agent trajectory"),
        (b'{"history": [{"role": "system", "content": "a"}]}', TrajectoryLayoutError, "no answer of the agent"),
        (b'{"history": [{"content": "a"}]}', TrajectoryLayoutError, "`role` - at `$.history[0]`"),
        (b'{"trajectory": {"a": 1}}', TrajectoryLayoutError, "`$.trajectory`"),
    ],
)
def test_what_is_no_trajectory_is_refused(
    tmp_path: Path, content: bytes, error: type[TrajectoryError], words: str
) -> None:
    path = tmp_path / "t.traj"
    path.write_bytes(content)
    with pytest.raises(error) as raised:
        swe_agent.read(path, sha256="")
    assert words in raised.value.message
    assert str(path) in raised.value.message
    assert "\n" not in raised.value.message


def test_a_history_of_another_episode_is_refused(tmp_path: Path) -> None:
    value = {"trajectory": [step("ls", "x")], "history": [SYSTEM, TASK, said("pwd"), heard("x")]}
    with pytest.raises(TrajectoryLayoutError, match="answer 1 of the history is not among the 1 steps"):
        read(write(tmp_path / "t.traj", value))


@settings(max_examples=int(os.environ.get("HPC_TEST_FUZZ", "50")), deadline=None)
@given(path=PATHS, new=VALUES)
def test_no_file_whatever_it_holds_does_more_than_be_refused(path: list[int], new: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "open", "arguments": "{}"}}
    history = [
        SYSTEM,
        TASK,
        said("ls"),
        heard("x"),
        said("open a", tool_calls=[call]),
        heard("y", tool_call_ids=["c1"]),
    ]
    config = {"agent": {"model": {"name": "m"}}}
    value = {"history": history, "trajectory": [step("ls", "x"), step("open a", "y")], "replay_config": config}
    try:
        records = swe_agent.records_of(put(value, path, new), Path("t.traj"), sha256="")
        for record in records:
            codec.decode(codec.encode(record))
    except TrajectoryError as error:
        assert "\n" not in error.message
