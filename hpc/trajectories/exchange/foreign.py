"""Conversations of other tools as our records: answers become actions, what follows becomes observations.

A step is one action and what it led to. An answer with several tool calls becomes a step for each; an
answer that calls no tool is the action ``message``. A user's turn after an observation is guidance: a
person's text that entered the context.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from hpc.trajectories.deltas import split_prompt
from hpc.trajectories.exchange.conversation import called
from hpc.trajectories.exchange.source import UNKNOWN_TIME
from hpc.trajectories.records import (
    Action,
    ActionTaken,
    GuidanceApplied,
    Observation,
    Observed,
    OutcomeReached,
    Record,
)
from hpc.trajectories.turns import guidance_in

MESSAGE = "message"
"""The action of an answer that calls no tool: it only says something."""
UNSAID = "the file does not say how the episode ended"


class Said(msgspec.Struct, kw_only=True):
    """An answer of the model. ``calls`` are tool calls as OpenAI writes them; ``where`` names its place
    in the file for errors. ``prompt_ids`` are those of the whole prompt, if the source tells them."""

    where: str
    text: str
    calls: list[dict[str, Any]] = []
    at: float = UNKNOWN_TIME
    model: str = ""
    finish_reason: str = ""
    seconds: float = 0.0
    prompt_ids: list[int] = []
    token_ids: list[int] = []
    logprobs: list[float] = []


class Heard(msgspec.Struct, kw_only=True):
    """What a tool call (``call_id``) or, without one, the answer before led to."""

    where: str
    text: str
    call_id: str = ""
    at: float = UNKNOWN_TIME
    is_error: bool = False
    info: dict[str, Any] = {}


class Told(msgspec.Struct, kw_only=True):
    """A turn of the user."""

    where: str
    text: str
    at: float = UNKNOWN_TIME


class NotSteps(ValueError):
    """A sequence of messages that cannot be steps; says which."""


def steps_of(turns: Iterable[Said | Heard | Told], *, episode_id: str) -> list[Record]:
    """The records of a conversation after its prompt, without an outcome.

    Raises:
        NotSteps: an answer follows one whose tool calls have no result, a result belongs to no call, or
            there is no answer.
    """
    assembly = _Assembly(episode_id)
    for turn in turns:
        if isinstance(turn, Said):
            assembly.say(turn)
        elif isinstance(turn, Heard):
            assembly.hear(turn)
        else:
            assembly.tell(turn)
    return assembly.finish()


def outcome_of(records: Sequence[Record], *, at: float = UNKNOWN_TIME) -> OutcomeReached:
    """How a conversation seems to have ended: by a message that asks for nothing, or in a way not told."""
    steps = [record for record in records if isinstance(record, ActionTaken)]
    spoke_last = bool(records) and records[-1] is steps[-1] and steps[-1].action.name == MESSAGE
    return OutcomeReached(
        status="finished" if spoke_last else "truncated",
        at=at,
        steps=len(steps),
        working_seconds=0.0,
        reason="the agent's last message calls no tool" if spoke_last else UNSAID,
    )


class _Assembly:
    def __init__(self, episode_id: str) -> None:
        self.records: list[Record] = []
        self._episode_id = episode_id
        self._steps = 0
        self._context: list[int] = []
        self._said: Said | None = None  # an answer that has not been answered
        self._heard: dict[str, Heard] = {}

    def say(self, said: Said) -> None:
        if self._said is not None:
            raise NotSteps(f"{said.where} is an answer, but {self._said.where} has had no result")
        ids = [str(call.get("id", "")) for call in said.calls]
        if len(set(ids)) < len(ids):
            raise NotSteps(f"{said.where} has tool calls with the same id")
        self._said, self._heard = said, {}

    def hear(self, heard: Heard) -> None:
        said = self._said
        if said is None:
            raise NotSteps(f"{heard.where} is a result, but no tool was called before it")
        if heard.call_id and not said.calls:
            raise NotSteps(f"{heard.where} is the result of call {heard.call_id!r}, but {said.where} calls no tool")
        open_calls = [key for call in said.calls if (key := str(call.get("id", ""))) not in self._heard]
        key = heard.call_id or (open_calls[0] if open_calls else "")
        if said.calls and key not in open_calls:
            raise NotSteps(f"{heard.where} is the result of call {key!r}, which {said.where} did not make")
        self._heard[key] = heard
        if len(self._heard) >= max(1, len(said.calls)):
            self._close()

    def tell(self, told: Told) -> None:
        said = self._said
        if said is not None and len(said.calls) <= 1:
            self.hear(Heard(where=told.where, text=told.text, at=told.at))
        elif said is not None:
            raise NotSteps(f"{told.where} is the user's, but calls of {said.where} have had no result")
        elif not self._steps:
            raise NotSteps(f"{told.where} comes before the first answer but not in the prompt")
        else:
            number = sum(isinstance(record, GuidanceApplied) for record in self.records) + 1
            self.records.append(
                GuidanceApplied(
                    id=f"{self._episode_id}-g{number}",
                    alert_id=None,
                    annotator="unknown",
                    text=guidance_in(told.text),
                    kind="message",
                    sent_at=told.at,
                    delivered_at=told.at,
                    applied_at=told.at,
                    applied_step=self._steps,
                )
            )

    def finish(self) -> list[Record]:
        if self._said is not None:
            missing = [call for call in self._said.calls if str(call.get("id", "")) not in self._heard]
            if len(missing) > 1:
                raise NotSteps(f"{len(missing)} tool calls of {self._said.where}, the last answer, have no result")
            self._close()
        if not self._steps:
            raise NotSteps("there is no answer of an assistant")
        return self.records

    def _close(self) -> None:
        """Write the steps of the answer: one for each call, those without a result last."""
        said = self._said
        if said is None:
            return
        calls: list[dict[str, Any] | None] = [*said.calls] or [None]
        calls.sort(key=lambda call: str((call or {}).get("id", "")) not in self._heard)
        for place, call in enumerate(calls):
            self._steps += 1
            self.records.append(self._taken(said, call, first=place == 0))
            heard = self._heard.get(str((call or {}).get("id", "")))
            if heard is not None:
                observation = Observation(text=heard.text, is_error=heard.is_error, info=heard.info)
                self.records.append(Observed(step=self._steps, at=heard.at, observation=observation))
        self._said = None

    def _taken(self, said: Said, call: dict[str, Any] | None, *, first: bool) -> ActionTaken:
        taken = ActionTaken(
            step=self._steps,
            at=said.at,
            action=Action(name=MESSAGE) if call is None else called(call),
            tool_calls=[] if call is None else [call],
            model=said.model,
        )
        if not first:  # the answer's tokens are the first step's
            self._context = []
            return taken
        shared, new = split_prompt(self._context, said.prompt_ids)
        self._context = [*said.prompt_ids, *said.token_ids]
        return msgspec.structs.replace(
            taken,
            text=said.text,
            finish_reason=said.finish_reason,
            model_seconds=said.seconds,
            shared_tokens=shared,
            new_prompt_ids=new,
            token_ids=said.token_ids,
            logprobs=said.logprobs,
        )
