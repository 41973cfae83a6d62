from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hpc.serving.choice import LONGEST_PAUSE, Rests, pause, preference
from hpc.serving.registry import Endpoint


def replicas(count: int) -> list[Endpoint]:
    return [Endpoint(server="s", replica=k, url=f"http://h:{k}/v1", model="m", started_at=1.0) for k in range(count)]


EPISODES = [f"run-{index:05d}" for index in range(400)]


def test_an_episode_stays_with_its_replica_whatever_the_order() -> None:
    endpoints = replicas(5)
    for episode in EPISODES[:50]:
        assert preference(endpoints, episode) == preference(endpoints[::-1], episode)


def test_episodes_are_spread() -> None:
    load = Counter(preference(replicas(4), episode)[0].replica for episode in EPISODES)
    assert set(load) == {0, 1, 2, 3}
    assert max(load.values()) < 2 * min(load.values())


@given(st.integers(2, 8), st.integers(0, 7))
def test_only_the_episodes_of_a_lost_replica_move(count: int, lost: int) -> None:
    endpoints = replicas(count)
    left = [endpoint for endpoint in endpoints if endpoint.replica != lost]
    for episode in EPISODES[:40]:
        before = preference(endpoints, episode)[0]
        if before.replica != lost:
            assert preference(left, episode)[0] == before


def test_a_restarted_replica_gets_its_episodes_back_at_a_new_address() -> None:
    endpoints = replicas(3)
    moved = [Endpoint(server="s", replica=e.replica, url=e.url + "x", model="m") for e in endpoints]
    for episode in EPISODES[:40]:
        assert preference(endpoints, episode)[0].replica == preference(moved, episode)[0].replica


def test_a_resting_endpoint_is_passed_over_until_it_has_rested() -> None:
    first, second = replicas(2)
    rests = Rests()
    rests.rest(first, now=100.0, seconds=10.0)
    assert rests.choose([first, second], now=105.0) == second
    assert rests.choose([first, second], now=110.0) == first
    assert rests.choose([first], now=101.0) == first  # better than none
    rests.rest(second, now=100.0, seconds=5.0)
    assert rests.choose([first, second], now=101.0) == second
    rests.wake(first)
    assert rests.choose([first, second], now=101.0) == first
    assert rests.choose([], now=0.0) is None


def test_a_restarted_server_does_not_inherit_a_rest() -> None:
    old = replicas(1)[0]
    new = Endpoint(server="s", replica=0, url=old.url, model="m", started_at=2.0)
    rests = Rests()
    rests.rest(old, now=0.0)
    assert rests.left(old, 1.0) > 0
    assert rests.left(new, 1.0) == 0


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_grow_and_stay_bounded(attempt: int, noise: float) -> None:
    assert 0 < pause(attempt, noise) <= LONGEST_PAUSE
    assert pause(attempt + 1, 0.0) >= pause(attempt, 0.0)
