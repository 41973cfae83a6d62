"""Pushing adapters, against a server that keeps a list of them as vLLM does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hpc.core.errors import ConfigError, ServingError
from hpc.serving.adapters import push, served_rank


class Fake:
    """What the server has, what it was asked for, and whether it refuses."""

    def __init__(self) -> None:
        self.loaded: dict[str, str] = {}
        self.calls: list[tuple[str, str]] = []
        self.refuses = False
        self.keys: set[str | None] = set()
        self.url = ""


@pytest.fixture
def fake() -> Iterator[Fake]:
    state = Fake()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            adapters = [{"id": name, "root": root, "parent": "base"} for name, root in state.loaded.items()]
            self._answer(200, {"data": [{"id": "base", "root": "/models/base", "parent": None}, *adapters]})

        def do_POST(self) -> None:
            state.keys.add(self.headers.get("Authorization"))
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            verb = self.path.rpartition("/")[2].partition("_")[0]
            state.calls.append((verb, body["lora_name"]))
            if state.refuses:
                self._answer(400, {"error": {"message": "rank 32 is greater than max_lora_rank"}})
                return
            if verb == "load":
                state.loaded[body["lora_name"]] = body["lora_path"]
            else:
                del state.loaded[body["lora_name"]]
            self._answer(200, {})

        def _answer(self, status: int, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield state
    server.shutdown()
    server.server_close()


def test_a_new_version_takes_the_place_of_the_last_and_is_pushed_once(fake: Fake) -> None:
    push([fake.url], "m@1", Path("/a/1"), api_key="secret")
    push([fake.url], "m@2", Path("/a/2"), api_key="secret")
    push([fake.url], "m@2", Path("/a/2"))
    assert fake.loaded == {"m@2": "/a/2"}
    assert fake.calls == [("load", "m@1"), ("unload", "m@1"), ("load", "m@2")]
    assert fake.keys == {"Bearer secret"}


def test_other_adapters_under_the_name_and_a_refusal_are_errors(fake: Fake) -> None:
    fake.loaded["m@1"] = "/elsewhere"
    with pytest.raises(ServingError, match="serves m@1 from /elsewhere, not from /a/1"):
        push([fake.url], "m@1", Path("/a/1"))
    fake.loaded.clear()
    fake.refuses = True
    with pytest.raises(ServingError, match=r"did not load the adapters in /a/1: .*max_lora_rank"):
        push([fake.url], "m@1", Path("/a/1"))


def test_a_server_is_started_for_the_next_rank_that_vllm_knows() -> None:
    assert [served_rank(rank) for rank in (1, 8, 9, 300)] == [8, 8, 16, 320]
    with pytest.raises(ConfigError, match=r"lora\.rank is 600"):
        served_rank(600)
