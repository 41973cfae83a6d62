"""The router's rules, without sockets, disks or clocks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc.router.state import (
    Applied,
    Delivered,
    Effect,
    Ended,
    Joined,
    Missed,
    Moved,
    Raised,
    RouterState,
    Send,
    Unused,
)
from hpc.wire.messages import Ack, Alert, Bye, Guidance, Hello, Message, Progress, Reject

ADA, BOB, EVE = b"ada", b"bob", b"eve"


def router(pending: Sequence[Guidance] = (), epochs: dict[str, int] | None = None) -> RouterState:
    numbers = itertools.count()
    return RouterState(
        run="r",
        verify=lambda episode, token: token == f"token of {episode}",
        resend_seconds=2.0,
        epochs=epochs or {},
        pending=pending,
        make_id=lambda prefix: f"{prefix}-{next(numbers)}",
        clock=lambda: 99.0,
    )


def hello(episode: str = "r-0", epoch: int = 1, **changes: Any) -> Hello:
    fields = {"run": "r", "token": f"token of {episode}", **changes}
    return Hello(id=f"h-{episode}-{epoch}", sent_at=1.0, episode=episode, epoch=epoch, **fields)


def alert(name: str = "r-0-a1", episode: str = "r-0") -> Alert:
    return Alert(id=name, sent_at=1.0, episode=episode, epoch=1, detector="d", score=0.5, step=1, reason="why")


def guidance(name: str = "g1", episode: str = "r-0") -> Guidance:
    return Guidance(id=name, sent_at=1.0, episode=episode, alert=None, annotator="ada", text="t")


def ack(parent: str, status: Any, episode: str = "r-0", step: int | None = None) -> Ack:
    return Ack(id=f"{parent}-{status}", sent_at=7.0, parent=parent, status=status, episode=episode, epoch=1, step=step)


def sent(effects: Sequence[Effect]) -> list[tuple[bytes, Message]]:
    return [(effect.route, effect.message) for effect in effects if isinstance(effect, Send)]


def facts(effects: Sequence[Effect]) -> list[Effect]:
    return [effect for effect in effects if not isinstance(effect, Send)]


def refusals(effects: Sequence[Effect]) -> list[tuple[bytes, str]]:
    return [(route, message.code) for route, message in sent(effects) if isinstance(message, Reject)]


def test_hello_binds_the_connection_and_is_answered() -> None:
    state = router()
    effects = state.receive(ADA, hello(), 5.0)
    assert facts(effects) == [Joined(hello(), 5.0)]
    [(route, answer)] = sent(effects)
    assert route == ADA
    assert isinstance(answer, Ack)
    assert (answer.parent, answer.status) == ("h-r-0-1", "ready")
    assert state.connected == 1


@pytest.mark.parametrize(
    "greeting",
    [hello(token="guess"), hello(token="token of r-1"), hello(run="another")],
    ids=["wrong token", "another episode's token", "another run"],
)
def test_a_hello_without_the_right_is_refused_and_binds_nothing(greeting: Hello) -> None:
    state = router(pending=[guidance()])
    effects = state.receive(EVE, greeting, 5.0)
    assert facts(effects) == []
    assert refusals(effects) == [(EVE, "auth")]
    assert state.tick(10.0) == []
    assert refusals(state.receive(EVE, alert(), 5.0)) == [(EVE, "unknown_episode")]


@pytest.mark.parametrize(
    "message",
    [
        alert(),
        ack("g1", "delivered"),
        Progress(id="p", sent_at=1.0, episode="r-0", epoch=1, step=1, state="running"),
        Bye(id="b", sent_at=1.0, episode="r-0", epoch=1, status="finished", steps=1),
    ],
    ids=lambda message: type(message).__name__,
)
def test_nothing_is_taken_before_hello_or_for_another_episode(message: Message) -> None:
    state = router()
    effects = state.receive(BOB, message, 5.0)
    assert (facts(effects), refusals(effects)) == ([], [(BOB, "unknown_episode")])
    state.receive(BOB, hello("r-1"), 5.0)
    effects = state.receive(BOB, message, 5.0)
    assert (facts(effects), refusals(effects)) == ([], [(BOB, "auth")])


def test_an_alert_is_recorded_and_then_acknowledged() -> None:
    state = router()
    state.receive(ADA, hello(), 5.0)
    effects = state.receive(ADA, alert(), 6.0)
    assert effects[0] == Raised(alert(), 6.0)  # the service sends only after what comes before is durable
    [(route, answer)] = sent(effects)
    assert isinstance(answer, Ack)
    assert (route, answer.parent, answer.status) == (ADA, "r-0-a1", "stored")


def test_an_alert_under_another_episodes_name_is_refused() -> None:
    state = router()
    state.receive(ADA, hello(), 5.0)
    effects = state.receive(ADA, alert("r-1-a1"), 6.0)
    assert (facts(effects), refusals(effects)) == ([], [(ADA, "malformed")])


def test_the_highest_epoch_wins_and_the_older_incarnation_is_told() -> None:
    state = router(pending=[guidance()])
    state.receive(ADA, hello(epoch=2), 5.0)
    assert refusals(state.receive(EVE, hello(epoch=1), 6.0)) == [(EVE, "fenced")]
    assert refusals(state.receive(BOB, hello(epoch=3), 7.0)) == [(ADA, "fenced")]
    assert [send.route for send in state.tick(8.0)] == [BOB]
    assert refusals(state.receive(ADA, alert(), 9.0)) == [(ADA, "unknown_episode")]
    assert refusals(state.receive(ADA, hello(epoch=2), 9.0)) == [(ADA, "fenced")]


def test_epochs_of_the_journal_fence_after_a_restart() -> None:
    state = router(epochs={"r-0": 4})
    assert refusals(state.receive(ADA, hello(epoch=3), 5.0)) == [(ADA, "fenced")]
    assert refusals(state.receive(ADA, hello(epoch=4), 5.0)) == []


def test_the_same_incarnation_may_connect_anew() -> None:
    state = router(pending=[guidance()])
    state.receive(ADA, hello(), 5.0)
    assert [send.route for send in state.tick(5.0)] == [ADA]
    assert refusals(state.receive(BOB, hello(), 5.1)) == []
    assert [send.route for send in state.tick(5.1)] == [BOB], "sent at once on the new connection"
    assert state.connected == 1


def test_guidance_is_repeated_with_growing_pauses_until_delivered() -> None:
    state = router()
    state.receive(ADA, hello(), 0.0)
    state.enqueue(guidance())
    times = [now / 2 for now in range(160) if state.tick(now / 2)]
    assert times[:5] == [0.0, 2.0, 6.0, 14.0, 29.0]
    assert facts(state.receive(ADA, ack("g1", "delivered"), 80.0)) == [Delivered("g1", "r-0", 7.0)]
    assert state.tick(1000.0) == []
    assert state.undelivered == 0


def test_guidance_goes_one_at_a_time_in_order() -> None:
    state = router(pending=[guidance("g1"), guidance("g2")])
    state.enqueue(guidance("g3"))
    state.receive(ADA, hello(), 0.0)
    order = []
    for now in range(3):
        [send] = state.tick(float(now))
        order.append(send.message.id)
        state.receive(ADA, ack(send.message.id, "delivered"), float(now))
    assert order == ["g1", "g2", "g3"]


def test_guidance_waits_for_its_own_episode() -> None:
    state = router(pending=[guidance("g1", "r-1")])
    state.receive(ADA, hello("r-0"), 0.0)
    assert state.tick(1.0) == []
    state.receive(BOB, hello("r-1"), 2.0)
    assert [(send.route, send.message.id) for send in state.tick(2.0)] == [(BOB, "g1")]


def test_an_agent_cannot_acknowledge_for_another() -> None:
    state = router(pending=[guidance("g1", "r-1")])
    state.receive(BOB, hello("r-1"), 0.0)
    state.receive(ADA, hello("r-0"), 0.0)
    assert refusals(state.receive(ADA, ack("g1", "delivered", "r-1"), 1.0)) == [(ADA, "auth")]
    # under its own name the fact says whose it is, and the journal matches both
    assert facts(state.receive(ADA, ack("g1", "delivered", "r-0"), 1.0)) == [Delivered("g1", "r-0", 7.0)]
    assert state.undelivered == 1


def test_applied_counts_as_delivered_and_is_acknowledged() -> None:
    state = router(pending=[guidance()])
    state.receive(ADA, hello(), 0.0)
    effects = state.receive(ADA, ack("g1", "applied", step=9), 1.0)
    assert facts(effects) == [Applied("g1", "r-0", 9, 7.0)]
    [(_, answer)] = sent(effects)
    assert isinstance(answer, Ack)
    assert (answer.parent, answer.status) == ("g1-applied", "stored")
    assert state.tick(100.0) == []


def test_too_late_ends_the_repetition() -> None:
    state = router(pending=[guidance()])
    state.receive(ADA, hello(), 0.0)
    assert facts(state.receive(ADA, ack("g1", "too_late"), 1.0)) == [Missed("g1", "r-0", 1.0)]
    assert state.tick(100.0) == []


@pytest.mark.parametrize("status", ["expired", "superseded"])
def test_what_will_never_be_used_is_recorded_and_acknowledged(status: Any) -> None:
    state = router(pending=[guidance()])
    state.receive(ADA, hello(), 0.0)
    effects = state.receive(ADA, ack("g1", status), 1.0)
    assert facts(effects) == [Unused("g1", "r-0", status, 7.0)]
    [(route, answer)] = sent(effects)
    assert (route, answer.parent, answer.status) == (ADA, f"g1-{status}", "stored")  # type: ignore[union-attr]
    assert state.tick(100.0) == []


def test_a_correction_takes_the_place_of_what_is_not_delivered() -> None:
    state = router(pending=[guidance("g1"), guidance("g2")])
    state.receive(ADA, hello(), 0.0)
    assert [send.message.id for send in state.tick(0.0)] == ["g1"]
    state.enqueue(msgspec.structs.replace(guidance("g3"), replaces="g1"))
    assert [send.message.id for send in state.tick(0.0)] == ["g2"], "at once, and g1 no more"
    state.receive(ADA, ack("g2", "delivered"), 1.0)
    assert [send.message.id for send in state.tick(1.0)] == ["g3"]


def test_bye_ends_the_episode_and_its_deliveries() -> None:
    state = router(pending=[guidance()])
    state.receive(ADA, hello(), 0.0)
    bye = Bye(id="b", sent_at=1.0, episode="r-0", epoch=1, status="finished", steps=9, best_score=60.0)
    effects = state.receive(ADA, bye, 3.0)
    assert facts(effects) == [Ended("r-0", "finished", 9, 60.0, 3.0)]
    assert state.tick(100.0) == []


def test_progress_is_recorded_and_not_answered() -> None:
    state = router()
    state.receive(ADA, hello(), 0.0)
    progress = Progress(id="p", sent_at=1.0, episode="r-0", epoch=1, step=3, state="paused")
    assert state.receive(ADA, progress, 4.0) == [Moved(progress, 4.0)]


@pytest.mark.parametrize("message", [guidance(), ack("x", "ready"), ack("x", "stored")])
def test_an_agent_does_not_speak_for_the_router(message: Message) -> None:
    state = router()
    state.receive(ADA, hello(), 0.0)
    assert refusals(state.receive(ADA, message, 1.0)) == [(ADA, "malformed")]


def test_a_reject_is_never_answered() -> None:
    reject = Reject(id="x", sent_at=1.0, parent="y", code="type", reason="z")
    assert router().receive(ADA, reject, 1.0) == []


def test_restoring_from_the_journal_forgets_what_it_does_not_hold() -> None:
    state = router(pending=[guidance("g1")])
    state.enqueue(guidance("g2"))
    state.restore([guidance("g3")])
    state.receive(ADA, hello(), 0.0)
    assert [send.message.id for send in state.tick(0.0)] == ["g3"]


ROUTES = st.sampled_from([ADA, BOB, EVE])
EPISODES = st.sampled_from(["r-0", "r-1"])
MESSAGES = st.one_of(
    st.builds(hello, EPISODES, st.integers(1, 3)),
    st.builds(lambda episode: hello(episode, token="guess"), EPISODES),
    st.builds(lambda episode: alert(f"{episode}-a1", episode), EPISODES),
    st.builds(
        ack, st.sampled_from(["g-r-0", "g-r-1"]), st.sampled_from(["delivered", "applied", "too_late"]), EPISODES
    ),
)


@settings(deadline=None)
@given(st.lists(st.tuples(ROUTES, MESSAGES), max_size=25))
def test_whatever_is_said_guidance_goes_only_to_who_proved_the_right_last(said: list[tuple[bytes, Message]]) -> None:
    """A model in three lines: an episode's owner is the last connection whose Hello was not refused."""
    state = router(pending=[guidance("g-r-0", "r-0"), guidance("g-r-1", "r-1")])
    owner: dict[str, bytes] = {}
    for now, (route, message) in enumerate(said):
        effects = state.receive(route, message, float(now))
        if isinstance(message, Hello) and not any(target == route for target, _ in refusals(effects)):
            owner = {episode: who for episode, who in owner.items() if who != route}
            owner[message.episode] = route
        for send in state.tick(now + 1000.0 * (now + 1)):
            assert isinstance(send.message, Guidance)
            assert owner.get(send.message.episode) == send.route
        for fact in facts(effects):
            if isinstance(fact, Raised | Delivered | Applied | Missed):
                episode = fact.alert.episode if isinstance(fact, Raised) else fact.episode
                assert owner.get(episode) == route
