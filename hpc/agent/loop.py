"""The episode loop: one action a step, durable before it is carried out.

Order of a step (each line is on disk before the next begins)::

    a context that is full   ContextRewritten  a summary takes the place of the older half of the steps
    answer of the model      ActionTaken
    environment acts         Observed          the step is complete
    drift detectors look     AlertRaised       sent in the background; the agent does not wait
    guidance that arrived    GuidanceApplied   a ``<real_user>`` turn in front of the next step
    the workspace, if due    SnapshotTaken     stored before it is named

A process that dies anywhere leaves a log from which the next one goes on: an action whose
observation is missing is carried out again only if that changes nothing; otherwise the agent is
told that it was interrupted. Thoughts and actions interleave as in ReAct (Yao et al., 2023);
guidance arrives as in Apollo (arXiv 2510.27630).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from msgspec.structs import replace

from hpc.agent.context import ContextKeeper, Cost
from hpc.agent.protocols import Environment, Model, Watcher
from hpc.agent.state import EpisodeState, read_action
from hpc.config.agent import AgentConfig
from hpc.core.errors import EndpointNotFound, EvaluatorError, GymError, ServerNotReady, ServingError
from hpc.core.redact import SCANNED, redact
from hpc.trajectories.deltas import copied_spans, split_prompt
from hpc.trajectories.records import (
    Action,
    ActionTaken,
    AlertRaised,
    Boundary,
    DriftSignal,
    Evaluation,
    GuidanceApplied,
    Observation,
    Observed,
    OutcomeReached,
    Record,
    SnapshotTaken,
    Status,
)
from hpc.wire.messages import Guidance, StepBrief

log = logging.getLogger(__name__)

INTERRUPTED = (
    "error: interrupted: the job was moved while this action ran; its effects may be partial and sessions are gone"
)
BRIEF = 400  # characters of an action or observation shown to an annotator
BRIEF_STEPS = 6
STOP_LOOK_SECONDS = 1.0
STOP_GRACE_SECONDS = 5.0
"""How long an action may still take when the job must give its node back."""


class Store(Protocol):
    """Where records become durable (`hpc.trajectories.writer.TrajectoryWriter`)."""

    def append(self, *records: Record) -> None: ...


class Mail(Protocol):
    """The agent's side of the guidance protocol (`hpc.agent.mailbox.Mailbox`)."""

    async def raise_alert(
        self, signal: DriftSignal, *, alert: str, evidence: list[StepBrief], sent_at: float
    ) -> str: ...

    def due(self) -> list[tuple[Guidance, float]]:
        """Guidance not yet applied, in order, with the time of its arrival."""
        ...

    async def applied(self, guidance: str, step: int) -> None: ...

    async def expired(self, guidance: str, step: int) -> None:
        """Note that guidance is too old to be applied after ``step``."""
        ...

    @property
    def stop_requested(self) -> bool: ...

    @property
    def paused(self) -> bool: ...

    async def wait_resumed(self) -> None: ...

    async def wait_due(self, timeout: float) -> None:
        """Until guidance is due, or ``timeout`` seconds."""
        ...


class Snapshots(Protocol):
    """Where the workspace is stored (`jobs.episode`)."""

    async def take(self, step: int, *, ends: bool) -> SnapshotTaken | None:
        """Store the workspace after ``step`` if it is due. Never raises for what cannot be stored: the
        record says so."""
        ...


class Interrupted(Exception):
    """The job must give its node back; the episode goes on in a later attempt."""


