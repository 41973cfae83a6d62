from __future__ import annotations

import pytest

from hpc.config.drift import AskConfig, MilestoneConfig
from hpc.drift.notices import ask, milestone
from tests.unit.drift.episodes import Episode


def test_the_action_ask_human_is_a_request() -> None:
    signal = ask(
        Episode().step("ask_human", "ok", arguments={"question": "Which GPU\nmay I use?"}).history, AskConfig()
    )
    assert signal is not None
    assert (signal.priority, signal.detector, signal.reason) == ("ask", "ask", "the agent asks: Which GPU may I use?")


def test_a_thought_that_begins_so_is_a_request() -> None:
    signal = ask(Episode().think("Ask_human: is the sheet right?").history, AskConfig())
    assert signal is not None and signal.reason == "the agent asks: is the sheet right?"


@pytest.mark.parametrize("thought", ["I might ask_human: later", "ask human?", ""])
def test_other_thoughts_are_none(thought: str) -> None:
    assert ask(Episode().think(thought).history, AskConfig()) is None


def test_requests_in_a_row_are_one() -> None:
    episode, raised = Episode(), []
    for step in range(1, 11):
        episode.think("ask_human: help") if step in (1, 2, 3, 9) else episode.run("ls", "a")
        if ask(episode.history, AskConfig(every=5)):
            raised.append(step)
    assert raised == [1, 9]


def test_arguments_that_are_no_mapping_are_a_question_too() -> None:
    signal = ask(Episode().step("ask_human", "ok", arguments=["what", "now"]).history, AskConfig())
    assert signal is not None and "what" in signal.reason


def test_a_mark_is_told_with_the_step_that_reached_it() -> None:
    episode = Episode().run("a", "1", progress=0.4)
    assert milestone(episode.history, MilestoneConfig()) is None
    signal = milestone(episode.run("b", "2", progress=0.6).run("c", "3", progress=0.7).history, MilestoneConfig())
    assert signal is not None
    assert (signal.priority, signal.evidence) == ("milestone", [2])
    assert signal.reason == "passed 50 % of the way (now 70 %)"


def test_a_score_passes_marks_as_well() -> None:
    signal = milestone(Episode().step("eval", "score 80", score=80.0).history, MilestoneConfig(marks=(0.8,)))
    assert signal is not None and signal.evidence == [1]
