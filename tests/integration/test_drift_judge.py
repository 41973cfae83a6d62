"""The judge beside a real episode: a real HTTP endpoint, a real log, a process that dies in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hpc.agent.loop import EpisodeLoop
from hpc.agent.state import EpisodeState
from hpc.cli import cli
from hpc.config.agent import AgentConfig, SamplingConfig
from hpc.config.drift import DriftConfig, JudgeConfig, MilestoneConfig
from hpc.config.server import ServerConfig
from hpc.drift.judge import JudgedMonitor
from hpc.drift.monitor import DriftMonitor
from hpc.rundir import RunDir
from hpc.serving.client import ModelClient
from hpc.trajectories import sealed
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import Action, ModelResponse, Observation
from hpc.trajectories.stepview import views_of
from hpc.trajectories.writer import TrajectoryWriter
from tests.integration.serving_run import make_run
from tests.integration.stub_openai import StubHandle, start_stub
from tests.unit.agent.fakes import Environment, Killed, Mail, Model, World, call
from tests.unit.trajectories.samples import attempt, header

DRIFTS = {"text": '{"drifting": true, "confidence": 0.9, "reason": "it goes in circles"}'}
FINE = {"text": '{"drifting": false, "confidence": 0.9, "reason": "a plan is carried out"}'}
RUBBISH = {"text": "I would say that it drifts."}
JUDGE = JudgeConfig(enabled=True, every=2, calls=4, wait_seconds=20.0, answer_tokens=64)
DRIFT = DriftConfig(judge=JUDGE, cooldown=0, combined_at=None, milestone=MilestoneConfig(enabled=False))


@pytest.fixture
def stub() -> Iterator[StubHandle]:
    with start_stub() as handle:
        yield handle


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path)


class Heard:
    """The real client; tells how many answers have come."""

    def __init__(self, client: ModelClient) -> None:
        self.client = client
        self.answers = 0
        self._came = asyncio.Condition()

    async def complete(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> ModelResponse:
        response = await self.client.complete(messages, tools)
        async with self._came:
            self.answers += 1
            self._came.notify_all()
        return response

    async def wait(self, answers: int) -> None:
        async with self._came:
            await self._came.wait_for(lambda: self.answers >= answers)


class Paced(Environment):
    """Before its step ends, a command waits for the answers that shall have come by then; the process
    dies in the middle of step ``dies_in``."""

    def __init__(self, world: World, judge: Heard, answers: Callable[[int], int], dies_in: int | None) -> None:
        super().__init__(world)
        self.judge = judge
        self.answers = answers
        self.dies_in = dies_in

    async def step(self, action: Action) -> Observation:
        step = self.world.count + 1
        await self.judge.wait(self.answers(step))
        if step == self.dies_in:
            raise Killed
        return await super().step(action)


async def play(
    run: RunDir,
    stub: StubHandle,
    world: World,
    *,
    steps: int = 12,
    answers: Callable[[int], int] = lambda step: 0,
    dies_in: int | None = None,
) -> TrajectoryWriter:
    """One attempt with a real store and a real judge; the agent and its world are made up."""
    store = TrajectoryWriter.open(run, 0)
    state = EpisodeState(store.records)
    opening = [] if state.header else [header()]
    for record in [*opening, attempt(state.epoch + 1, state.step)]:
        store.append(record)
        state.apply(record)
    client = ModelClient.for_run(
        run,
        ServerConfig(name="judge", kind="external", urls=[stub.url], token_ids=False),
        model="stub",
        sampling=SamplingConfig(temperature=0.0, max_tokens=JUDGE.answer_tokens),
        episode="e-judge",
        wait_seconds=JUDGE.wait_seconds,
    )
    judge = Heard(client)
    monitor = DriftMonitor(DRIFT, max_steps=1000, max_working_seconds=1e6)
    watcher = JudgedMonitor(monitor, judge, JUDGE, task="count to a hundred")
    await watcher.start()
    try:
        await EpisodeLoop(
            config=AgentConfig(max_steps=steps),
            state=state,
            store=store,
            environment=Paced(world, judge, answers, dies_in),
            model=Model(lambda messages: call("run_command", command=f"x{world.count}")),
            mail=Mail(),
            watcher=watcher,
            stopping=lambda: False,
        ).run()
    finally:
        await watcher.close()
        await client.close()
        store.close()
    return store


def asked_after(step: int) -> int:
    """Every question is answered before the next step ends: those about 2, 4, 6 and 8 in 3, 5, 7 and 9."""
    return min((step - 1) // JUDGE.every, JUDGE.calls)


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
    store = await play(run, stub, World(100), answers=asked_after)
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
    await play(run, stub, World(100))
    with Trajectory.open((run, 0)) as trajectory:
        assert trajectory.outcome is not None and trajectory.outcome.steps == 12
    assert verdicts(run) == {} and alerts(run) == []


async def test_a_resumed_episode_keeps_its_verdicts_and_alerts_once(run: RunDir, stub: StubHandle) -> None:
    stub.script(FINE, RUBBISH, default=DRIFTS)
    world = World(100)
    with pytest.raises(Killed):
        await play(run, stub, world, answers=asked_after, dies_in=8)
    before = verdicts(run)
    assert before == {3: [(2, False, True)], 5: [(4, False, False)], 7: [(6, True, True)]}
    assert alerts(run) == [(7, "judge")]

    # Step 8 goes on in the next attempt; then the last call that the budget leaves is made.
    await play(run, stub, world, answers=lambda step: 1)
    assert verdicts(run) == {**before, 9: [(8, True, True)]}
    assert alerts(run) == [(7, "judge")]
    assert len(stub.requests) == JUDGE.calls
