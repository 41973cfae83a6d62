"""From facts to verdicts, and what passes for an answer."""

from __future__ import annotations

import json

import pytest

from hpc.core.errors import ConfigError
from hpc.supervision.facts import (
    AGAINST,
    FACTS,
    FOR,
    MalformedAnswer,
    batches,
    facts_prompt,
    judgements,
    question,
    read_facts,
)
from hpc.trajectories.records import StepView


def view(step: int, command: str = "python train.py", observation: str = "loss 0.5\n[exit 0]") -> StepView:
    return StepView(
        step=step, action="run_command", arguments=json.dumps({"command": command}), observation=observation
    )


def answer(*facts: tuple[str, str], step: int = 1) -> str:
    return json.dumps({"steps": [{"step": step, "facts": [{"fact": name, "quote": quote} for name, quote in facts]}]})


def verdict(*facts: tuple[str, str], observation: str = "loss 0.5\n[exit 0]") -> tuple[str, int]:
    shown = [view(1, observation=observation)]
    one = judgements(read_facts(answer(*facts), [1]), shown, 600)[0]
    return one.verdict, one.discarded


@pytest.mark.parametrize("name", FOR)
def test_a_proven_fact_for_an_action_makes_it_optimal(name: str) -> None:
    assert verdict((name, "loss 0.5")) == ("optimal", 0)


@pytest.mark.parametrize("name", AGAINST)
def test_a_proven_fact_against_an_action_makes_it_suboptimal(name: str) -> None:
    assert verdict((name, "python train.py")) == ("suboptimal", 0)


def test_both_kinds_or_none_leave_it_unsure() -> None:
    assert verdict(("new_information", "loss 0.5"), ("off_task", "python train.py")) == ("unsure", 0)
    assert verdict() == ("unsure", 0)


def test_a_fact_that_the_shown_text_does_not_prove_counts_for_nothing() -> None:
    assert verdict(("off_task", "rm -rf /")) == ("unsure", 1)
    assert verdict(("off_task", "rm -rf /"), ("new_information", "loss 0.5")) == ("optimal", 1)
    assert verdict(("off_task", ""), ("repeats", " . ")) == ("unsure", 2)


def test_quotes_may_differ_in_escapes_quotation_marks_and_line_breaks() -> None:
    assert verdict(("new_information", 'loss\\n \\"0.5\\"  [exit 0]')) == ("optimal", 0)


def test_the_middle_of_a_long_observation_is_not_shown_and_proves_nothing() -> None:
    long = "begin " + "x" * 500 + " middle " + "y" * 500 + " end"
    assert verdict(("new_information", "middle"), observation=long) == ("unsure", 1)
    assert verdict(("new_information", "begin"), ("mends_fault", "end"), observation=long)[0] == "optimal"


@pytest.mark.parametrize(
    "text",
    [
        "I think that all is well.",
        "",
        "[]",
        '{"steps": []}',
        answer(step=2),
        answer(("brilliant", "loss 0.5")),
        '{"steps": [{"step": 1, "facts": [], "score": 9}]}',
        '{"steps": [{"step": 1, "facts": []}, {"step": 1, "facts": []}]}',
        "```json\n" + answer() + "\n```",
        "[" * 100_000,
    ],
    ids=["prose", "empty", "list", "none", "other step", "no fact", "extra key", "twice", "fenced", "deep"],
)
def test_anything_but_the_form_asked_for_is_no_answer(text: str) -> None:
    with pytest.raises(MalformedAnswer):
        read_facts(text, [1])


def test_every_step_is_asked_about_once_and_a_longer_episode_asks_the_same_of_its_beginning() -> None:
    views = [view(number) for number in range(1, 13)]
    whole = batches(views, 5, 3)
    assert [number for _, asked in whole for number in asked] == list(range(1, 13))
    assert [shown[0].step for shown, _ in whole] == [1, 3, 8]
    assert batches(views[:10], 5, 3) == whole[:2]
    assert batches([], 5, 3) == []


def test_steps_are_shown_as_data_and_cut() -> None:
    system, user = question("Be fair.", "t" * 9000, [view(1, observation="a" * 999), view(2)], [2], 100)
    assert system == {"role": "system", "content": "Be fair."}
    shown = json.loads(user["content"])
    assert shown["asked"] == [2] and len(shown["task"]) == 4000
    assert [step["step"] for step in shown["steps"]] == [1, 2]
    assert len(shown["steps"][0]["observation"]) < 110


def test_the_prompt_names_every_fact() -> None:
    prompt = facts_prompt("facts")
    assert all(f"- {name}: {meaning}" in prompt for name, meaning in FACTS.items())
    with pytest.raises(ConfigError, match="no such prompt"):
        facts_prompt("nothing")
