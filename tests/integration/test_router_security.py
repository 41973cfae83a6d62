"""Who gets nothing from a router, and what rubbish does to it."""

from __future__ import annotations

import contextlib
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from hpc.core import files
from hpc.core.errors import HpcError, RouterUnreachable
from hpc.router.client import InboxClient
from hpc.rundir import RunDir
from hpc.wire import discovery, keys
from hpc.wire.codec import decode, encode
from hpc.wire.messages import MAX_MESSAGE, Ack, Alert, Guidance, Hello, Message, Reject
from tests.integration.router_support import AgentProcess, RouterProcess, make_run, wait_until


class Stranger:
    """A bare socket that says whatever it likes."""

    def __init__(self, address: str, server_key: str, pair: keys.KeyPair | None) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.routing_id = secrets.token_hex(16).encode()
        if pair is not None:
            self.socket.curve_publickey = pair.public.encode()
            self.socket.curve_secretkey = pair.secret.encode()
            self.socket.curve_serverkey = server_key.encode()
        self.socket.connect(address)

    def say(self, message: Message) -> None:
        with contextlib.suppress(zmq.Again):  # libzmq takes nothing for a connection that was turned away
            self.socket.send(encode(message), zmq.NOBLOCK)

    def hear(self, milliseconds: int = 60_000) -> Message | None:
        return decode(self.socket.recv()) if self.socket.poll(milliseconds) else None

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path / "run")


@pytest.fixture
def router(run: RunDir) -> Iterator[RouterProcess]:
    with RouterProcess(run) as process:
        yield process


def hello(run: RunDir, index: int = 0, *, epoch: int = 1, token: str | None = None) -> Hello:
    episode = f"{run.name}-{index:05d}"
    return Hello(
        id=f"h{index}",
        sent_at=time.time(),
        run=run.name,
        episode=episode,
        epoch=epoch,
        token=token if token is not None else keys.episode_token(keys.load_token_secret(run), episode),
        index=index,
    )


def connect(run: RunDir, router: RouterProcess, pair: keys.KeyPair | None = None) -> Stranger:
    info = router.wait_ready()
    return Stranger(info.address, info.public_key, pair or keys.load_agent_keys(run))


def fresh_pair() -> keys.KeyPair:
    public, secret = zmq.curve_keypair()
    return keys.KeyPair(public.decode(), secret.decode())


def test_without_a_key_of_the_run_one_hears_nothing(run: RunDir, router: RouterProcess) -> None:
    info = router.wait_ready()
    strangers = {
        "fresh key": Stranger(info.address, info.public_key, fresh_pair()),
        "no curve at all": Stranger(info.address, info.public_key, None),
        "the inbox's key": Stranger(info.address, info.public_key, keys.load_inbox_keys(run)),
        "an agent at the inbox": Stranger(info.inbox_address, info.public_key, keys.load_agent_keys(run)),
        "the wrong router": Stranger(info.address, fresh_pair().public, keys.load_agent_keys(run)),
    }
    friend = connect(run, router)
    try:
        for stranger in strangers.values():
            stranger.say(hello(run))
        friend.say(hello(run, 1))
        answer = friend.hear()
        assert isinstance(answer, Ack), "the friend, who asked last, has an answer"
        assert {name: stranger.hear(300) for name, stranger in strangers.items()} == dict.fromkeys(strangers)
        with router.inbox() as people:
            assert [card.index for card in people.episodes()] == [1]
    finally:
        for stranger in (*strangers.values(), friend):
            stranger.close()


def test_a_wrong_token_opens_nothing(run: RunDir, router: RouterProcess) -> None:
    thief = connect(run, router)
    try:
        for greeting in (hello(run, token="guess"), hello(run, token=hello(run, 1).token)):
            thief.say(greeting)
            answer = thief.hear()
            assert isinstance(answer, Reject)
            assert (answer.parent, answer.code) == (greeting.id, "auth")
        with router.inbox() as people:
            assert people.episodes() == []
    finally:
        thief.close()


def test_an_agent_can_neither_read_nor_forge_for_another(run: RunDir, router: RouterProcess) -> None:
    with AgentProcess(run, 0) as victim, router.inbox() as people:
        name = victim.alert(1)
        wait_until(lambda: people.alert(name))
        thief = connect(run, router)
        try:
            thief.say(hello(run, 1))
            assert isinstance(thief.hear(), Ack)
            forged = Alert(
                id=f"{victim.episode}-a2",
                sent_at=1.0,
                episode=victim.episode,
                epoch=9,
                detector="d",
                score=1.0,
                step=2,
                reason="forged",
            )
            thief.say(forged)
            thief.say(Alert(**{**_fields(forged), "episode": f"{run.name}-00001"}))
            codes = [answer.code for _ in range(2) if isinstance(answer := thief.hear(), Reject)]
            assert codes == ["auth", "malformed"]
            people.reply(name, "for the victim's eyes", annotator="ada")
            wait_until(victim.applied)
            assert thief.hear(300) is None
            assert [card.alert for card in people.alerts(all=True)] == [name]
        finally:
            thief.close()


