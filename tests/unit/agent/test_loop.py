from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from hpc.agent import loop
from hpc.agent.loop import INTERRUPTED, EpisodeLoop, Interrupted
from hpc.agent.state import EpisodeState
from hpc.config.agent import AgentConfig
from hpc.core.errors import EndpointNotFound, EvaluatorError, GymError, ServerNotReady, ServingError
from hpc.trajectories.records import (
    ActionTaken,
    AlertRaised,
    AttemptStarted,
    GuidanceApplied,
    ModelResponse,
    Observed,
    OutcomeReached,
)
from hpc.wire.messages import Guidance
from tests.unit.agent.fakes import Environment, Killed, Mail, Model, Store, Watcher, World, call, opening


def loop_of(
    store: Store,
    world: World,
    *,
    mail: Mail | None = None,
    model: Model | None = None,
    watcher: Watcher | None = None,
    config: AgentConfig | None = None,
    stopping: Callable[[], bool] = lambda: False,
    environment: Environment | None = None,
    clock: Callable[[], float] = lambda: 0.0,
) -> EpisodeLoop:
    return EpisodeLoop(
        config=config or AgentConfig(max_steps=50),
        state=EpisodeState(store.records),
        store=store,
        environment=environment or Environment(world),
        model=model or Model(counting(world)),
        mail=mail or Mail(),
        watcher=watcher or Watcher(),
        stopping=stopping,
        clock=clock,
    )


def counting(world: World) -> Callable[[Any], ModelResponse]:
    """Runs commands until the world has counted far enough, then finishes."""
    return lambda messages: call("finish") if world.count >= world.steps_to_win else call("run_command", command="x")


def of(store: Store, kind: type) -> list[Any]:
    return [record for record in store.records if isinstance(record, kind)]


async def test_an_episode_runs_to_the_agents_finish() -> None:
    store, world = Store(opening()), World(3)
    outcome = await loop_of(store, world).run()
    assert (outcome.status, outcome.steps, outcome.final_score) == ("finished", 4, 50.0)
    assert [r.step for r in of(store, ActionTaken)] == [1, 2, 3, 4] == [r.step for r in of(store, Observed)]
    assert isinstance(store.records[-1], OutcomeReached)


async def test_guidance_follows_the_observation_of_the_step_that_was_flagged() -> None:
    store, world, mail = Store(opening()), World(4), Mail()
    model = Model(counting(world))
    await loop_of(store, world, mail=mail, model=model, watcher=Watcher(2)).run()
    (applied,) = of(store, GuidanceApplied)
    assert (applied.alert_id, applied.applied_step, applied.annotator) == ("e-a2", 2, "ann")
    third = model.seen[2]
    assert third[-1] == {"role": "user", "content": "<real_user>advice e-a2</real_user>"}
    assert third[-2]["role"] == "tool"
    assert sum("real_user" in str(m["content"]) for m in model.seen[-1]) == 1  # it stays, once


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("dies_at", range(2, 19))
async def test_a_kill_at_any_record_loses_and_repeats_nothing(dies_at: int, after: bool) -> None:
    world, mail = World(5), Mail()
    first = Store(opening(), dies_at=dies_at, after=after)
    with contextlib.suppress(Killed):
        await loop_of(first, world, mail=mail, watcher=Watcher(2, 4)).run()
    second = Store([*first.records, AttemptStarted(epoch=2, at=0.0, host="h2")])
    await loop_of(second, world, mail=mail, watcher=Watcher(2, 4)).run()
    steps = [record.step for record in of(second, ActionTaken)]
    assert steps == list(range(1, len(steps) + 1))
    assert steps == [record.step for record in of(second, Observed)]
    assert [alert.id for alert in of(second, AlertRaised)] == ["e-a2", "e-a4"]
    assert sorted(guidance.alert_id for guidance in of(second, GuidanceApplied)) == ["e-a2", "e-a4"]
    assert mail.acknowledged == {"g-e-a2", "g-e-a4"}
    assert len(of(second, OutcomeReached)) == 1


async def test_an_interrupted_side_effect_is_not_carried_out_again() -> None:
    store, world = Store(opening(), dies_at=3), World(2)  # dies before the first observation is stored
    with pytest.raises(Killed):
        await loop_of(store, world).run()
    assert world.carried_out == ["run_command"]
    resumed = Store(store.records)
    await loop_of(resumed, world).run()
    assert of(resumed, Observed)[0].observation.text == INTERRUPTED
    assert world.count == 2


async def test_an_interrupted_repeatable_action_is_carried_out_again() -> None:
    world = World(0)
    answers = iter([call("open_file", path="a"), call("finish")])
    store = Store(opening(), dies_at=3)
    with pytest.raises(Killed):
        await loop_of(store, world, model=Model(lambda _: next(answers))).run()
    resumed = Store(store.records)
    await loop_of(resumed, world, model=Model(lambda _: next(answers))).run()
    assert of(resumed, Observed)[0].observation.text == "count 2"
    assert [action.action.name for action in of(resumed, ActionTaken)] == ["open_file", "finish"]


async def test_a_malformed_answer_is_a_null_action_with_an_error_observation() -> None:
    store, world = Store(opening()), World()
    answers = iter([ModelResponse(text="I think so"), call("fly"), call("finish")])
    await loop_of(store, world, model=Model(lambda _: next(answers))).run()
    actions, observations = of(store, ActionTaken), of(store, Observed)
    assert [a.action.name for a in actions] == ["null", "null", "finish"]
    assert "no tool call" in observations[0].observation.text
    assert "unknown action 'fly'" in observations[1].observation.text


