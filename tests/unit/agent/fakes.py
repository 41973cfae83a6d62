"""Collaborators of the episode loop that keep everything in memory and can die on command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from hpc.trajectories.records import (
    Action,
    AttemptStarted,
    DriftSignal,
    EpisodeHeader,
    Evaluation,
    ModelResponse,
    Observation,
    Record,
    StepView,
)
from hpc.wire.messages import Guidance, StepBrief


class Killed(BaseException):
    """The process died here."""


class Store:
    """Durable records; dies instead of (or right after) writing record number ``dies_at``."""

    def __init__(self, records: Sequence[Record] = (), dies_at: int | None = None, after: bool = False) -> None:
        self.records: list[Record] = list(records)
        self.dies_at = dies_at
        self.after = after

    def append(self, *records: Record) -> None:
        for record in records:
            due = self.dies_at is not None and len(self.records) >= self.dies_at
            if due and not self.after:
                raise Killed
            # what is stored must survive its encoding
            self.records.append(msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Record))
            if due:
                raise Killed


class World:
    """A counter that `run_command` raises; the same object outlives attempts, as a disk would."""

    def __init__(self, steps_to_win: int = 6) -> None:
        self.count = 0
        self.steps_to_win = steps_to_win
        self.carried_out: list[str] = []
        self.finals = 0


class Environment:
    def __init__(self, world: World) -> None:
        self.world = world
        self.tools: list[dict[str, Any]] = [{"type": "function", "function": {"name": "run_command"}}]

    async def start(self) -> str:
        return "count"

    def check(self, action: Action) -> Action:
        if action.problem or action.name in ("run_command", "open_file", "finish"):
            return action
        return Action(name="null", call_id=action.call_id, problem=f"unknown action {action.name!r}")

    def is_repeatable(self, action: Action) -> bool:
        return action.name in ("open_file", "null", "finish")

    async def step(self, action: Action) -> Observation:
        self.world.carried_out.append(action.name)
        if action.problem:
            return Observation(text=f"error: {action.problem}", is_error=True, boundary="tool")
        if action.name == "finish":
            return Observation(text="finished", terminated=True)
        self.world.count += 1
        return Observation(text=f"count {self.world.count}", progress=min(1.0, self.world.count / 10))

    async def final_evaluation(self) -> Evaluation:
        self.world.finals += 1
        return Evaluation(score=50.0, forced=True)

    async def close(self) -> None:
        return None


def call(name: str, **arguments: Any) -> ModelResponse:
    """An answer with one tool call."""
    tool = {"id": "c1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    return ModelResponse(
        text="", tool_calls=[tool], finish_reason="tool_calls", token_ids=[7, 8], logprobs=[-0.1, -0.2]
    )


class Model:
    """Answers by a function of the messages it is sent; remembers them."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.seen: list[list[dict[str, Any]]] = []

    async def complete(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> ModelResponse:
        self.seen.append([dict(message) for message in messages])
        answer = self.answer(messages)
        if isinstance(answer, BaseException):
            raise answer
        prompt = [len(json.dumps(message)) % 97 for message in messages]
        return msgspec.structs.replace(answer, prompt_token_ids=prompt)

    async def close(self) -> None:
        return None


class Mail:
    """A mailbox that answers each alert after the next step; its content outlives attempts."""

    def __init__(self) -> None:
        self.raised: dict[str, DriftSignal] = {}
        self.raise_calls = 0
        self.inbox: list[Guidance] = []
        self.acknowledged: set[str] = set()
        self.expirations: dict[str, int] = {}
        self.stop_requested = False
        self.paused = False

    async def raise_alert(self, signal: DriftSignal, *, alert: str, evidence: list[StepBrief], sent_at: float) -> str:
        self.raise_calls += 1
        if alert not in self.raised:
            self.raised[alert] = signal
            self.inbox.append(
                Guidance(
                    id=f"g-{alert}", sent_at=1.0, episode="e", alert=alert, annotator="ann", text=f"advice {alert}"
                )
            )
        return alert

    def due(self) -> list[tuple[Guidance, float]]:
        return [(guidance, 2.0) for guidance in self.inbox if guidance.id not in self.acknowledged]

    async def applied(self, guidance: str, step: int) -> None:
        self.acknowledged.add(guidance)

    async def expired(self, guidance: str, step: int) -> None:
        self.acknowledged.add(guidance)
        self.expirations[guidance] = step

    async def wait_resumed(self) -> None:
        self.paused = False

    async def wait_due(self, timeout: float) -> None:
        return None


class Watcher:
    """Signals at the given steps."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps
        self.score = 0.0

    def notes(self) -> dict[str, Any]:
        return {}

    def observe(self, view: StepView) -> DriftSignal | None:
        if view.step not in self.steps:
            return None
        return DriftSignal(detector="test", score=0.9, step=view.step, reason="stuck", evidence=[view.step])


def opening(attempt: int = 1) -> list[Record]:
    """Header and first attempt."""
    header = EpisodeHeader(
        episode_id="e",
        run="r",
        index=0,
        task_id="t",
        task_family="f",
        split="train",
        seed=0,
        config_hash="0",
        created_at=0.0,
        messages=[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
    )
    return [header, AttemptStarted(epoch=attempt, at=0.0, host="h")]
