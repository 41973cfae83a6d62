"""A second router that stands by, and a first one that dies, sleeps or wakes up too late."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

import zmq

from hpc.router import standbys
from hpc.wire import discovery, keys
from hpc.wire.codec import decode, encode
from hpc.wire.messages import Ack, Alert, Hello, Message
from tests.integration.router_support import AgentProcess, RouterProcess, make_run, wait_until


def test_a_standby_takes_over_from_a_router_that_was_killed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(RouterProcess(run))
        agent = stack.enter_context(AgentProcess(run, 0))
        second = RouterProcess(run, standby=True)
        stack.callback(second.close)
        name = agent.alert(1)
        with first.inbox() as people:
            wait_until(lambda: people.alert(name))
        second.wait_waiting()
        assert [standby.pid for standby in wait_until(lambda: standbys.waiting(run))] == [second.pid]
        agent.pause()
        with first.inbox() as people:
            assert people.reply(name, "taken by the first", annotator="ada")[0] == "accepted"
        first.kill()
        agent.wake()
        assert second.wait_ready().generation == 2
        assert standbys.waiting(run) == []
        wait_until(lambda: agent.applied() == ["taken by the first"])
        with second.inbox() as people:
            people.reply(agent.episode, "from the second", annotator="ada")
            wait_until(lambda: len(agent.applied()) == 2)
        assert agent.applied() == ["taken by the first", "from the second"]
        run.mark_done("over")
        assert second.wait() == 0


def test_a_paused_router_keeps_its_place_while_its_lock_holds(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(RouterProcess(run))
        agent = stack.enter_context(AgentProcess(run, 0))
        people = stack.enter_context(first.inbox())
        wait_until(people.episodes)
        first.pause()
        name = agent.alert(1)
        second = RouterProcess(run, standby=True)
        stack.callback(second.close)
        second.wait_waiting()
        first.wake()
        wait_until(lambda: people.alert(name))
        assert first.wait_ready().generation == 1
        first.kill()
        assert second.wait_ready().generation == 2
        with second.inbox() as others:
            assert others.alert(name) is not None


class Bystander:
    """An agent with one socket to one router, which stays with it come what may."""

    def __init__(self, info: discovery.RouterInfo, run_name: str, pair: keys.KeyPair, token: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.routing_id = secrets.token_hex(16).encode()
        self._socket.curve_publickey = pair.public.encode()
        self._socket.curve_secretkey = pair.secret.encode()
        self._socket.curve_serverkey = info.public_key.encode()
        self._socket.connect(info.address)
        self.episode = f"{run_name}-00007"
        self.say(
            Hello(id="h", sent_at=1.0, run=run_name, episode=self.episode, epoch=1, token=token, task="t", index=7)
        )
        answer = self.hear(60_000)
        assert isinstance(answer, Ack)

    def alert(self, number: int) -> None:
        name = f"{self.episode}-a{number}"
        self.say(
            Alert(id=name, sent_at=1.0, episode=self.episode, epoch=1, detector="d", score=0.5, step=number, reason="r")
        )

    def say(self, message: Message) -> None:
        self._socket.send(encode(message))

    def hear(self, milliseconds: int) -> Message | None:
        return decode(self._socket.recv()) if self._socket.poll(milliseconds) else None

    def close(self) -> None:
        self._context.destroy(linger=0)


def test_a_router_that_wakes_up_after_it_was_replaced_says_nothing(tmp_path: Path) -> None:
    """Where locks do not hold: the sleeper finds alerts at its door, commits them, and must not
    acknowledge one; nor may it disturb the router that serves now."""
    run = make_run(tmp_path / "run")
    token = keys.episode_token(keys.load_token_secret(run), f"{run.name}-00007")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(RouterProcess(run, locks=False))
        agent = stack.enter_context(AgentProcess(run, 0))
        bystander = Bystander(first.wait_ready(), run.name, keys.load_agent_keys(run), token)
        stack.callback(bystander.close)
        before = agent.alert(1)
        with first.inbox() as people:
            wait_until(lambda: people.alert(before))
        first.pause()
        for number in range(20):
            bystander.alert(number)
        during = agent.alert(2)
        second = stack.enter_context(RouterProcess(run, locks=False, standby=True))
        with second.inbox() as people:
            wait_until(lambda: people.alert(during))
            people.reply(before, "an answer", annotator="ada")
            wait_until(lambda: agent.applied() == ["an answer"])
            first.wake()
            assert first.wait() == 1
            assert "another router has taken run over" in first.log.read_text()
            assert bystander.hear(500) is None
            assert [card.alert for card in people.alerts(all=True)] == [before, during]
        assert second.wait_ready().generation == 2
        assert agent.applied() == ["an answer"]