async def test_too_many_malformed_answers_fail_at_the_model() -> None:
    store, world = Store(opening()), World()
    model = Model(lambda _: ModelResponse(text="?"))
    outcome = await loop_of(store, world, model=model, config=AgentConfig(max_malformed=3)).run()
    assert (outcome.status, outcome.boundary, outcome.steps) == ("failed", "model", 3)


@pytest.mark.parametrize(
    ("error", "boundary"), [(GymError("disk"), "environment"), (EvaluatorError("no reference"), "evaluator")]
)
async def test_failures_have_one_boundary(error: GymError, boundary: str) -> None:
    class Broken(Environment):
        async def step(self, action: Any) -> Any:
            raise error

    store, world = Store(opening()), World()
    outcome = await loop_of(store, world, environment=Broken(world)).run()
    assert (outcome.status, outcome.boundary) == ("failed", boundary)


async def test_a_refused_request_fails_the_episode_but_a_dead_server_does_not() -> None:
    world = World()
    refused = await loop_of(Store(opening()), world, model=Model(lambda _: ServingError("context too long"))).run()
    assert (refused.status, refused.boundary) == ("failed", "model")
    store = Store(opening())
    with pytest.raises(EndpointNotFound):
        await loop_of(store, world, model=Model(lambda _: EndpointNotFound("gone"))).run()
    assert not of(store, OutcomeReached)


async def test_step_and_time_limits_truncate() -> None:
    world = World(99)
    outcome = await loop_of(Store(opening()), world, config=AgentConfig(max_steps=3)).run()
    assert (outcome.status, outcome.steps, outcome.reason) == ("truncated", 3, "3 steps")
    now = iter(range(0, 1000, 10))
    outcome = await loop_of(
        Store(opening()), World(99), config=AgentConfig(max_working_seconds=60.0), clock=lambda: float(next(now))
    ).run()
    assert outcome.status == "truncated" and "working time" in outcome.reason


async def test_the_clock_leaves_queue_time_out() -> None:
    store = Store(opening())
    times = iter([0.0, *[5.0] * 100])
    with pytest.raises(Interrupted):
        stop = iter([False, True])
        await loop_of(store, World(9), clock=lambda: next(times), stopping=lambda: next(stop)).run()
    assert of(store, Observed)[-1].working_seconds == 5.0
    later = loop_of(Store(store.records), World(9), clock=lambda: 100_000.0)  # a day in the queue
    assert later.working_seconds == 5.0


async def test_a_stop_does_not_wait_for_a_long_action(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STOP_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(loop, "STOP_GRACE_SECONDS", 0.01)
    cancelled = asyncio.Event()

    class Sleeper(Environment):
        async def step(self, action: Any) -> Any:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

    store = Store(opening())
    asked = iter([False])
    with pytest.raises(Interrupted):
        await loop_of(store, World(), environment=Sleeper(World()), stopping=lambda: next(asked, True)).run()
    await asyncio.wait_for(cancelled.wait(), 5)
    assert [type(record) for record in store.records[2:]] == [ActionTaken]  # resumable: the step is open


async def test_a_client_that_gives_up_because_the_job_stops_is_no_failure() -> None:
    store = Store(opening())
    asked = iter([False])
    model = Model(lambda _: ServerNotReady("the caller is stopping"))
    with pytest.raises(Interrupted):
        await loop_of(store, World(), model=model, stopping=lambda: next(asked, True)).run()
    assert not of(store, OutcomeReached)


@pytest.mark.parametrize(
    ("validity", "applied"),
    [
        ({"valid_until_step": 1}, False),  # step 2 is the last finished one when it comes
        ({"valid_until_step": 2}, True),
        ({"valid_until": 1.0}, False),
        ({"valid_until": 4e9}, True),
        ({"valid_until_step": 2, "valid_until": 1.0}, False),
    ],
)
async def test_guidance_enters_the_context_only_while_it_is_good(validity: dict[str, Any], applied: bool) -> None:
    store, mail, world = Store(opening()), Mail(), World(3)

    def answer(messages: Any) -> ModelResponse:
        if world.count == 1:  # the agent is in its second step
            fields = {"sent_at": 1.0, "episode": "e", "alert": None, "annotator": "ada", "text": "left", **validity}
            mail.inbox.append(Guidance(id="g1", **fields))
        return counting(world)(messages)

    await loop_of(store, world, mail=mail, model=Model(answer)).run()
    given = of(store, GuidanceApplied)
    assert bool(given) is applied
    assert mail.expirations == ({} if applied else {"g1": 2})
    for record in given:
        assert {name: getattr(record, name) for name in validity} == validity
        assert record.applied_step == 2


async def test_an_annotators_stop_ends_the_episode() -> None:
    mail = Mail()
    mail.stop_requested = True
    outcome = await loop_of(Store(opening()), World(), mail=mail).run()
    assert outcome.status == "stopped"


async def test_token_ids_are_kept_and_the_context_is_stored_once() -> None:
    store, world = Store(opening()), World(3)
    model = Model(counting(world))
    await loop_of(store, world, model=model).run()
    rebuilt: list[int] = []
    for number, record in enumerate(of(store, ActionTaken)):
        prompt = rebuilt[: record.shared_tokens] + record.new_prompt_ids
        assert prompt == [len(json.dumps(m)) % 97 for m in model.seen[number]]
        rebuilt = prompt + record.token_ids
        assert len(record.token_ids) == len(record.logprobs) == 2