def _fields(message: Alert) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__struct_fields__}


def test_a_newer_incarnation_fences_the_older_one(run: RunDir, router: RouterProcess) -> None:
    with AgentProcess(run, 0) as agent, router.inbox() as people:
        wait_until(people.episodes)
        newer = connect(run, router)
        try:
            newer.say(hello(run, 0, epoch=7))
            assert isinstance(newer.hear(), Ack)
            wait_until(lambda: agent.order(do="state")["fenced"])
            people.reply(agent.episode, "for the newest", annotator="ada")
            guidance = newer.hear()
            assert isinstance(guidance, Guidance)
            assert guidance.text == "for the newest"
            assert agent.applied() == []
        finally:
            newer.close()


def test_rubbish_is_counted_and_harms_nobody(run: RunDir, router: RouterProcess) -> None:
    noise = random.Random(7)
    vandal = connect(run, router)
    try:
        for size in (0, 1, 7, 100, 5000):
            vandal.socket.send(noise.randbytes(size))
        vandal.socket.send_multipart([b"two", b"frames"])
        vandal.socket.send(encode(hello(run))[:-5])
        huge = Guidance(id="huge", sent_at=1.0, episode="e", alert=None, annotator="a", text="x" * MAX_MESSAGE)
        vandal.socket.send(encode(huge, limit=2 * MAX_MESSAGE - 100))
        refusal = vandal.hear()
        assert isinstance(refusal, Reject)
        assert (refusal.parent, refusal.code) == ("huge", "too_large")
        vandal.socket.send(b"\x81\xa2id\xa2x1")
        refusal = vandal.hear()
        assert isinstance(refusal, Reject)
        assert (refusal.parent, refusal.code) == ("x1", "malformed")
        vandal.socket.send(b"x" * (5 * MAX_MESSAGE))  # cut off for this; ZeroMQ connects again by itself
        with AgentProcess(run, 1) as agent, router.inbox() as people:
            name = agent.alert(1)
            wait_until(lambda: people.alert(name))
            people.reply(name, "still here", annotator="ada")
            wait_until(agent.applied)
        wait_until(lambda: router.status().get("counters", {}).get("refused_malformed", 0) >= 8)
        assert router.alive
    finally:
        vandal.close()


def test_a_second_router_is_turned_away_and_the_first_goes_on(run: RunDir, router: RouterProcess) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "hpc.cli", "router", "start", str(run.root), "--foreground"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 1
    assert "error: another router is serving this run" in second.stderr
    assert "Traceback" not in second.stderr
    with router.inbox() as people:
        assert people.episodes() == []


def test_a_router_that_is_gone_is_unreachable_and_says_so(run: RunDir, router: RouterProcess) -> None:
    router.kill()
    with pytest.raises(RouterUnreachable, match="does not answer within 1 s"), InboxClient(run, timeout=1) as people:
        people.alerts()
    info = discovery.read(run)
    assert info is not None
    discovery.publish(run, msgspec.structs.replace(info, heartbeat=time.time() - 60))
    with pytest.raises(RouterUnreachable, match="is silent since") as error:
        InboxClient(run)
    assert "hpc router start run" in error.value.hint
    run.router.unlink()
    with pytest.raises(RouterUnreachable, match="no router is running"):
        InboxClient(run)


def test_an_inbox_with_the_wrong_key_hears_nothing(run: RunDir, router: RouterProcess) -> None:
    pair = fresh_pair()
    files.write_json(run.keys / "inbox.json", {"public": pair.public, "secret": pair.secret}, mode=0o600)
    with pytest.raises(RouterUnreachable, match="does not answer"), InboxClient(run, timeout=2) as people:
        people.alerts()


def test_a_run_without_keys_has_no_router(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run.keys / "router.json").unlink()
    from hpc.config.router import RouterConfig
    from hpc.router.annotators.console import ConsoleFrontend
    from hpc.router.service import Router

    with pytest.raises(HpcError, match="no such key"):
        Router(run, RouterConfig(), ConsoleFrontend(), annotators="console")
