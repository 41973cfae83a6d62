"""The state of an episode, built from its records: the same code path live and on resume.

Pure: no I/O, no clock. `EpisodeState.apply` takes the records in the order in which the trajectory
holds them; whatever the loop needs to go on is derived here, so a requeued episode continues where
its log ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from hpc.trajectories.records import (
    Action,
    ActionTaken,
    AlertRaised,
    AttemptStarted,
    ContextRewritten,
    EpisodeHeader,
    GuidanceApplied,
    Observed,
    OutcomeReached,
    Record,
    StepView,
)
from hpc.trajectories.stepview import view_of
from hpc.trajectories.turns import answer_message, real_user, result_message

ELIDED = "[older output elided]"


class EpisodeState:
    """Where an episode is. All attributes follow from the records applied so far."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.header: EpisodeHeader | None = None
        self.messages: list[dict[str, Any]] = []
        self.epoch = 0
        self.step = 0
        self.pending: ActionTaken | None = None
        self.working_seconds = 0.0
        self.alerts: list[AlertRaised] = []
        self.guidance: list[GuidanceApplied] = []
        self.outcome: OutcomeReached | None = None
        self.last_score: float | None = None
        self.best_score: float | None = None
        self.malformed_in_a_row = 0
        self.terminated = False
        self.views: list[StepView] = []
        self.context_ids: list[int] = []  # the last prompt and answer, as the engine tokenised them
        self.summaries = 0
        self.first_shown = 1  # first step whose messages are in the context; a summary stands for those before
        self.is_rewritten = False  # no prompt has been made of the context since a summary
        self.counted = (0, 0)  # tokens of the last prompt and answer, and how many messages those were
        self._begins: dict[int, int] = {}  # step in the context -> place of its first message
        for record in records:
            self.apply(record)

    def apply(self, record: Record) -> None:
        """Take one more record in."""
        match record:
            case EpisodeHeader():
                self.header = record
                self.messages = [dict(message) for message in record.messages]
            case AttemptStarted():
                self.epoch = record.epoch
            case ActionTaken():
                self._act(record)
            case Observed():
                self._observe(record)
            case AlertRaised():
                self.alerts.append(record)
            case GuidanceApplied():
                self.guidance.append(record)
                self.messages.append({"role": "user", "content": real_user(record.text)})
            case ContextRewritten():
                self._rewrite(record)
            case OutcomeReached():
                self.outcome = record

    def _rewrite(self, record: ContextRewritten) -> None:
        opening = list(self.header.messages) if self.header else []
        first = record.last_step + 1
        place = self._begins.get(first, len(self.messages))
        head = [*(dict(message) for message in opening), {"role": "user", "content": record.text}]
        self.messages = [*head, *self.messages[place:]]
        self._begins = {step: at - place + len(head) for step, at in self._begins.items() if step >= first}
        self.summaries, self.first_shown, self.is_rewritten = record.number, first, True
        self.counted = (0, 0)

    def messages_of(self, step: int) -> list[dict[str, Any]]:
        """The messages of a step that the context still shows, its guidance included."""
        return self.messages[self._begins[step] : self._begins.get(step + 1)]

    def messages_to(self, step: int) -> list[dict[str, Any]]:
        """The context up to the end of a step that it still shows."""
        return self.messages[: self._begins.get(step + 1)]

    def _act(self, record: ActionTaken) -> None:
        self.step = record.step
        self.pending = record
        self.context_ids = self.context_ids[: record.shared_tokens] + record.new_prompt_ids + record.token_ids
        self._begins[record.step] = len(self.messages)
        self.messages.append(answer_message(record))
        self.is_rewritten = False
        self.counted = (_counted(record), len(self.messages))
        self.malformed_in_a_row = self.malformed_in_a_row + 1 if record.action.problem else 0

    def _observe(self, record: Observed) -> None:
        taken, observation = self.pending, record.observation
        if taken is None or taken.step != record.step:
            raise ValueError(f"observation of step {record.step} without its action")
        self.messages.append(result_message(taken, record))
        self.pending = None
        self.working_seconds = record.working_seconds
        self.terminated = observation.terminated
        if observation.evaluation is not None:
            self.last_score = observation.evaluation.score
            self.best_score = max(self.last_score, self.best_score or 0.0)
        self.views.append(view_of(taken, record, score=self.last_score))

    @property
    def applied_ids(self) -> set[str]:
        """Ids of the guidance already in the context."""
        return {guidance.id for guidance in self.guidance}

    def context(self, keep_observations: int | None = None) -> list[dict[str, Any]]:
        """The messages to send. With ``keep_observations`` = N only the newest N tool outputs are
        shown in full (MiroThinker's recency rule); prompt, answers and guidance always are."""
        if keep_observations is None:
            return list(self.messages)
        tools = [i for i, message in enumerate(self.messages) if message["role"] == "tool"]
        elided = set(tools[:-keep_observations])
        return [{**m, "content": ELIDED} if i in elided else m for i, m in enumerate(self.messages)]


def _counted(record: ActionTaken) -> int:
    """Tokens of a prompt and its answer, as far as the engine told them."""
    ids = record.shared_tokens + len(record.new_prompt_ids) + len(record.token_ids)
    if ids or record.usage is None:
        return ids
    return (record.usage.prompt_tokens or 0) + (record.usage.completion_tokens or 0)


def first_tool_call(tool_calls: Sequence[dict[str, Any]]) -> tuple[str, str, str] | None:
    """(name, arguments as JSON text, id) of the first tool call of an answer, if it has one."""
    if not tool_calls:
        return None
    function = tool_calls[0].get("function") or {}
    return str(function.get("name", "")), str(function.get("arguments", "")), str(tool_calls[0].get("id", ""))


def read_action(text: str, tool_calls: Sequence[dict[str, Any]]) -> Action:
    """The action of an answer before the environment has checked it.

    An answer without a tool call, or with arguments that are not a JSON object, becomes the null
    action with a ``problem``.
    """
    call = first_tool_call(tool_calls)
    if call is None:
        said = " ".join(text.split())[:80]
        return Action(name="null", problem=f"no tool call in the answer{f' ({said!r})' if said else ''}; call one tool")
    name, arguments, call_id = call
    try:
        parsed = json.loads(arguments or "{}")
    except (ValueError, RecursionError) as error:  # the latter: nested without end
        return Action(name="null", call_id=call_id, problem=f"arguments of {name} are not JSON: {error}")
    if not isinstance(parsed, dict):
        return Action(name="null", call_id=call_id, problem=f"arguments of {name} are not a JSON object")
    return Action(name=name, arguments=parsed, call_id=call_id)
