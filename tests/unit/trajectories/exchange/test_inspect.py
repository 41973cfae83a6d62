"""Eval logs, written and read with inspect_ai itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from inspect_ai.event import InfoEvent, ModelEvent, ScoreEvent, ToolEvent
from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalSample,
    EvalSpec,
    read_eval_log,
    read_eval_log_sample_summaries,
    write_eval_log,
)
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentReasoning,
    ContentText,
)
from inspect_ai.scorer import Score
from inspect_ai.tool import ToolCall

from hpc.core.errors import HpcError, TrajectoryError
from hpc.trajectories.exchange import inspect_eval, inspect_reader
from hpc.trajectories.records import ActionTaken, EpisodeHeader, Observed, OutcomeReached
from tests.unit.trajectories import samples


def write(path: Path) -> Path:
    failed = samples.episode(3, index=1)
    failed[-1] = samples.outcome(3, "failed")
    truncated = samples.episode(3, index=2)
    truncated[-1] = samples.outcome(3, "truncated")
    with path.open("wb") as file:
        writer = inspect_eval.Writer(file)
        for records in (samples.episode(12), failed, truncated, samples.episode(12)):
            writer.add(records)
        writer.close()
    return path


def test_inspect_reads_what_we_write(tmp_path: Path) -> None:
    path = write(tmp_path / "log.eval")
    log = read_eval_log(str(path))
    assert (log.status, log.eval.task, log.eval.model) == ("success", "minilab", "tiny")
    assert log.results is not None
    assert log.results.scores[0].metrics["mean"].value == 40.0
    assert log.samples is not None
    assert sorted((sample.id, sample.epoch) for sample in log.samples) == [
        ("demo-00000", 1),
        ("demo-00000", 2),
        ("demo-00001", 1),
        ("demo-00002", 1),
    ]
    sample = next(sample for sample in log.samples if sample.id == "demo-00000")
    assert sample.scores is not None
    assert sample.scores["hidden_evaluator"].value == 40.0
    assert sample.metadata["task"] == "minilab/0"
    kinds = [type(event) for event in sample.events]
    assert [kinds.count(kind) for kind in (ModelEvent, ToolEvent, ScoreEvent)] == [12, 12, 2]
    told = [event for event in sample.events if isinstance(event, InfoEvent) and event.source == "guidance"]
    assert len(told) == 2
    assert isinstance(told[0].data, dict)
    assert told[0].data["annotator"] == "ada"
    guided = next(message for message in sample.messages if "<real_user>" in message.text)
    assert guided.role == "user"
    assert guided.metadata is not None
    assert guided.metadata["apollo_hpc"][0]["alert_id"] == "demo-a1"


def test_failures_and_limits_are_shown_as_such(tmp_path: Path) -> None:
    summaries = read_eval_log_sample_summaries(str(write(tmp_path / "log.eval")))
    by_name = {summary.id: summary for summary in summaries}
    assert by_name["demo-00001"].error == "the agent finished"
    assert by_name["demo-00002"].limit == "custom"
    assert by_name["demo-00000"].completed


def test_the_same_trajectories_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.eval").read_bytes() == write(tmp_path / "b.eval").read_bytes()


@pytest.mark.parametrize("suffix", ["eval", "json"])
def test_logs_of_inspect_itself_become_trajectories(tmp_path: Path, suffix: str) -> None:
    call = ToolCall(id="a", function="bash", arguments={"cmd": "ls"})
    thought = [ContentReasoning(reasoning="hm"), ContentText(text="look " + "x" * 500)]
    messages = [
        ChatMessageSystem(content="Work."),
        ChatMessageUser(content="Go."),
        ChatMessageAssistant(content=list(thought), tool_calls=[call], model="m"),
        ChatMessageTool(content="a.py", tool_call_id="a", function="bash"),
        ChatMessageAssistant(content="done"),
    ]
    sample = EvalSample(
        id="s/1",
        epoch=1,
        input="Go.",
        target="T",
        messages=messages,
        scores={"match": Score(value="C")},
        working_time=3.0,
    )
    broken = EvalSample(id=2, epoch=1, input="", target="", messages=[messages[1], messages[4], messages[4]])
    spec = EvalSpec(
        created="2026-01-02T03:04:05+00:00",
        task="ctf",
        dataset=EvalDataset(samples=2),
        model="mock",
        config=EvalConfig(),
    )
    path = tmp_path / f"log.{suffix}"
    write_eval_log(EvalLog(status="success", eval=spec, samples=[sample, broken]), str(path))
    found = dict(inspect_reader.read(path, sha256="ab" * 32))
    error = found["sample 2 epoch 1"]
    assert isinstance(error, HpcError)
    assert "message 3 is an answer, but message 2" in error.message
    records = found["sample s/1 epoch 1"]
    assert not isinstance(records, HpcError)
    header, outcome = records[0], records[-1]
    assert isinstance(header, EpisodeHeader)
    assert header.origin is not None
    assert header.task_id == "ctf/s/1"
    assert header.origin.extra["scores"]["match"]["value"] == "C"
    assert any("reasoning" in lost for lost in header.origin.lost)
    taken = [record for record in records if isinstance(record, ActionTaken)]
    assert [(each.action.name, each.text[:5]) for each in taken] == [("bash", "look "), ("message", "done")]
    assert taken[0].action.arguments == {"cmd": "ls"}
    assert [each.observation.text for each in records if isinstance(each, Observed)] == ["a.py"]
    assert isinstance(outcome, OutcomeReached)
    assert (outcome.status, outcome.working_seconds) == ("finished", 3.0)


@pytest.mark.parametrize("damage", ["empty", "rubbish", "truncated"])
def test_a_damaged_log_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "log.eval")
    content = {"empty": b"", "rubbish": b"hello" * 100, "truncated": path.read_bytes()[:-200]}[damage]
    path.write_bytes(content)
    with pytest.raises(TrajectoryError) as raised:
        list(inspect_reader.read(path, sha256=""))
    assert str(path) in raised.value.message
    assert "\n" not in raised.value.message
