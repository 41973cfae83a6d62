"""What `bench_router` starts as processes: agents by the hundred, and the bare limits they are measured with.

Usage: router_load.py echo SERVER_KEYS_JSON   a bare CURVE ROUTER that acknowledges what comes
       router_load.py agents ORDER_JSON       many agents of one process; orders on standard input
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hpc.rundir import RunDir
from hpc.wire import discovery, keys
from hpc.wire.client import tune, use_keys
from hpc.wire.codec import MESSAGES, encode
from hpc.wire.inbox import SendReply
from hpc.wire.messages import Ack, Alert, Guidance, Hello, StepBrief

ACK = encode(Ack(id="ack-01kb2v4m8q0000000000000000", sent_at=1764250000.123, parent="x" * 24, status="stored"))
EVIDENCE = [
    StepBrief(step=step, action="run python train.py --lr 3e-4", observation="loss 2.31 … " * 12) for step in range(5)
]


def echo(pair: keys.KeyPair) -> None:
    """The raw limit of the wire: receive, acknowledge, nothing else."""
    context = zmq.Context(io_threads=1)
    socket = context.socket(zmq.ROUTER)
    tune(socket)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode())
    print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    while True:
        route, _ = socket.recv_multipart()
        socket.send_multipart([route, ACK])


class Agents:
    """DEALERs, one for each agent, each with one alert under way at most."""

    def __init__(self, run: RunDir, address: str, server_key: str, first: int, count: int) -> None:
        self.context = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, count + 64)
        self.poller = zmq.Poller()
        self.episodes = [f"{run.name}-{index:05d}" for index in range(first, first + count)]
        self.sockets: list[zmq.Socket[bytes]] = []
        self.index: dict[zmq.Socket[bytes], int] = {}
        self.number = 0
        secret = keys.load_token_secret(run)
        pair = keys.load_agent_keys(run)
        for at, episode in enumerate(self.episodes):
            socket = self.context.socket(zmq.DEALER)
            tune(socket)
            use_keys(socket, pair, server_key)
            socket.setsockopt(zmq.ROUTING_ID, f"{episode}#1#{random.randbytes(8).hex()}".encode())
            socket.connect(address)
            self.sockets.append(socket)
            self.index[socket] = at
            self.poller.register(socket, zmq.POLLIN)
            hello = Hello(
                id=f"he-{at}",
                sent_at=time.time(),
                run=run.name,
                episode=episode,
                epoch=1,
                token=keys.episode_token(secret, episode),
                task="bench",
                index=first + at,
            )
            socket.send(encode(hello))

    def wait_all(self) -> None:
        """Until everyone has had an answer to its Hello."""
        waiting = set(range(len(self.sockets)))
        while waiting:
            for socket, _ in self.poller.poll(60_000):
                socket.recv()
                waiting.discard(self.index[socket])

    def alert(self, at: int) -> Alert:
        """A new alert, of about the size that real ones have."""
        self.number += 1
        episode = self.episodes[at]
        return Alert(
            id=f"{episode}-a{self.number}-{time.monotonic_ns()}",
            sent_at=time.time(),
            episode=episode,
            epoch=1,
            detector=f"stuck{self.number}",
            score=0.9,
            step=self.number,
            reason="failed twice at the same stage",
            evidence=EVIDENCE,
            task="bench",
        )

    def storm(self, seconds: float) -> dict[str, Any]:
        """Everyone alerts, and again as soon as that is acknowledged."""
        for at, socket in enumerate(self.sockets):
            socket.send(encode(self.alert(at)))
        start = time.monotonic()
        end = start + seconds
        acknowledged = 0
        while (now := time.monotonic()) < end:
            for socket, _ in self.poller.poll(200):
                if b"stored" not in socket.recv():
                    continue
                acknowledged += 1
                socket.send(encode(self.alert(self.index[socket])))
        spent = now - start
        outstanding = len(self.sockets)
        while outstanding and self.poller.poll(5000):
            for socket, _ in self.poller.poll(0):
                socket.recv()
                outstanding -= 1
        return {"acknowledged": acknowledged, "seconds": spent}

    def trickle(self, seconds: float, rate: float, run: RunDir | None, inbox: str, server_key: str) -> dict[str, Any]:
        """``rate`` alerts a second, each answered at once through the inbox socket; milliseconds from
        there to the agent. Without a run: bare round trips at that rate."""
        people = self.context.socket(zmq.DEALER)
        if run is not None:
            tune(people)
            use_keys(people, keys.load_inbox_keys(run), server_key)
            people.connect(inbox)
            self.poller.register(people, zmq.POLLIN)
        asked: dict[str, float] = {}
        spent: list[float] = []
        sent: dict[int, float] = {}
        start = time.monotonic()
        count = 0

        def hear(socket: zmq.Socket[bytes]) -> None:
            frame = socket.recv()
            now = time.monotonic()
            if socket is people:
                return
            at = self.index[socket]
            if run is None:
                spent.append(now - sent.pop(at))
                return
            message = MESSAGES.decode(frame)
            match message:
                case Ack(status="stored") if not message.parent.endswith("-applied"):
                    asked[message.parent] = time.monotonic()
                    people.send(encode(reply_to(message.parent)))
                case Guidance():
                    spent.append(now - asked.pop(message.alert or ""))
                    fields: dict[str, Any] = {"sent_at": time.time(), "parent": message.id, "epoch": 1}
                    fields["episode"] = self.episodes[at]
                    socket.send(encode(Ack(id=f"d-{message.id}", status="delivered", **fields)))
                    socket.send(encode(Ack(id=f"{message.id}-applied", status="applied", step=1, **fields)))

        while time.monotonic() < start + seconds or ((asked or sent) and time.monotonic() < start + seconds + 5):
            due = start + count / rate
            now = time.monotonic()
            if now >= due and now < start + seconds:
                at = count % len(self.sockets)
                count += 1
                if at not in sent:
                    if run is None:
                        sent[at] = time.monotonic()
                    self.sockets[at].send(encode(self.alert(at)))
                continue
            for socket, _ in self.poller.poll(max(0, min(100, int(1000 * (due - now))))):
                hear(socket)
        if run is not None:
            self.poller.unregister(people)
        people.close(0)
        return {"milliseconds": [1000 * value for value in spent], "lost": len(asked)}


def reply_to(alert: str) -> SendReply:
    """An annotator's answer to an alert."""
    return SendReply(
        id=f"rq-{alert}", sent_at=time.time(), target=alert, key=alert, annotator="ada", text="try a smaller step " * 5
    )


def agents(order: dict[str, Any]) -> None:
    run = RunDir(Path(order["run"]))
    crowd = Agents(run, order["address"], order["server_key"], order["first"], order["count"])
    crowd.wait_all()
    print("ready", flush=True)
    info = discovery.read(run)
    for line in sys.stdin:
        command = json.loads(line)
        orders: dict[str, Callable[[], dict[str, Any]]] = {
            "storm": lambda command=command: crowd.storm(command["seconds"]),
            "trickle": lambda command=command: crowd.trickle(
                command["seconds"],
                command["rate"],
                run if command["replies"] else None,
                info.inbox_address if info is not None else "",
                order["server_key"],
            ),
        }
        print(json.dumps(orders[command["do"]]()), flush=True)


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    if sys.argv[1] == "echo":
        echo(keys.KeyPair(given["public"], given["secret"]))
    else:
        agents(given)
