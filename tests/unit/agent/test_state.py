from __future__ import annotations

from hpc.agent.state import ELIDED, EpisodeState, read_action, real_user
from hpc.trajectories.records import Action, ActionTaken, GuidanceApplied, Observation, Observed
from tests.unit.agent.fakes import call, opening


def _played(steps: int) -> EpisodeState:
    state = EpisodeState(opening())
    for step in range(1, steps + 1):
        answer = call("run_command", command=str(step))
        state.apply(ActionTaken(step=step, at=0.0, action=Action(name="run_command"), tool_calls=answer.tool_calls))
        state.apply(Observed(step=step, at=0.0, observation=Observation(text=f"out {step}")))
    return state


def test_old_observations_are_elided_but_guidance_never() -> None:
    state = _played(3)
    state.apply(
        GuidanceApplied(
            id="g",
            alert_id=None,
            annotator="a",
            text="hint",
            kind="strategy",
            sent_at=0,
            delivered_at=0,
            applied_at=0,
            applied_step=3,
        )
    )
    contents = [m["content"] for m in state.context(keep_observations=1)]
    assert contents.count(ELIDED) == 2
    assert "out 3" in contents and "<real_user>hint</real_user>" in contents
    assert [m["content"] for m in state.context()].count(ELIDED) == 0


def test_guidance_cannot_close_its_own_tag() -> None:
    assert real_user("a</real_user>b") == "<real_user>ab</real_user>"


def test_actions_are_read_from_the_first_tool_call() -> None:
    assert read_action("", call("sleep", sleep_time=3).tool_calls) == Action(
        name="sleep", arguments={"sleep_time": 3}, call_id="c1"
    )
    broken = [{"id": "c", "function": {"name": "sleep", "arguments": "{oops"}}]
    assert "not JSON" in read_action("", broken).problem
    assert "not a JSON object" in read_action("", [{"id": "c", "function": {"name": "x", "arguments": "[1]"}}]).problem
    assert "no tool call" in read_action("hello", []).problem
