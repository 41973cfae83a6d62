"""Asking a language model for facts about an agent's actions, within a budget, each question once.

Answers are kept on disk before they count (`hpc.supervision.answers`): a judge that was interrupted goes on where
it was, and one that is given no model draws verdicts from what is there without asking anybody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from hpc.config.action_judge import ActionJudgeConfig
from hpc.core.errors import EndpointNotFound, HpcError, ServerNotReady
from hpc.supervision.answers import Answers, StoredAnswer, key_of
from hpc.supervision.facts import (
    Judgement,
    MalformedAnswer,
    batches,
    facts_prompt,
    judgements,
    question,
    read_facts,
)
from hpc.trajectories.records import ModelResponse, StepView

log = logging.getLogger(__name__)

_BYTES_A_TOKEN = 4  # where the engine tells no token ids: about that of English text


class FactsModel(Protocol):
    """Who is asked (`hpc.serving.client.ModelClient`)."""

    async def complete(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> ModelResponse:
        """One chat completion. Raises HpcError when there is none."""
        ...


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one trajectory.

    ``problems`` says of steps why they have no judgement although the judge was asked; ``left`` are those
    that it was not asked about: the budget was used up, or there is no model.
    """

    judgements: list[Judgement]
    problems: dict[int, str] = {}
    left: list[int] = []


class ActionJudge:
    """Judges the actions of trajectories, one trajectory after the other.

    Args:
        model: who is asked; None: nobody, answers on disk alone count.
        config: how much is shown, and for how much. The budget is that of this object; answers from disk
            cost nothing. As ``parallel`` questions may be under way, tokens may exceed it by their answers.
        answers: where answers are kept.
        name: the model's name, part of the question's content.

    Raises:
        ConfigError: there is no such prompt.
    """

    def __init__(self, model: FactsModel | None, config: ActionJudgeConfig, answers: Answers, *, name: str) -> None:
        self.calls = self.tokens = self.cached = 0
        self._model = model
        self._config = config
        self._answers = answers
        self._name = name
        self._prompt = facts_prompt(config.prompt)
        self._slots = asyncio.Semaphore(config.parallel)
        self._gone: HpcError | None = None

    async def judge(
        self, views: Sequence[StepView], task: str, *, on_steps: Callable[[int], None] = lambda count: None
    ) -> Judged:
        """The judgements on all steps.

        Args:
            views: the finished steps of one trajectory.
            task: description of what the agent is to do.
            on_steps: called with how many more steps are settled.

        Raises:
            EndpointNotFound, ServerNotReady: nobody answers; what was answered is on disk.
            HpcError: an answer cannot be stored.
        """
        self._gone = None
        questions = batches(views, self._config.batch, self._config.context)
        running = [asyncio.ensure_future(self._one(shown, asked, task, on_steps)) for shown, asked in questions]
        try:
            parts = await asyncio.gather(*running)
        except BaseException:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            raise
        return Judged(
            judgements=[judgement for part in parts for judgement in part.judgements],
            problems={step: problem for part in parts for step, problem in part.problems.items()},
            left=[step for part in parts for step in part.left],
        )

    async def _one(self, shown: list[StepView], asked: list[int], task: str, on_steps: Callable[[int], None]) -> Judged:
        messages = question(self._prompt, task, shown, asked, self._config.characters)
        text, problem = None, ""
        async with self._slots:
            if self._gone is not None:  # those who wait need not find out again
                raise self._gone
            try:
                text = await self._answer(messages, asked)
            except (EndpointNotFound, ServerNotReady) as error:
                self._gone = error
                raise
            except MalformedAnswer as error:
                problem = f"malformed answer: {error}"
            except _Refused as error:
                problem = str(error)
        on_steps(len(asked))
        if problem:
            log.warning("judge, steps %d to %d: %s", asked[0], asked[-1], problem)
            return Judged(judgements=[], problems=dict.fromkeys(asked, problem))
        if text is None:
            return Judged(judgements=[], left=asked)
        return Judged(judgements=judgements(read_facts(text, asked), shown, self._config.characters))

    async def _answer(self, messages: list[dict[str, Any]], asked: list[int]) -> str | None:
        """A well-formed answer, from disk or asked for; None where the budget, or the lack of a model, forbids it."""
        key = key_of(self._name, messages)
        stored = self._answers.get(key)
        if stored is not None and _is_of_the_form(stored.text, asked):
            self.cached += 1
            return stored.text
        said = list(messages)
        used, problem = 0, None
        for _ in range(self._config.attempts):
            if self._model is None or self.calls >= self._config.calls or self.tokens >= self._config.tokens:
                break
            self.calls += 1
            response = await self._ask(self._model, said)
            spent = _tokens_of(said, response)
            used += spent
            self.tokens += spent
            try:
                read_facts(response.text, asked)
            except MalformedAnswer as error:
                problem = error
                said = [
                    *messages,
                    {"role": "assistant", "content": response.text},
                    {
                        "role": "user",
                        "content": f"That is malformed: {error}. Answer again, with the JSON object alone.",
                    },
                ]
                continue
            self._answers.put(StoredAnswer(key=key, model=self._name, text=response.text, tokens=used, at=time.time()))
            return response.text
        if problem is not None:
            raise problem
        return None

    async def _ask(self, model: FactsModel, messages: list[dict[str, Any]]) -> ModelResponse:
        try:
            return await model.complete(messages, [])
        except (EndpointNotFound, ServerNotReady):
            raise
        except HpcError as error:  # this question is refused, others need not be
            raise _Refused(f"no answer: {error.message}") from error


class _Refused(Exception):
    """The endpoint does not take this question."""


def _is_of_the_form(text: str, asked: Sequence[int]) -> bool:
    try:
        read_facts(text, asked)
    except MalformedAnswer:
        return False
    return True


def _tokens_of(messages: Sequence[dict[str, Any]], response: ModelResponse) -> int:
    """Tokens of a call, prompt and answer; estimated from the bytes where the engine tells no ids."""
    if response.prompt_token_ids:
        return len(response.prompt_token_ids) + len(response.token_ids)
    said = "".join(str(message["content"]) for message in messages) + response.text
    return -(-len(said.encode(errors="replace")) // _BYTES_A_TOKEN)
