"""An episode with a judge: a real store and a real HTTP client; the agent and its world are made up.

As a program, ``RUN URL STEP``: plays the episode of RUN and dies by SIGKILL in the middle of STEP.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hpc.agent.loop import EpisodeLoop
from hpc.agent.state import EpisodeState
from hpc.config.agent import AgentConfig, SamplingConfig
from hpc.config.drift import DriftConfig, JudgeConfig, MilestoneConfig
from hpc.config.server import ServerConfig
from hpc.drift.judge import JudgedMonitor
from hpc.drift.monitor import DriftMonitor
from hpc.rundir import RunDir
from hpc.serving.client import ModelClient
from hpc.trajectories.records import Action, ModelResponse, Observation
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.agent.fakes import Environment, Mail, Model, World, call
from tests.unit.trajectories.samples import attempt, header

JUDGE = JudgeConfig(enabled=True, every=2, calls=4, wait_seconds=20.0, answer_tokens=64)
DRIFT = DriftConfig(judge=JUDGE, cooldown=0, combined_at=None, milestone=MilestoneConfig(enabled=False))


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
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().step(action)


async def play(
    run: RunDir,
    url: str,
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
        ServerConfig(name="judge", kind="external", urls=[url], token_ids=False),
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


def main() -> None:
    root, url, step = sys.argv[1:]
    asyncio.run(play(RunDir.open(Path(root)), url, World(100), answers=asked_after, dies_in=int(step)))


if __name__ == "__main__":
    main()
