"""The judge as an element of a job: a real process, a real HTTP endpoint, sealed trajectories."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from hpc.cli import cli
from hpc.config import compose, config_hash, to_builtins
from hpc.config.action_judge import ActionJudgeConfig
from hpc.core.errors import PartialFailure
from hpc.rundir import RunDir
from hpc.slurm import Allocation, states
from hpc.slurm.runner import Manifest
from hpc.supervision.answers import Answers
from hpc.supervision.judge import ActionJudge, Judged
from hpc.trajectories import sealed
from hpc.trajectories.labels import read_labels
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.stepview import views_of
from jobs.judge import JudgeJob
from tests.integration.serving_run import until
from tests.integration.stub_openai import StubHandle, start_stub
from tests.unit.trajectories.samples import episode, run_dir

TASK = "Mach Gold ✨"


@pytest.fixture
def stub() -> Iterator[StubHandle]:
    with start_stub() as handle:
        yield handle


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = run_dir(tmp_path)
    run.trajectory(0).write_bytes(sealed.build(episode(12)))
    return run


def config(stub: StubHandle) -> ActionJudgeConfig:
    return ActionJudgeConfig(batch=4, context=2, parallel=1, url=stub.url, model="stub", wait_seconds=20.0)


def about(*steps: int) -> dict[str, str]:
    facts = [{"fact": "new_information", "quote": "[exit 0]"}]
    return {"text": json.dumps({"steps": [{"step": step, "facts": facts} for step in steps]})}


def verdicts(run: RunDir, judge: ActionJudgeConfig) -> Judged:
    """From the answers on disk alone."""
    with Trajectory.open((run, 0)) as trajectory:
        views = views_of(trajectory.records())
    return asyncio.run(ActionJudge(None, judge, Answers(run.judge_answers), name="stub").judge(views, TASK))


def test_an_element_killed_while_it_asks_goes_on_where_it_was(run: RunDir, stub: StubHandle) -> None:
    judge = config(stub)
    elements = run.elements("judge")
    payload = {"indices": [0], "judge": msgspec.to_builtins(judge)}
    elements.write_bytes(msgspec.json.encode(Manifest(kind="judge", run=str(run.root), payloads=[payload])))
    command = [sys.executable, "-P", "-m", "jobs", str(elements), "--index", "0", "--in-pool", str(os.getpid())]

    stub.script(about(1, 2, 3, 4), {"hang": True})
    element = subprocess.Popen([*command, "--job-id", "local-1_0"])
    until(lambda: len(stub.requests) == 2, "a second question")
    element.kill()
    element.wait()
    half = verdicts(run, judge)
    assert [one.step for one in half.judgements] == [1, 2, 3, 4] and half.left == [5, 6, 7, 8, 9, 10, 11, 12]

    stub.script(about(5, 6, 7, 8), about(9, 10, 11, 12))
    done = subprocess.run([*command, "--job-id", "local-2_0"], timeout=60)
    assert done.returncode == 0
    whole = verdicts(run, judge)
    assert [one.step for one in whole.judgements] == list(range(1, 13)) and not whole.left
    assert {one.verdict for one in whole.judgements} == {"optimal"}
    asked = [json.loads(request["messages"][1]["content"]) for request in stub.requests]
    assert [one["asked"][0] for one in asked] == [1, 5, 5, 9]
    assert asked[0]["task"] == TASK
    assert {(request["temperature"], request["max_tokens"]) for request in stub.requests} == {(0.0, 1200)}


def test_what_could_not_be_judged_is_named_and_the_rest_is(run: RunDir, stub: StubHandle) -> None:
    run.trajectory(1).write_bytes(b"rubbish")
    stub.script(about(1, 2, 3, 4), {"text": "hm"}, {"text": "hm"}, about(9, 10, 11, 12))
    judge = config(stub)
    with pytest.raises(PartialFailure) as caught:
        JudgeJob([1, 0], judge)(run, Allocation(job_id="1_0"))
    assert "episode 1: " in caught.value.message
    assert "episode 0: 4 steps without an answer, the first step 5: malformed answer" in caught.value.message
    assert [one.step for one in verdicts(run, judge).judgements] == [1, 2, 3, 4, 9, 10, 11, 12]


def test_the_command_asks_once_and_its_verdicts_become_labels(run: RunDir, stub: StubHandle) -> None:
    words = ["label", "judge", run.name, "--url", stub.url, "--model", "stub", "--parallel", "1", "--json"]

    def rows(*more: str) -> list[dict[str, int]]:
        done = CliRunner().invoke(cli, [*words, *more], env={"HPC_RUNS": str(run.root.parent)})
        assert done.exit_code == 0, done.output
        return list(json.loads(done.stdout))

    assert rows("--collect")[0]["without"] == 12  # nobody was asked
    stub.script(about(1, 2, 3, 4, 5), about(6, 7, 8, 9, 10), about(11, 12))
    assert rows()[0] == {
        "trajectory": f"{run.name}/0", "optimal": 12, "suboptimal": 0, "unsure": 0, "without": 0, "added": 12,
    }  # fmt: skip
    asked = len(stub.requests)
    assert rows()[0]["added"] == 0
    assert len(stub.requests) == asked
    labels = read_labels(run.labels(0)).current()
    assert {(label.author_kind, label.author, label.verdict) for label in labels} == {("judge", "stub", "optimal")}


def test_an_array_of_judges_asks_and_a_later_command_collects(tmp_path: Path, stub: StubHandle) -> None:
    settings = compose("episodes", ["cluster=local", f"run.root={tmp_path}", "run.name=played"])
    run = RunDir.create(
        tmp_path / "played", manifest={}, config=to_builtins(settings), config_hash=config_hash(settings)
    )
    for index in range(2):
        run.trajectory(index).write_bytes(sealed.build(episode(2)))
    words = ["label", "judge", run.name, "--url", stub.url, "--model", "stub", "--json"]

    def told(*more: str) -> Any:
        done = CliRunner().invoke(cli, [*words, *more], env={"HPC_RUNS": str(tmp_path)})
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    stub.script(about(1, 2), about(1, 2))
    assert list(told("--jobs", "2")["jobs"]) == ["judge"]
    until(lambda: [state.state for state in states(run, "judge")] == ["DONE", "DONE"], "both judges")
    rows = told("--collect")
    assert [(row["optimal"], row["without"], row["added"]) for row in rows] == [(2, 0, 2)] * 2
    assert len(stub.requests) in (1, 2)  # the same question is asked once, if its answer is there in time
