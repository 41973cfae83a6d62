"""Builds episodes for the drift tests, one step at a time."""

from __future__ import annotations

import json
from typing import Any

from hpc.drift.history import History
from hpc.trajectories.records import StepView


class Episode:
    """Steps numbered from 1, ten seconds of working time each."""

    def __init__(self) -> None:
        self.views: list[StepView] = []

    @property
    def history(self) -> History:
        return History(self.views)

    def step(self, action: str, observation: str = "[exit 0]", /, *, arguments: Any = None, **fields: Any) -> Episode:
        number = len(self.views) + 1
        defaults: dict[str, Any] = {"working_seconds": 10.0 * number}
        view = StepView(
            step=number,
            action=action,
            arguments=json.dumps(arguments or {}, sort_keys=True),
            observation=observation,
            **(defaults | fields),
        )
        self.views.append(view)
        return self

    def run(self, command: str, observation: str = "[exit 0]", /, **fields: Any) -> Episode:
        return self.step("run_command", observation, arguments={"command": command}, **fields)

    def edit(self, content: str, **fields: Any) -> Episode:
        arguments = {"path": "train.py", "content": content}
        return self.step("edit_file", "train.py lines 3-3 edited, 90 lines", arguments=arguments, **fields)

    def think(self, thought: str = "what now?") -> Episode:
        return self.step("think", "ok", arguments={"thought": thought})

    def poll(self, observation: str = "[running]", *, moved: bool = False, **fields: Any) -> Episode:
        return self.step(
            "get_session_output",
            observation,
            arguments={"session_id": "s1"},
            polling=True,
            job_progressed=moved,
            **fields,
        )

    def malformed(self) -> Episode:
        return self.step("null", "error: no tool call", is_malformed=True, is_error=True)
