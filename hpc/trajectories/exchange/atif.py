"""ATIF, the agent trajectory interchange format of harbor (harborframework.com): one JSON file a trajectory.

Written as ATIF-v1.6 (of v1.7 and v1.8 nothing is needed); v1.0 to v1.8 are read. A step of ATIF is a
prompt message, an answer with its calls and their results, or a user's turn. What has no field there is
in ``extra.apollo_hpc``: of the trajectory (the header) and of the step (see
`hpc.trajectories.exchange.conversation`). Token ids and log-probabilities of answers have fields of
their own; prompts are kept as differences in ``metrics.extra``, because ATIF's whole prompt at every step
grows with the square of the steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from hpc import __version__
from hpc.trajectories.exchange.conversation import KEY, Part, called, parts_of
from hpc.trajectories.exchange.losses import Loss
from hpc.trajectories.exchange.source import text_of
from hpc.trajectories.records import (
    ActionTaken,
    EpisodeHeader,
    GuidanceApplied,
    Observed,
    Record,
)

FORMAT = "atif"
SUFFIXES = (".json",)
VERSION = "ATIF-v1.6"
NOTES = "Written by Apollo-HPC; extra.apollo_hpc holds what ATIF has no field for."
LOSSES: tuple[Loss, ...] = ()


def document_of(records: Iterable[Record], *, bare: bool = False) -> dict[str, Any]:
    """A trajectory as an ATIF document. ``bare`` leaves out everything of this project's own."""
    document = _Document(bare)
    for part in parts_of(records):
        document.add(part)
    return document.finish()


class _Document:
    def __init__(self, bare: bool) -> None:
        self._bare = bare
        self._header: EpisodeHeader | None = None
        self._model = ""
        self._steps: list[dict[str, Any]] = []
        self._before: list[dict[str, Any]] = []  # remainders of what comes before the first answer
        self._prompt_tokens = self._answer_tokens = 0

    def add(self, part: Part) -> None:
        record, remainder = part.record, part.remainder
        match record:
            case EpisodeHeader():
                self._header = record
                for message in part.messages:
                    self._prompt(message)
                if [prompt_message(step) for step in self._steps] != part.messages:
                    remainder["messages"] = part.messages
            case ActionTaken():
                self._answer(record, remainder)
            case Observed():
                self._observe(record)
            case GuidanceApplied():
                self._step("user", part.messages[0]["content"], record.applied_at)
            case _:
                pass
        prompt = len(self._header.messages) if self._header else 0
        if len(self._steps) > prompt:
            self._steps[-1].setdefault("extra", {}).setdefault(KEY, []).append(remainder)
        else:
            self._before.append(remainder)

    def _step(self, source: str, message: str, at: float = 0.0) -> dict[str, Any]:
        step: dict[str, Any] = {"step_id": len(self._steps) + 1, "source": source, "message": message}
        if at:
            step["timestamp"] = datetime.fromtimestamp(at, UTC).isoformat()
        self._steps.append(step)
        return step

    def _prompt(self, message: dict[str, Any]) -> None:
        """A message before the first answer; one of an assistant is a demonstration, not to be trained on."""
        source = {"system": "system", "developer": "system", "assistant": "agent"}.get(message["role"], "user")
        step = self._step(source, text_of(message.get("content")))
        if source == "agent":
            step["is_copied_context"] = True

    def _answer(self, taken: ActionTaken, remainder: dict[str, Any]) -> None:
        step = self._step("agent", taken.text, taken.at)
        if taken.model:
            step["model_name"] = self._model = taken.model
        calls = [call for call in map(_native, taken.tool_calls[:1]) if call is not None]
        if calls:
            step["tool_calls"] = calls
        if [openai_call(call) for call in calls] != taken.tool_calls:
            remainder["tool_calls"] = taken.tool_calls
        prompt = taken.shared_tokens + len(taken.new_prompt_ids)
        metrics: dict[str, Any] = {}
        if prompt or taken.token_ids:
            metrics = {"prompt_tokens": prompt, "completion_tokens": len(taken.token_ids)}
            metrics["completion_token_ids"] = taken.token_ids
            self._prompt_tokens += prompt
            self._answer_tokens += len(taken.token_ids)
        if taken.logprobs:
            metrics["logprobs"] = taken.logprobs
        if metrics and not self._bare:
            metrics["extra"] = {"shared_tokens": taken.shared_tokens, "new_prompt_ids": taken.new_prompt_ids}
        if metrics:
            step["metrics"] = metrics

    def _observe(self, observed: Observed) -> None:
        step = self._steps[-1]
        result: dict[str, Any] = {"content": observed.observation.text}
        if "tool_calls" in step:
            result = {"source_call_id": step["tool_calls"][0]["tool_call_id"], **result}
        step["observation"] = {"results": [result]}

    def finish(self) -> dict[str, Any]:
        header = self._header
        if header is None:
            raise ValueError("a trajectory begins with its header")
        agent: dict[str, Any] = {"name": "apollo-hpc", "version": __version__}
        if self._model:
            agent["model_name"] = self._model
        if header.tools:
            agent["tool_definitions"] = header.tools
        metrics: dict[str, Any] = {"total_steps": len(self._steps)}
        if self._prompt_tokens or self._answer_tokens:
            metrics |= {"total_prompt_tokens": self._prompt_tokens, "total_completion_tokens": self._answer_tokens}
        document: dict[str, Any] = {
            "schema_version": VERSION,
            "session_id": header.episode_id,
            "agent": agent,
            "steps": self._steps,
            "final_metrics": metrics,
        }
        if self._bare:
            for step in self._steps:
                step.pop("extra", None)
            return document
        return document | {"notes": NOTES, "extra": {KEY: self._before}}


def prompt_message(step: dict[str, Any]) -> dict[str, Any]:
    """The message of a step before the first answer."""
    role = {"system": "system", "agent": "assistant"}.get(step["source"], "user")
    return {"role": role, "content": text_of(step.get("message"))}


def openai_call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call of ATIF as OpenAI writes it."""
    function = {"name": call["function_name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
    return {"id": call["tool_call_id"], "type": "function", "function": function}


def _native(call: dict[str, Any]) -> dict[str, Any] | None:
    """A tool call as ATIF writes it; None where its arguments are no object."""
    action = called(call)
    if action.problem:
        return None
    return {"tool_call_id": action.call_id, "function_name": action.name, "arguments": action.arguments}
