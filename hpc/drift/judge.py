"""Asking a language model now and then whether the agent drifts.

The agent never waits: a question is asked in the background, and the verdict on the steps up to n takes
effect at the step during which it arrives, n + k. It is stored with that step (`JudgedMonitor.notes`), so
that the detectors see it at the same step on resume and in a replay. A question whose answer was lost with
its process is asked again only if it is still the newest one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from hpc.config.drift import JudgeConfig
from hpc.core.errors import HpcError
from hpc.core.prompts import read_prompt
from hpc.drift.history import shorten
from hpc.trajectories.records import VERDICTS, DriftSignal, ModelResponse, StepView, Verdict

log = logging.getLogger(__name__)

TASK_CHARACTERS = 4000
"""Characters of the task's description that the judge is shown."""
LONGEST_REASON = 600
_BYTES_A_TOKEN = 4  # where the engine tells no token ids: about that of English text


class JudgeModel(Protocol):
    """Who is asked (`hpc.serving.client.ModelClient`)."""

    async def complete(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> ModelResponse:
        """One chat completion. Raises HpcError when there is none."""
        ...


class Monitor(Protocol):
    """What is judged (`hpc.drift.monitor.DriftMonitor`)."""

    def observe(self, view: StepView) -> DriftSignal | None: ...

    @property
    def score(self) -> float: ...


class _Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    drifting: bool
    confidence: float
    reason: str


class JudgedMonitor:
    """A monitor with a judge beside it (`hpc.agent.protocols.Watcher`).

    At most one question is under way; if more steps are due meanwhile, the newest is asked next. While
    stored steps are observed on resume nothing is asked, for asking needs the event loop's turn; the
    verdicts that they hold count against the budget as if they had been asked for here.

    Args:
        monitor: sees every step with the verdicts that arrived during it.
        model: who is asked.
        config: when, and for how much.
        task: description of what the agent is to do.

    Raises:
        ConfigError: there is no such prompt.
    """

    def __init__(self, monitor: Monitor, model: JudgeModel, config: JudgeConfig, *, task: str) -> None:
        self._monitor = monitor
        self._model = model
        self._config = config
        self._prompt = judge_prompt(config.prompt)
        self._task = task
        self._views: list[StepView] = []
        self._used: dict[int, int] = {}  # step asked about -> tokens
        self._wanted = 0
        self._due = asyncio.Event()
        self._arrived: list[Verdict] = []
        self._worker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to ask in the background."""
        self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Give up what is under way."""
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker

    @property
    def score(self) -> float:
        """The monitor's drift score."""
        return self._monitor.score

    @property
    def calls(self) -> int:
        """Questions asked in this episode, in all attempts whose verdicts were stored."""
        return len(self._used)

    @property
    def malformed(self) -> int:
        """Of those stored or arrived here: how many brought no verdict."""
        stored = [verdict for view in self._views for verdict in view.verdicts]
        return sum(bool(verdict.problem) for verdict in [*stored, *self._arrived])

    def notes(self) -> dict[str, Any]:
        """The verdicts that arrived since the last step, to be stored with this one."""
        if not self._arrived:
            return {}
        arrived, self._arrived = self._arrived, []
        return {VERDICTS: msgspec.to_builtins(arrived)}

    def observe(self, view: StepView) -> DriftSignal | None:
        """Take one step in; may make a question due. Never waits."""
        self._views.append(view)
        for verdict in view.verdicts:
            self._used[verdict.asked] = verdict.tokens
        if view.step % self._config.every == 0:
            self._wanted = view.step
            self._due.set()
        return self._monitor.observe(view)

    async def _work(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            step = self._wanted
            if step in self._used or not self._may_ask():
                continue
            self._used[step] = 0
            verdict = await self._ask(step)
            self._used[step] = verdict.tokens
            self._arrived.append(verdict)
            if verdict.problem:
                log.warning("judge, step %d: %s", step, verdict.problem)

    def _may_ask(self) -> bool:
        return len(self._used) < self._config.calls and sum(self._used.values()) < self._config.tokens

    async def _ask(self, step: int) -> Verdict:
        started = time.monotonic()
        try:
            messages = question(self._prompt, self._task, self._views[:step], self._config)
            async with asyncio.timeout(self._config.wait_seconds):
                response = await self._model.complete(messages, [])
        except TimeoutError:
            return Verdict(asked=step, problem=f"no answer within {self._config.wait_seconds:g} s")
        except HpcError as error:
            return Verdict(asked=step, problem=f"no answer: {shorten(str(error))}")
        except Exception as error:  # whatever breaks here must not reach the agent
            log.exception("judge")
            return Verdict(asked=step, problem=f"no answer: {type(error).__name__}")
        return read_verdict(
            response.text, step, tokens=tokens_of(messages, response), seconds=time.monotonic() - started
        )


def question(prompt: str, task: str, views: Sequence[StepView], config: JudgeConfig) -> list[dict[str, Any]]:
    """The messages of one question about the last of ``views``, as OpenAI takes them."""
    steps = [
        {
            "step": view.step,
            "action": f"{view.action} {view.arguments}"[: config.characters],
            "observation": view.observation[-config.characters :],
            "error": view.is_error or view.is_malformed,
            "waits_for_running_job": view.polling and view.job_progressed,
        }
        for view in views[-config.steps :]
    ]
    shown = json.dumps({"task": task[:TASK_CHARACTERS], "steps": steps}, ensure_ascii=False)
    return [{"role": "system", "content": prompt}, {"role": "user", "content": shown}]


def read_verdict(text: str, step: int, *, tokens: int, seconds: float) -> Verdict:
    """The verdict of an answer. Anything but the one JSON object asked for, with a confidence in [0, 1],
    is none: a model that cannot keep to a form is no witness."""
    try:
        answer = msgspec.json.decode(text.strip(), type=_Answer)
        problem = "" if 0 <= answer.confidence <= 1 else f"confidence is {answer.confidence}"
    except msgspec.DecodeError as error:
        answer, problem = _Answer(False, 0.0, ""), f"malformed verdict ({error}): {shorten(text, 80)}"
    if problem:
        return Verdict(asked=step, problem=problem, tokens=tokens, seconds=seconds)
    return Verdict(
        asked=step,
        drifting=answer.drifting,
        confidence=answer.confidence,
        reason=shorten(answer.reason, LONGEST_REASON),
        tokens=tokens,
        seconds=seconds,
    )


def tokens_of(messages: Sequence[dict[str, Any]], response: ModelResponse) -> int:
    """Tokens of a call, prompt and answer; estimated from the bytes where the engine tells no ids."""
    if response.prompt_token_ids:
        return len(response.prompt_token_ids) + len(response.token_ids)
    said = "".join(str(message["content"]) for message in messages) + response.text
    return -(-len(said.encode(errors="replace")) // _BYTES_A_TOKEN)


def judge_prompt(name: str) -> str:
    """The judge's instructions.

    Raises:
        ConfigError: there is no such file in templates/prompts/judge/.
    """
    return read_prompt(name, "drift.judge.prompt", folder="judge")
