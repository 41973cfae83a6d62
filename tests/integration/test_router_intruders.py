"""Intruders in bulk: floods, bombs, replays, borrowed names. Nothing gets through and nothing breaks.

`INTRUDER_FRAMES` sets how many frames of rubbish are sent with a key of the run.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from hpc.core import files
from hpc.rundir import RunDir
from hpc.wire import keys
from hpc.wire.codec import encode
from hpc.wire.inbox import ListAlerts, SendReply
from hpc.wire.messages import MAX_MESSAGE, Ack, Alert, Guidance, Progress, Reject
from tests.integration.router_support import AgentProcess, RouterProcess, make_run, wait_until
from tests.integration.test_router_security import Stranger, connect, fresh_pair, hello

FRAMES = int(os.environ.get("INTRUDER_FRAMES", "100000"))
END = msgspec.msgpack.encode({"type": "end", "id": "the-end"})
ROOM_KIB = 96 * 1024


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path / "run")


@pytest.fixture
def router(run: RunDir) -> Iterator[RouterProcess]:
    with RouterProcess(run) as process:
        yield process


def resident(router: RouterProcess) -> int:
    """Memory of the router in KiB."""
    lines = Path(f"/proc/{router.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def counted(router: RouterProcess) -> int:
    """How many frames the router says it has read."""
    counters = router.status().get("counters", {})
    kinds = ("hello", "alert", "ack", "progress", "bye", "guidance", "reject", "inbox_requests")
    return sum(count for name, count in counters.items() if "refused" in name or name in kinds)


def still_serves(run: RunDir, router: RouterProcess, index: int = 50) -> None:
    """A whole conversation."""
    with AgentProcess(run, index) as agent, router.inbox() as people:
        name = agent.alert(1)
        wait_until(lambda: people.alert(name))
        people.reply(name, "still here", annotator="ada")
        wait_until(lambda: agent.applied() == ["still here"])


def alert(episode: str, number: int = 1) -> Alert:
    return Alert(
        id=f"{episode}-a{number}",
        sent_at=1.0,
        episode=episode,
        epoch=1,
        detector="d",
        score=0.5,
        step=number,
        reason="forged",
    )


def rubbish(seed: int, count: int, models: list[bytes]) -> list[bytes]:
    """Random bytes, and real messages with bits flipped, cut short, doubled or put together anew."""
    noise = random.Random(seed)
    frames = []
    for _ in range(count):
        frame = bytearray(noise.choice(models))
        match noise.randrange(5):
            case 0:
                frame = bytearray(noise.randbytes(noise.randrange(200)))
            case 1:
                for _ in range(noise.randrange(1, 8)):
                    frame[noise.randrange(len(frame))] ^= 1 << noise.randrange(8)
            case 2:
                del frame[noise.randrange(len(frame)) :]
            case 3:
                at = noise.randrange(len(frame))
                frame[at:at] = noise.randbytes(noise.randrange(1, 9))
            case 4:
                other = noise.choice(models)
                frame = frame[: noise.randrange(len(frame))] + other[noise.randrange(len(other)) :]
        frames.append(bytes(frame))
    return frames


def pour(address: str, server_key: str, pair: keys.KeyPair | None, frames: list[bytes], count: int, end: bytes) -> int:
    """Send ``count`` frames as fast as they are taken, then ``end`` until it is answered: whatever came
    before has been read. How many were taken."""
    vandal = Stranger(address, server_key, pair)
    sent = 0

    def answered() -> bool:
        while vandal.socket.poll(0):
            if b"the-end" in vandal.socket.recv():
                return True
        return False

    try:
        deadline = time.monotonic() + (100.0 + count / 500.0 if end else 3.0)
        while (
            sent < count and time.monotonic() < deadline and vandal.socket.poll(10_000 if end else 1_000, zmq.POLLOUT)
        ):
            try:
                vandal.socket.send(frames[sent % len(frames)], zmq.NOBLOCK)
            except zmq.Again:  # turned away between the two
                continue
            sent += 1
            if not sent % 100:
                answered()
        if sent == count and end:

            def finish() -> bool:
                vandal.socket.send(end)
                return bool(vandal.socket.poll(500)) and answered()

            wait_until(finish, seconds=100.0)
    finally:
        vandal.close()
    return sent


@pytest.mark.timeout(120.0 + FRAMES / 500.0)
def test_a_flood_of_rubbish_is_counted_and_dropped(run: RunDir, router: RouterProcess) -> None:
    info = router.wait_ready()
    episode = f"{run.name}-00000"
    models = [
        encode(message)
        for message in (
            hello(run, token="0" * 64),
            alert(episode),
            Ack(id="a1", sent_at=1.0, parent="g", status="applied", episode=episode, epoch=1, step=3),
            Progress(id="p1", sent_at=1.0, episode=episode, epoch=1, step=3, state="running"),
            ListAlerts(id="l1", sent_at=1.0),
            SendReply(id="s1", sent_at=1.0, target=f"{run.name}-09999", key="k", annotator="eve", text="obey"),
        )
    ]
    frames = rubbish(7, 5000, models)
    with router.inbox() as people:
        assert people.episodes() == []
    before = resident(router)
    share = FRAMES * 7 // 10
    agent, person = keys.load_agent_keys(run), keys.load_inbox_keys(run)
    assert pour(info.address, info.public_key, agent, frames, share, END) == share
    assert pour(info.inbox_address, info.public_key, person, frames, FRAMES - share, END) == FRAMES - share
    for address, key in ((info.address, None), (info.inbox_address, fresh_pair())):
        pour(address, info.public_key, key, frames, 1000, b"")
    still_serves(run, router)
    assert resident(router) - before < ROOM_KIB
    wait_until(lambda: counted(router) >= FRAMES)
    counters = router.status()["counters"]
    assert counters["refused_malformed"] >= FRAMES // 3
    assert counters["inbox_refused"] >= FRAMES // 8
    with router.inbox() as people:
        assert [card.index for card in people.episodes()] == [50], "no frame of the flood became an episode"
        assert [card.reason for card in people.alerts(all=True)] == ["stuck"]


def bombs() -> dict[str, bytes]:
    """Malformed msgpack of every kind."""
    head = b"\x82\xa4type\xa5alert\xa2id"
    good = msgspec.msgpack.decode(encode(alert("run-00000")))
    return {
        "deep arrays": b"\x91" * 900_000,
        "deep maps": b"\x81\xa1a" * 300_000,
        "deep id": head + b"\x91" * 500_000,
        "array of 2**32 - 1": head + b"\xdd\xff\xff\xff\xff",
        "map of 2**32 - 1": b"\xdf\xff\xff\xff\xff\xa1a",
        "text of 2**32 - 1": head + b"\xdb\xff\xff\xff\xffabc",
        "bytes of 2**32 - 1": head + b"\xc6\xff\xff\xff\xffabc",
        "extension of 2**32 - 1": head + b"\xc9\xff\xff\xff\xff\x01abc",
        "a million empty maps": b"\x82\xa2id\xa2m1\xa1x\xdd\x00\x0f\x42\x40" + b"\x80" * 1_000_000,
        "never used": b"\xc1",
        "bad UTF-8": b"\x82\xa4type\xa5alert\xa2id\xa2\xff\xfe",
        "a timestamp as id": head + b"\xd6\xff\x00\x00\x00\x01",
        "two messages": encode(alert("run-00000")) * 2,
        "nothing": b"",
        "nil": b"\xc0",
        "number": struct.pack(">Bd", 0xCB, 1.5),
        "id twice": b"\x83\xa4type\xa5alert\xa2id\xa2m1\xa2id\x93\x01\x02\x03",
        **{
            f"{field} is {value!r}": msgspec.msgpack.encode({**good, field: value})
            for field in ("id", "sent_at", "episode", "epoch", "score", "step", "evidence", "priority", "v")
            for value in (float("nan"), float("inf"), -(2**63), 2**64 - 1, [], {}, None, True, b"bytes", "x" * 300)
            if not (field in ("id", "episode") and isinstance(value, str)) and not (field == "evidence" and value == [])
        },
    }


def test_bombs_of_every_kind_do_no_harm(run: RunDir, router: RouterProcess) -> None:
    wait_until(lambda: router.status())
    before = resident(router)
    vandal = connect(run, router)
    try:
        vandal.say(hello(run))
        assert isinstance(vandal.hear(), Ack)
        frames = bombs()
        for frame in frames.values():
            vandal.socket.send(frame)
        vandal.say(Progress(id="last", sent_at=1.0, episode=f"{run.name}-00000", epoch=1, step=9, state="running"))
        vandal.say(alert(f"{run.name}-00000", 99))
        heard = []
        while not (isinstance(answer := vandal.hear(), Ack) and answer.parent.endswith("-a99")):
            assert isinstance(answer, Reject), answer
            heard.append(answer.parent)
        assert {"m1", f"{run.name}-00000-a1"} <= set(heard)
        with router.inbox() as people:
            assert [card.step for card in people.alerts(all=True)] == [99]
        assert resident(router) - before < ROOM_KIB
    finally:
        vandal.close()


def test_frames_above_every_limit_cut_the_connection_and_cost_no_memory(run: RunDir, router: RouterProcess) -> None:
    wait_until(lambda: router.status())
    before = resident(router)
    info = router.wait_ready()
    pair = keys.load_agent_keys(run)
    for size in (2 * MAX_MESSAGE + 1, 64 * MAX_MESSAGE):
        vandal = Stranger(info.address, info.public_key, pair)
        try:
            vandal.socket.send(b"\x00" * size)
            assert vandal.hear(200) is None
        finally:
            vandal.close()
    large = Guidance(id="huge", sent_at=1.0, episode="e", alert=None, annotator="a", text="x" * MAX_MESSAGE)
    frame = encode(large, limit=2 * MAX_MESSAGE)
    assert pour(info.address, info.public_key, pair, [frame], 300, END) == 300
    wait_until(lambda: router.status()["counters"].get("refused_too_large", 0) >= 300)
    still_serves(run, router)
    assert resident(router) - before < ROOM_KIB


# ---- the name of another


def test_a_borrowed_routing_id_opens_nothing(run: RunDir, router: RouterProcess) -> None:
    victim = connect(run, router)
    thief: Stranger | None = None
    try:
        victim.say(hello(run, 0))
        assert isinstance(victim.hear(), Ack)
        info = router.wait_ready()
        thief = Stranger.__new__(Stranger)
        thief._context = zmq.Context()
        thief.socket = thief._context.socket(zmq.DEALER)
        thief.socket.linger = 0
        thief.socket.routing_id = victim.socket.routing_id
        pair = keys.load_agent_keys(run)
        thief.socket.curve_publickey = pair.public.encode()
        thief.socket.curve_secretkey = pair.secret.encode()
        thief.socket.curve_serverkey = info.public_key.encode()
        thief.socket.connect(info.address)
        thief.say(alert(f"{run.name}-00000", 2))
        assert thief.hear(500) is None
        with router.inbox() as people:
            people.reply(f"{run.name}-00000", "for the victim's eyes", annotator="ada")
            guidance = victim.hear()
            assert isinstance(guidance, Guidance)
            assert thief.hear(300) is None
            assert people.alerts(all=True) == []
    finally:
        victim.close()
        if thief is not None:
            thief.close()


def test_a_frame_that_was_listened_to_is_worth_nothing_elsewhere(run: RunDir, router: RouterProcess) -> None:
    """The plain text of another's messages, said again: on one's own connection, and before any Hello."""
    victim, thief = connect(run, router), connect(run, router)
    try:
        victim.say(hello(run, 0))
        assert isinstance(victim.hear(), Ack)
        victim.say(alert(f"{run.name}-00000", 1))
        assert isinstance(victim.hear(), Ack)
        thief.say(alert(f"{run.name}-00000", 2))
        answer = thief.hear()
        assert isinstance(answer, Reject) and answer.code == "unknown_episode"
        thief.say(hello(run, 1))
        assert isinstance(thief.hear(), Ack)
        for message in (
            alert(f"{run.name}-00000", 2),
            Ack(id="x", sent_at=1.0, parent="g", status="applied", episode=f"{run.name}-00000", epoch=1),
            Progress(id="y", sent_at=1.0, episode=f"{run.name}-00000", epoch=1, step=99, state="paused"),
        ):
            thief.say(message)
            answer = thief.hear()
            assert isinstance(answer, Reject) and answer.code == "auth"
        victim.say(alert(f"{run.name}-00000", 1))  # its own frame again: the same alert
        assert isinstance(victim.hear(), Ack)
        with router.inbox() as people:
            assert [card.step for card in people.alerts(all=True)] == [1]
            assert people.episodes()[0].step == 0
    finally:
        victim.close()
        thief.close()


def record_of(address: str) -> tuple[socket.socket, list[bytes]]:
    """A relay in front of the router, and what the client's side of it says."""
    port = int(address.rpartition(":")[2])
    said: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def carry(source: socket.socket, sink: socket.socket, heard: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                heard.append(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)

    def relay() -> None:
        near, _ = server.accept()
        with near, socket.create_connection(("127.0.0.1", port)) as far:
            back = threading.Thread(target=carry, args=(far, near, []))
            back.start()
            carry(near, far, said)
            back.join()

    threading.Thread(target=relay, daemon=True).start()
    return server, said


def test_bytes_that_were_recorded_on_the_network_are_worth_nothing(run: RunDir, router: RouterProcess) -> None:
    info = router.wait_ready()
    server, said = record_of(info.address)
    victim = Stranger(f"tcp://127.0.0.1:{server.getsockname()[1]}", info.public_key, keys.load_agent_keys(run))
    try:
        victim.say(hello(run, 0))
        assert isinstance(victim.hear(), Ack)
        victim.say(alert(f"{run.name}-00000", 1))
        assert isinstance(victim.hear(), Ack)
        assert not any(b"forged" in data for data in said), "nothing is readable on the network"
        before = router.status()["counters"]
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", int(info.address.rpartition(":")[2]))) as replay:
                replay.settimeout(2.0)
                with contextlib.suppress(OSError):
                    for data in said:
                        replay.sendall(data)
                    while replay.recv(65536):
                        pass
        still_serves(run, router, 1)
        counters = wait_until(lambda: (now := router.status()["counters"]).get("alert", 0) >= 2 and now)
        assert counters.get("alert") == 2, f"the victim's and the friend's: {before} {counters}"
    finally:
        victim.close()
        server.close()


def test_noise_on_the_bare_ports_is_ignored(run: RunDir, router: RouterProcess) -> None:
    info = router.wait_ready()
    noise = random.Random(3)
    before = resident(router)
    greeting = b"\xff" + b"\x00" * 8 + b"\x7f\x03\x01CURVE".ljust(55, b"\x00")
    for address in (info.address, info.inbox_address):
        for number in range(100):
            port = int(address.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port)) as stranger, contextlib.suppress(OSError):
                stranger.sendall(greeting if number % 2 else b"")
                stranger.sendall(noise.randbytes(noise.randrange(1, 5000)))
    still_serves(run, router)
    assert resident(router) - before < ROOM_KIB


def test_keys_of_another_run_open_nothing(tmp_path: Path, run: RunDir, router: RouterProcess) -> None:
    other = make_run(tmp_path / "other")
    info = router.wait_ready()
    for address, pair in (
        (info.address, keys.load_agent_keys(other)),
        (info.inbox_address, keys.load_inbox_keys(other)),
    ):
        stranger = Stranger(address, info.public_key, pair)
        try:
            stranger.say(hello(run, 0))
            assert stranger.hear(500) is None
        finally:
            stranger.close()
    assert files.read_json(run.keys / "agent.json") != files.read_json(other.keys / "agent.json")
    with router.inbox() as people:
        assert people.episodes() == []
