"""The judge beside an episode: a real HTTP endpoint, a real log, a process that is killed in between."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpc.cli import cli
from hpc.rundir import RunDir
from hpc.trajectories import sealed
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.stepview import views_of
from tests.integration import judged_episode
from tests.integration.judged_episode import JUDGE, asked_after, play
from tests.integration.serving_run import make_run
from tests.integration.stub_openai import StubHandle, start_stub
from tests.unit.agent.fakes import World

DRIFTS = {"text": '{"drifting": true, "confidence": 0.9, "reason": "it goes in circles"}'}
FINE = {"text": '{"drifting": false, "confidence": 0.9, "reason": "a plan is carried out"}'}
RUBBISH = {"text": "I would say that it drifts."}


@pytest.fixture
def stub() -> Iterator[StubHandle]:
    with start_stub() as handle:
        yield handle


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path)


def alerts(run: RunDir) -> list[tuple[int, str]]:
    with Trajectory.open((run, 0)) as trajectory:
        return [(alert.step, alert.detector) for alert in trajectory.alerts]


def verdicts(run: RunDir) -> dict[int, list[tuple[int, bool, bool]]]:
    """Step -> the verdicts that arrived in it: asked, drifting, whether it is one at all."""
    with Trajectory.open((run, 0)) as trajectory:
        views = views_of(trajectory.records())
    return {
        view.step: [(each.asked, each.drifting, not each.problem) for each in view.verdicts]
        for view in views
        if view.verdicts
    }


async def test_verdicts_are_asked_stored_alerted_and_replayed(run: RunDir, stub: StubHandle) -> None:
    stub.script(FINE, RUBBISH, DRIFTS, default=DRIFTS)
    store = await play(run, stub.url, World(100), answers=asked_after)
    expected = {3: [(2, False, True)], 5: [(4, False, False)], 7: [(6, True, True)], 9: [(8, True, True)]}
    assert verdicts(run) == expected
    assert alerts(run) == [(7, "judge")]  # once while the judge goes on saying so
    requests = stub.requests
    assert len(requests) == JUDGE.calls
    assert {(request["temperature"], request["max_tokens"]) for request in requests} == {(0.0, 64)}
    shown = json.loads(requests[2]["messages"][1]["content"])
    assert shown["task"] == "count to a hundred" and [step["step"] for step in shown["steps"]] == [1, 2, 3, 4, 5, 6]

    run.trajectory(0).write_bytes(sealed.build(store.records))
    assert verdicts(run) == expected
    options = ["drift.judge.enabled=true", "drift.judge.every=2", "drift.cooldown=0", "drift.combined_at=null"]
    shown = CliRunner().invoke(cli, ["drift", "replay", str(run.trajectory(0)), *options, "--json"])
    rows = {row["name"]: row["alerts"] for row in json.loads(shown.stdout)["rows"]}
    assert rows["judge"] == rows["all detectors"] == 1


async def test_an_agent_goes_on_to_its_end_while_the_judge_never_answers(run: RunDir, stub: StubHandle) -> None:
    stub.script(default={"hang": True})
    await play(run, stub.url, World(100))
    with Trajectory.open((run, 0)) as trajectory:
        assert trajectory.outcome is not None and trajectory.outcome.steps == 12
    assert verdicts(run) == {} and alerts(run) == []


async def test_an_episode_killed_and_resumed_keeps_its_verdicts_and_alerts_once(run: RunDir, stub: StubHandle) -> None:
    stub.script(FINE, RUBBISH, default=DRIFTS)
    program = Path(judged_episode.__file__)
    died = subprocess.run([sys.executable, program, run.root, stub.url, "8"], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    before = verdicts(run)
    assert before == {3: [(2, False, True)], 5: [(4, False, False)], 7: [(6, True, True)]}
    assert alerts(run) == [(7, "judge")]

    # Step 8 ends as interrupted in the next attempt, which makes the last call that the budget leaves.
    await play(run, stub.url, World(100), answers=lambda step: 1)
    assert verdicts(run) == {**before, 9: [(8, True, True)]}
    assert alerts(run) == [(7, "judge")]
    assert len(stub.requests) == JUDGE.calls
