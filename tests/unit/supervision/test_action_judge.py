"""Asking about actions: budget, answers on disk, malformed ones, refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from hpc.config.action_judge import ActionJudgeConfig
from hpc.core.errors import ServerNotReady, ServingError
from hpc.supervision.answers import Answers
from hpc.supervision.judge import ActionJudge, Judged
from hpc.trajectories.records import ModelResponse, StepView

CONFIG = ActionJudgeConfig(batch=2, context=1, parallel=1)
TASK = "find the fault"


def steps(count: int) -> list[StepView]:
    return [
        StepView(step=number, action="run_command", arguments=f'{{"command": "cmd {number}"}}', observation="ok")
        for number in range(1, count + 1)
    ]


def asked_in(messages: Sequence[dict[str, Any]]) -> list[int]:
    return list(json.loads(messages[1]["content"])["asked"])


def good(messages: Sequence[dict[str, Any]]) -> str:
    entries = [{"step": step, "facts": [{"fact": "repeats", "quote": f"cmd {step}"}]} for step in asked_in(messages)]
    return json.dumps({"steps": entries})


class Model:
    """Answers by the functions it is given, then well."""

    def __init__(self, *answers: Callable[[Sequence[dict[str, Any]]], str]) -> None:
        self.answers = list(answers)
        self.asked: list[list[dict[str, Any]]] = []
        self.at_a_time = self.most = 0

    async def complete(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> ModelResponse:
        self.asked.append(list(messages))
        self.at_a_time += 1
        self.most = max(self.most, self.at_a_time)
        try:
            await asyncio.sleep(0)
            answer = self.answers.pop(0) if self.answers else good
            return ModelResponse(text=answer(messages), prompt_token_ids=[1] * 90, token_ids=[2] * 10)
        finally:
            self.at_a_time -= 1


def raising(error: Exception) -> Callable[[Sequence[dict[str, Any]]], str]:
    def answer(messages: Sequence[dict[str, Any]]) -> str:
        raise error

    return answer


def rubbish(messages: Sequence[dict[str, Any]]) -> str:
    return "All fine."


async def ask(
    folder: Path, model: Model | None, count: int = 6, config: ActionJudgeConfig = CONFIG, name: str = "m"
) -> tuple[Judged, ActionJudge]:
    judge = ActionJudge(model, config, Answers(folder), name=name)
    return await judge.judge(steps(count), TASK), judge


def judged_steps(judged: Judged) -> list[int]:
    return [one.step for one in judged.judgements]


async def test_every_step_gets_a_verdict_with_its_reason(tmp_path: Path) -> None:
    model = Model()
    judged, judge = await ask(tmp_path, model)
    assert judged_steps(judged) == [1, 2, 3, 4, 5, 6]
    assert {one.verdict for one in judged.judgements} == {"suboptimal"}
    assert judged.judgements[2].reason == "repeats: “cmd 3”"
    assert (judge.calls, judge.tokens, judge.cached) == (3, 300, 0)
    assert [asked_in(messages) for messages in model.asked] == [[1, 2], [3, 4], [5, 6]]


async def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    first, _ = await ask(tmp_path, Model())
    model = Model()
    second, judge = await ask(tmp_path, model, 8)
    assert [asked_in(messages) for messages in model.asked] == [[7, 8]]
    assert judge.cached == 3 and judge.tokens == 100
    assert second.judgements[:6] == first.judgements
    nobody, _ = await ask(tmp_path, None, 8)
    assert nobody == second


async def test_another_model_or_another_question_is_asked(tmp_path: Path) -> None:
    await ask(tmp_path, Model())
    other, shorter = Model(), Model()
    await ask(tmp_path, other, name="other")
    await ask(tmp_path, shorter, config=replace(CONFIG, characters=5))
    assert len(other.asked) == len(shorter.asked) == 3


async def test_without_a_model_and_answers_all_is_left(tmp_path: Path) -> None:
    judged, judge = await ask(tmp_path / "none", None, 3)
    assert judged == Judged(judgements=[], left=[1, 2, 3])
    assert judge.calls == 0 and not (tmp_path / "none").exists()


@pytest.mark.parametrize("limit", [{"calls": 2}, {"tokens": 150}], ids=str)
async def test_no_request_goes_out_beyond_the_budget_and_the_rest_can_be_asked_later(
    tmp_path: Path, limit: dict[str, int]
) -> None:
    model = Model()
    judged, _ = await ask(tmp_path, model, config=replace(CONFIG, **limit))
    assert len(model.asked) == 2
    assert (judged_steps(judged), judged.left) == ([1, 2, 3, 4], [5, 6])
    later = Model()
    judged, _ = await ask(tmp_path, later, config=replace(CONFIG, **limit))
    assert [asked_in(messages) for messages in later.asked] == [[5, 6]]
    assert not judged.left


async def test_a_malformed_answer_is_asked_for_again_with_what_was_wrong(tmp_path: Path) -> None:
    model = Model(rubbish)
    judged, judge = await ask(tmp_path, model, 2)
    assert judged_steps(judged) == [1, 2] and judge.calls == 2 and judge.tokens == 200
    assert model.asked[1][2] == {"role": "assistant", "content": "All fine."}
    assert "malformed" in model.asked[1][3]["content"]


async def test_one_that_stays_malformed_is_a_problem_of_its_steps_alone_and_is_not_kept(tmp_path: Path) -> None:
    judged, _ = await ask(tmp_path, Model(rubbish, rubbish))
    assert judged_steps(judged) == [3, 4, 5, 6]
    assert set(judged.problems) == {1, 2} and "malformed" in judged.problems[1]
    again = Model()
    judged, _ = await ask(tmp_path, again)
    assert [asked_in(messages) for messages in again.asked] == [[1, 2]] and not judged.problems


async def test_a_refused_question_is_a_problem_of_its_steps_alone(tmp_path: Path) -> None:
    judged, _ = await ask(tmp_path, Model(raising(ServingError("context length exceeded"))))
    assert judged_steps(judged) == [3, 4, 5, 6]
    assert judged.problems == dict.fromkeys([1, 2], "no answer: context length exceeded")


async def test_when_nobody_answers_it_ends_and_keeps_what_was_answered(tmp_path: Path) -> None:
    model = Model(good, raising(ServerNotReady("gone")))
    with pytest.raises(ServerNotReady):
        await ask(tmp_path, model)
    assert len(model.asked) == 2
    judged, _ = await ask(tmp_path, None)
    assert judged_steps(judged) == [1, 2] and judged.left == [3, 4, 5, 6]


async def test_a_damaged_or_foreign_answer_on_disk_is_asked_for_again(tmp_path: Path) -> None:
    await ask(tmp_path, Model())
    cut, foreign, empty = sorted(tmp_path.glob("*/*.json"))
    foreign.write_bytes(cut.read_bytes())
    cut.write_bytes(cut.read_bytes()[:-20])
    stored = msgspec.json.decode(empty.read_bytes())
    empty.write_bytes(msgspec.json.encode(stored | {"text": "{}"}))
    model = Model()
    judged, _ = await ask(tmp_path, model)
    assert len(model.asked) == 3 and judged_steps(judged) == [1, 2, 3, 4, 5, 6]


async def test_as_many_questions_as_allowed_are_under_way(tmp_path: Path) -> None:
    model = Model()
    told: list[int] = []
    judge = ActionJudge(model, replace(CONFIG, parallel=3), Answers(tmp_path), name="m")
    judged = await judge.judge(steps(11), TASK, on_steps=told.append)
    assert model.most == 3 and sum(told) == 11
    assert judged_steps(judged) == list(range(1, 12))


@pytest.mark.parametrize(
    "fields",
    [{"batch": 0}, {"context": -1}, {"wait_seconds": 0}, {"url": "http://h/v1"}, {"api_key_env": "KEY"},
     {"url": "http://me@h/v1", "model": "m"}],
    ids=str,
)  # fmt: skip
def test_a_configuration_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, ActionJudgeConfig)
