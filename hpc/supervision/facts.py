"""The judge's two steps, without the asking: a question for facts, and the verdict that follows from them. Pure.

A model is asked only which of a few facts an action shows, each with a quote; the verdict is computed. Judging in
two steps like this agreed far better with itself (intraclass correlation .80 against .447 on a scale of 1 to 10)
in the action judge of the InnovatorBench evaluation reports, whose criteria these are: an action is effective
that brings new information, mends a known fault or carries out the plan; ineffective is one that repeats,
retries without new information, leaves the task, or fails without looking for the cause.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from hpc.core.prompts import read_prompt
from hpc.trajectories.records import StepView

VERSION = 1
"""Of the facts and of the verdict that follows from them."""

FOR = {
    "new_information": "its observation tells something that no shown step had told",
    "mends_fault": "it removes the cause of a failure that an earlier step showed",
    "carries_out_plan": "it is the next part of a plan that the agent stated or the task sets",
}
AGAINST = {
    "repeats": "an earlier step did the same and nothing has changed since that could change the outcome",
    "blind_retry": "an earlier step failed in this way and it is tried again without anything learned in between",
    "off_task": "it serves nothing that the task asks for",
    "undiagnosed_failure": "it goes on after a failure without looking for the cause",
}
FACTS = {**FOR, **AGAINST}

TASK_CHARACTERS = 4000
"""Characters of the task's description that the judge is shown."""
SHORTEST_QUOTE = 3

Verdict = Literal["optimal", "suboptimal", "unsure"]


class Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One fact and the words that prove it."""

    fact: str
    quote: str


class StepFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The facts of one step."""

    step: int
    facts: list[Fact]


class _Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    steps: list[StepFacts]


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one action. ``discarded`` counts facts whose quote is nowhere in what was shown."""

    step: int
    verdict: Verdict
    reason: str
    facts: list[Fact] = []
    discarded: int = 0


class MalformedAnswer(ValueError):
    """An answer that is not of the form asked for."""


def batches(views: Sequence[StepView], size: int, context: int) -> list[tuple[list[StepView], list[int]]]:
    """The questions about a trajectory: the steps shown and the numbers of those asked about.

    A step's question depends on no step after its batch, so an episode that went on keeps its answers.
    """
    return [
        (list(views[max(0, start - context) : start + size]), [view.step for view in views[start : start + size]])
        for start in range(0, len(views), size)
    ]


def question(
    prompt: str, task: str, shown: Sequence[StepView], asked: Sequence[int], characters: int
) -> list[dict[str, Any]]:
    """The messages of one question, as OpenAI takes them."""
    steps = [
        {
            "step": view.step,
            "action": _action(view, characters),
            "observation": _cut(view.observation, characters),
            "error": view.is_error or view.is_malformed,
            "waits_for_running_job": view.polling and view.job_progressed,
        }
        for view in shown
    ]
    value = {"task": task[:TASK_CHARACTERS], "steps": steps, "asked": list(asked)}
    return [
        {"role": "system", "content": prompt},
        {"role": "user", "content": json.dumps(value, ensure_ascii=False)},
    ]


def read_facts(text: str, asked: Sequence[int]) -> list[StepFacts]:
    """The facts of an answer, one entry for each step asked about.

    Raises:
        MalformedAnswer: not the JSON asked for, other steps, or a fact that there is not.
    """
    try:
        answer = msgspec.json.decode(text.strip(), type=_Answer)
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedAnswer(f"not the JSON object asked for: {error}") from error
    told = [entry.step for entry in answer.steps]
    if told != list(asked):
        raise MalformedAnswer(f"it is about the steps {told}, asked were {list(asked)}")
    unknown = sorted({fact.fact for entry in answer.steps for fact in entry.facts} - set(FACTS))
    if unknown:
        raise MalformedAnswer(f"there is no fact {unknown[0]!r}, only {', '.join(FACTS)}")
    return answer.steps


def judgements(told: Iterable[StepFacts], shown: Sequence[StepView], characters: int) -> list[Judgement]:
    """The verdict on each step.

    Facts that the shown text does not prove are left out. Of the rest: only facts for the action make it
    optimal, only facts against it sub-optimal; both, or none, leave it unsure.
    """
    text = _plain(" ".join(f"{_action(view, characters)} {_cut(view.observation, characters)}" for view in shown))
    found = []
    for entry in told:
        proven = [fact for fact in entry.facts if _proves(fact.quote, text)]
        helps = [fact for fact in proven if fact.fact in FOR]
        harms = [fact for fact in proven if fact.fact in AGAINST]
        verdict: Verdict = "unsure"
        if harms and not helps:
            verdict = "suboptimal"
        elif helps and not harms:
            verdict = "optimal"
        discarded = len(entry.facts) - len(proven)
        found.append(
            Judgement(
                step=entry.step, verdict=verdict, reason=_reason(proven, discarded), facts=proven, discarded=discarded
            )
        )
    return found


def facts_prompt(name: str) -> str:
    """The judge's instructions.

    Raises:
        ConfigError: there is no such file in templates/prompts/actions/.
    """
    return read_prompt(name, "the judge's prompt", folder="actions", facts=FACTS)


def _reason(proven: Sequence[Fact], discarded: int) -> str:
    said = "; ".join(f"{fact.fact}: “{fact.quote.strip()}”" for fact in proven) or "no proven fact"
    return f"{said} ({discarded} unproven left out)" if discarded else said


def _proves(quote: str, text: str) -> bool:
    plain = _plain(quote)
    return len(plain) >= SHORTEST_QUOTE and plain in text


def _plain(text: str) -> str:
    """Letters alone matter in comparing quotes: a model escapes and breaks lines as it likes."""
    return " ".join(text.replace("\\n", " ").replace("\\", "").replace('"', "").replace("'", "").split())


def _action(view: StepView, characters: int) -> str:
    return _cut(f"{view.action} {view.arguments}", characters)


def _cut(text: str, characters: int) -> str:
    """The text, of a long one its beginning and its end: errors stand at the end, commands at the beginning."""
    if len(text) <= characters:
        return text
    head = characters // 2
    return f"{text[:head]} […] {text[len(text) - (characters - head) :]}"