class EpisodeLoop:
    """Runs one episode from wherever its records stand to its outcome.

    Args:
        on_step: called after every change with the loop itself, for live displays; must be quick.
        stopping: true when the job must give its node back.
        cost: what an answer of the model cost.
        keeper: has the context summarised when it grows too long; None: never.
        snapshots: stores the workspace; None: never.
    """

    def __init__(
        self,
        *,
        config: AgentConfig,
        state: EpisodeState,
        store: Store,
        environment: Environment,
        model: Model,
        mail: Mail,
        watcher: Watcher,
        stopping: Callable[[], bool],
        on_step: Callable[[EpisodeLoop, str], None] = lambda loop, status: None,
        clock: Callable[[], float] = time.monotonic,
        cost: Cost = lambda answer: answer.usage,
        keeper: ContextKeeper | None = None,
        snapshots: Snapshots | None = None,
    ) -> None:
        self.config = config
        self.state = state
        self.store = store
        self.environment = environment
        self.model = model
        self.mail = mail
        self.watcher = watcher
        self._stopping = stopping
        self._on_step = on_step
        self._clock = clock
        self._cost = cost
        self._keeper = keeper
        self._snapshots = snapshots
        self._worked_before = state.working_seconds
        self._resumed_at = clock()
        self._paused_for = 0.0

    @property
    def working_seconds(self) -> float:
        """The episode's clock: time at work over all attempts, without queue time and pauses."""
        return self._worked_before + self._clock() - self._resumed_at - self._paused_for

    def _record(self, *records: Record) -> None:
        self.store.append(*records)
        for record in records:
            self.state.apply(record)

    async def run(self) -> OutcomeReached:
        """Play the episode to its end.

        Raises:
            Interrupted: the job must stop; call again in the next attempt.
            EndpointNotFound, ServerNotReady: no endpoint answered for too long; the episode stays
                resumable.
        """
        if self.state.outcome is not None:
            return self.state.outcome
        await self._catch_up()
        while True:
            ending = self._limit()
            if ending is not None:
                return await self._end(*ending)
            if self._stopping():
                raise Interrupted
            if self.mail.paused:
                await self._pause()
                continue
            try:
                await self._keep_context()
                await self._take_step()
            except GymError as error:
                boundary: Boundary = "evaluator" if isinstance(error, EvaluatorError) else "environment"
                return await self._end("failed", str(error), boundary)
            except (EndpointNotFound, ServerNotReady):  # the servers are gone, not the episode
                if self._stopping():
                    raise Interrupted from None
                raise
            except ServingError as error:
                return await self._end("failed", str(error), "model")

    def _limit(self) -> tuple[Status, str, Boundary | None] | None:
        """Why the episode ends now, if it does."""
        if self.state.terminated:
            return "finished", "the agent finished", None
        if self.mail.stop_requested:
            return "stopped", "an annotator stopped the episode", None
        if self.state.step >= self.config.max_steps:
            return "truncated", f"{self.config.max_steps} steps", None
        if self.working_seconds >= self.config.max_working_seconds:
            return "truncated", f"{self.config.max_working_seconds:g} s of working time", None
        if self.state.malformed_in_a_row >= self.config.max_malformed:
            return "failed", f"{self.state.malformed_in_a_row} malformed answers in a row", "model"
        return None

    # ---- one step

    async def _keep_context(self) -> None:
        """Have older steps summarised if they must go; durable like everything else before the next step."""
        rewritten = await self._keeper.rewrite(self.state) if self._keeper is not None else None
        if rewritten is not None:
            self._record(rewritten)

    async def _take_step(self) -> None:
        state = self.state
        answer = await self.model.complete(state.context(self.config.keep_observations), self.environment.tools)
        action = self.environment.check(read_action(answer.text, answer.tool_calls))
        shared, new = split_prompt(state.context_ids, answer.prompt_token_ids)
        copied = copied_spans(state.context_ids, answer.prompt_token_ids, shared) if state.is_rewritten else []
        self._record(
            ActionTaken(
                step=state.step + 1,
                at=time.time(),
                action=action,
                text=answer.text,
                tool_calls=answer.tool_calls,
                finish_reason=answer.finish_reason,
                shared_tokens=shared,
                new_prompt_ids=new,
                token_ids=answer.token_ids,
                logprobs=answer.logprobs,
                endpoint=answer.endpoint,
                model=answer.model,
                model_seconds=answer.seconds,
                usage=self._cost(answer),
                duplicate_spans=copied,
            )
        )
        await self._carry_out(action)

    async def _carry_out(self, action: Action) -> None:
        acting = asyncio.ensure_future(self.environment.step(action))
        try:
            await _until(acting, self._stopping, grace=STOP_GRACE_SECONDS)
            if not acting.done():
                raise Interrupted
        finally:
            acting.cancel()
        await self._observed(acting.result())

    async def _observed(self, observation: Observation) -> None:
        """The step is complete; let the detectors look, then take what annotators sent."""
        if notes := self.watcher.notes():
            observation = replace(observation, info={**observation.info, **notes})
        self._record(
            Observed(
                step=self.state.step,
                at=time.time(),
                observation=observation,
                working_seconds=self.working_seconds,
            )
        )
        signal = self.watcher.observe(self.state.views[-1])
        if signal is not None:
            await self._alert(signal)
        await self._take_guidance()
        await self._take_snapshot(ends=False)
        self._on_step(self, "running")

    async def _take_snapshot(self, *, ends: bool) -> None:
        taken = await self._snapshots.take(self.state.step, ends=ends) if self._snapshots is not None else None
        if taken is not None:
            self._record(taken)

    # ---- alerts and guidance

    async def _alert(self, signal: DriftSignal) -> None:
        """Durable in the outbox first, then in the trajectory: a crash in between is mended by
        `_catch_up`, which finds the same id for the same step."""
        sent_at = time.time()
        name = self._alert_id(signal.step)
        reason = redact(signal.reason)  # what may leave the cluster holds no secrets from here on
        await self.mail.raise_alert(
            replace(signal, reason=reason),
            alert=name,
            evidence=self._evidence(signal),
            sent_at=sent_at,
        )
        self._record(
            AlertRaised(
                id=name,
                detector=signal.detector,
                score=signal.score,
                step=signal.step,
                reason=signal.reason,
                evidence=signal.evidence,
                priority=signal.priority,
                sent_at=sent_at,
            )
        )
        if signal.priority == "ask" and self.config.alert_wait_seconds > 0:
            started = self._clock()
            await self.mail.wait_due(self.config.alert_wait_seconds)
            self._paused_for += self._clock() - started

    def _alert_id(self, step: int) -> str:
        header = self.state.header
        return f"{header.episode_id if header else 'episode'}-a{step}"

    def _evidence(self, signal: DriftSignal) -> list[StepBrief]:
        wanted = sorted({*signal.evidence, signal.step})[-BRIEF_STEPS:]
        return [
            StepBrief(
                step=view.step,
                action=redact(f"{view.action} {view.arguments}"[:SCANNED])[:BRIEF],
                observation=redact(view.observation[-SCANNED:])[-BRIEF:],
                is_error=view.is_error,
            )
            for view in self.state.views
            if view.step in wanted
        ]

    async def _take_guidance(self) -> None:
        for guidance, delivered_at in self.mail.due():
            if guidance.id not in self.state.applied_ids:
                if guidance.is_over(step=self.state.step, now=time.time()):
                    await self.mail.expired(guidance.id, self.state.step)
                    continue
                self._record(
                    GuidanceApplied(
                        id=guidance.id,
                        alert_id=guidance.alert,
                        annotator=guidance.annotator,
                        text=guidance.text,
                        kind=guidance.kind,
                        sent_at=guidance.sent_at,
                        delivered_at=delivered_at,
                        applied_at=time.time(),
                        applied_step=self.state.step,
                        valid_until_step=guidance.valid_until_step,
                        valid_until=guidance.valid_until,
                        replaces=guidance.replaces,
                    )
                )
            await self.mail.applied(guidance.id, self.state.step)

    # ---- life

    async def _catch_up(self) -> None:
        """Bring detectors, a half-done step and a half-raised alert of the last attempt up to date."""
        signal = None
        for view in self.state.views:
            signal = self.watcher.observe(view)
        raised = {alert.step for alert in self.state.alerts}
        if signal is not None and signal.step not in raised:
            await self._alert(signal)
        pending = self.state.pending
        if pending is not None:
            if self.environment.is_repeatable(pending.action):
                await self._carry_out(pending.action)
            else:
                log.warning("step %d was interrupted: not carried out again", pending.step)
                await self._observed(Observation(text=INTERRUPTED, is_error=True, boundary="infrastructure"))
        await self._take_guidance()
        self._on_step(self, "running")

    async def _pause(self) -> None:
        started = self._clock()
        self._on_step(self, "paused")
        waiting = asyncio.ensure_future(self.mail.wait_resumed())
        await _until(waiting, self._stopping)
        waiting.cancel()
        self._paused_for += self._clock() - started

    async def _end(self, status: Status, reason: str, boundary: Boundary | None) -> OutcomeReached:
        final: Evaluation | None = None
        try:
            final = await self.environment.final_evaluation()
        except GymError as error:
            log.error("final evaluation: %s", error)
            if status != "failed":
                status, reason, boundary = "failed", str(error), "evaluator"
        await self._take_snapshot(ends=True)
        scores = [score for score in (final.score if final else None, self.state.best_score) if score is not None]
        outcome = OutcomeReached(
            status=status,
            at=time.time(),
            steps=self.state.step,
            working_seconds=self.working_seconds,
            final_score=final.score if final else self.state.last_score,
            best_score=max(scores, default=None),
            reason=reason,
            boundary=boundary,
        )
        self._record(outcome)
        self._on_step(self, status)
        return outcome


async def _until(task: asyncio.Future[Any], stopping: Callable[[], bool], grace: float = 0.0) -> None:
    """Wait for the task, but no longer than ``grace`` seconds once the job must stop."""
    while not task.done():
        await asyncio.wait([task], timeout=STOP_LOOK_SECONDS)
        if not task.done() and stopping():
            await asyncio.wait([task], timeout=grace)
            return
