"""A whole conversation by docs/protocol.md alone: ZeroMQ, msgpack and the page, nothing of ours.

Usage: protocol_client.py RUN_DIRECTORY EPISODE. Raises one alert, waits for guidance, applies it,
says Bye, and prints the guidance's text and the acknowledgements it got.
"""

import hashlib
import hmac
import json
import pathlib
import secrets
import sys
import time

import zmq

try:
    from msgpack import packb, unpackb
except ImportError:  # any msgpack will do
    from msgspec.msgpack import decode as unpackb
    from msgspec.msgpack import encode as packb

run, episode = pathlib.Path(sys.argv[1]), sys.argv[2]
deadline = time.monotonic() + 60
epoch = 1


def read(name):
    return json.loads((run / name).read_text())


def message(kind, name, **fields):
    return {"type": kind, "v": 1, "id": name, "sent_at": time.time(), "episode": episode, "epoch": epoch, **fields}


while not (run / "router.json").exists() and time.monotonic() < deadline:
    time.sleep(0.1)
router, pair = read("router.json"), read("keys/agent.json")
token = hmac.new(read("keys/token.json")["secret"].encode(), episode.encode(), hashlib.sha256).hexdigest()

context = zmq.Context()
socket = context.socket(zmq.DEALER)
socket.linger = 0
socket.routing_id = f"{episode}#{epoch}#{secrets.token_hex(16)}".encode()
socket.curve_publickey = pair["public"].encode()
socket.curve_secretkey = pair["secret"].encode()
socket.curve_serverkey = router["public_key"].encode()
socket.connect(router["address"])


def ask(request, wanted):
    """Send until the wanted answer comes; guidance that arrives meanwhile is repeated by the router."""
    while time.monotonic() < deadline:
        socket.send(packb(request))
        while socket.poll(1000):
            got = unpackb(socket.recv())
            if got["type"] == "ack" and got["parent"] == request["id"] and got["status"] == wanted:
                return got["status"]
    raise SystemExit(f"no {wanted}")


heard = [ask(message("hello", "h1", run=run.name, token=token), "ready")]
alert = message("alert", f"{episode}-a7", detector="own", score=0.9, step=7, reason="stuck", evidence=[])
heard.append(ask(alert, "stored"))
guidance = {}
while guidance.get("type") != "guidance" and time.monotonic() < deadline:
    if socket.poll(1000):
        guidance = unpackb(socket.recv())
socket.send(packb(message("ack", "d1", parent=guidance["id"], status="delivered")))
applied = message("ack", f"{guidance['id']}-applied", parent=guidance["id"], status="applied", step=8)
heard.append(ask(applied, "stored"))
heard.append(ask(message("bye", f"{episode}-bye", status="finished", steps=9, final_score=80.0), "stored"))
print(json.dumps({"text": guidance["text"], "alert": guidance["alert"], "heard": heard}))
context.destroy(linger=0)
