"""What the episode loop wants of its collaborators. Implementations live elsewhere and are joined
in ``jobs``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hpc.trajectories.records import Action, DriftSignal, Evaluation, ModelResponse, Observation, StepView


class Environment(Protocol):
    """A task in its workspace (`hpc.gym.Gym`)."""

    @property
    def tools(self) -> list[dict[str, Any]]:
        """OpenAI tool schemas of the actions the agent may take."""
        ...

    async def start(self) -> str:
        """Lay out the workspace (idempotent), start hidden services; the task description."""
        ...

    def check(self, action: Action) -> Action:
        """The action itself when name and arguments fit a schema, else the null action with a
        ``problem`` that says what to mend."""
        ...

    async def step(self, action: Action) -> Observation:
        """Carry out one action. Never raises for what the agent did wrong: that is an error
        observation. Raises GymError when the environment itself broke."""
        ...

    def is_repeatable(self, action: Action) -> bool:
        """Whether carrying the action out again after a crash changes nothing."""
        ...

    async def final_evaluation(self) -> Evaluation:
        """The forced evaluation at the end of an episode; idempotent."""
        ...

    async def close(self) -> None:
        """Stop sessions and services. The workspace stays."""
        ...


class Model(Protocol):
    """A client of one or more OpenAI-compatible endpoints (`hpc.serving.client.ModelClient`)."""

    async def complete(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> ModelResponse:
        """One chat completion.

        Raises:
            ServingError: no endpoint answered within the configured time.
        """
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class Watcher(Protocol):
    """Looks at every step and says when a human should look too (`hpc.drift.monitor.DriftMonitor`)."""

    def observe(self, view: StepView) -> DriftSignal | None:
        """Take one step in, in order; a signal when an alert is due now."""
        ...

    def notes(self) -> dict[str, Any]:
        """What reached the watcher from outside since the last step. The loop stores it with the step
        (`Observation.info`, which the agent is not shown) before `observe`, so that a resumed episode is
        watched alike."""
        ...

    @property
    def score(self) -> float:
        """How far the episode has drifted after the last step, in [0, 1]."""
        ...


class GuidanceDue(Protocol):
    """One reply that waits to enter the context (`hpc.wire.messages.Guidance` with its arrival)."""

    @property
    def id(self) -> str: ...

    @property
    def alert(self) -> str | None: ...

    @property
    def annotator(self) -> str: ...

    @property
    def text(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def sent_at(self) -> float: ...
