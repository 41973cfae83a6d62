"""A small real endpoint that speaks OpenAI chat completions with tool calls, token ids and
log-probabilities, for tests and benchmarks that do not need a model.

As a program it takes vLLM's command line (``serve MODEL --host H --port P --served-model-name N``;
the rest is ignored) so that the supervisor can run it in vLLM's place. `start_stub` starts it and
returns a handle.

Answers are scripted: ``POST /stub`` takes ``{"answers": [ANSWER, …], "default": ANSWER}``; each
completion uses up one answer, then the default is given for ever. One-token requests (a probe) are
never taken from the script, but follow the default's ``status``, ``message``, ``delay`` and ``hang``. ANSWER has

    text, tools: [[name, arguments], …], finish_reason      what is said
    logprobs: false · token_ids: false                      what is left out
    delay: seconds                                          before the answer
    hang: true · drop: true · body: "rubbish"               no answer, a cut connection, not JSON
    status: 429, message: "…", headers: {…}                 an error instead

Environment: STUB_BOOT_SECONDS (sleep before listening), STUB_EXIT (print this and exit with 1),
STUB_CHILD (also start a child that sleeps, as vLLM starts an engine).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PROBED = ("status", "message", "delay", "hang")
END = 256
"""The end-of-turn token; the others are the bytes of the text."""


class Stub(ThreadingHTTPServer):
    """The endpoint; subclass and override `answer` for a policy of your own."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], model: str) -> None:
        super().__init__(address, Handler)
        self.model = model
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.default: dict[str, Any] = {"text": "ok"}
        self.in_flight = 0
        self.generated = 0
        self.draining = False

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """The scripted answer to a completion request."""
        if body.get("max_tokens") == 1:
            kept = {key: value for key, value in self.default.items() if key in PROBED}
            return {"text": "o", "finish_reason": "length", **kept}
        with self.lock:
            self.requests.append(body)
            return self.answers.pop(0) if self.answers else self.default

    def drain(self) -> None:
        """Refuse new requests, let those in flight finish, end."""
        self.draining = True
        deadline = time.monotonic() + 20
        while self.in_flight and time.monotonic() < deadline:
            time.sleep(0.02)
        self.shutdown()


class Handler(BaseHTTPRequestHandler):
    server: Stub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(200, {})
        elif self.path == "/v1/models":
            self._send(200, {"data": [{"id": self.server.model, "max_model_len": 4096}]})
        elif self.path == "/metrics":
            text = (
                f'vllm:num_requests_running{{engine="0"}} {float(self.server.in_flight)}\n'
                f'vllm:num_requests_waiting{{engine="0"}} 0.0\n'
                f'vllm:generation_tokens_total{{engine="0"}} {float(self.server.generated)}\n'
            )
            self._send(200, text.encode())
        elif self.path == "/stub":
            with self.server.lock:
                self._send(200, {"requests": self.server.requests, "in_flight": self.server.in_flight})
        else:
            self._send(404, {"error": {"message": f"no {self.path}"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/stub":
            with self.server.lock:
                self.server.answers += body.get("answers", [])
                self.server.default = body.get("default", self.server.default)
            self._send(200, {})
            return
        with self.server.lock:
            self.server.in_flight += 1
        try:
            self._complete(body)
        finally:
            with self.server.lock:
                self.server.in_flight -= 1

    def _complete(self, body: dict[str, Any]) -> None:
        if self.server.draining:
            self._send(500, {"error": {"message": "engine is shutting down"}})
            return
        if body["model"] != self.server.model:
            self._send(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
            return
        answer = self.server.answer(body)
        time.sleep(answer.get("delay", 0))
        if answer.get("hang"):
            threading.Event().wait(600)
        if answer.get("drop"):
            self.connection.close()
            self.close_connection = True
        elif "body" in answer:
            self._send(200, str(answer["body"]).encode())
        elif answer.get("status", 200) != 200:
            error = {"error": {"message": answer.get("message", "scripted"), "code": answer["status"]}}
            self._send(answer["status"], error, answer.get("headers", {}))
        else:
            self._send(200, completion(self.server.model, body, answer))
            self.server.generated += len(answer.get("text", "")) + 1

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, text in (headers or {}).items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)


def completion(model: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """A chat completion as vLLM 0.32 gives it."""
    calls = [
        {
            "id": f"call-{number}",
            "type": "function",
            "function": {
                "name": name,
                "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
            },
        }
        for number, (name, arguments) in enumerate(answer.get("tools", []))
    ]
    text = answer.get("text", "")
    said = text + "".join(f"<tool_call>{json.dumps(call['function'])}</tool_call>" for call in calls)
    finish = answer.get("finish_reason", "tool_calls" if calls else "stop")
    ids = [*said.encode(), END]
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text or None, "tool_calls": calls},
        "finish_reason": finish,
        "logprobs": {"content": [{"token": str(i), "logprob": -0.125, "top_logprobs": []} for i in ids]},
        "token_ids": ids,
    }
    if not body.get("logprobs") or answer.get("logprobs") is False:
        choice["logprobs"] = None
    prompt = list("".join(str(message.get("content")) for message in body["messages"]).encode())
    value = {"id": "stub", "object": "chat.completion", "model": model, "choices": [choice], "prompt_token_ids": prompt}
    if not body.get("return_token_ids") or answer.get("token_ids") is False:
        del choice["token_ids"], value["prompt_token_ids"]
    value["usage"] = {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
    return value


class StubHandle:
    """A running stub process."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.process = process
        self.url = url

    def script(self, *answers: dict[str, Any], default: dict[str, Any] | None = None) -> None:
        """Append answers; replace the default."""
        script_stub(self.url, *answers, default=default)

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The bodies of all completion requests so far, probes left out."""
        return list(self._state()["requests"])

    @property
    def in_flight(self) -> int:
        return int(self._state()["in_flight"])

    def _state(self) -> dict[str, Any]:
        return stub_state(self.url)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()


def script_stub(url: str, *answers: dict[str, Any], default: dict[str, Any] | None = None) -> None:
    """Script the stub at ``url``, also one that a supervisor started."""
    body: dict[str, Any] = {"answers": list(answers)}
    if default is not None:
        body["default"] = default
    request = urllib.request.Request(f"{url.removesuffix('/v1')}/stub", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10):
        pass


def stub_state(url: str) -> dict[str, Any]:
    """``requests`` so far and how many are ``in_flight``."""
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/stub", timeout=10) as response:
        return dict(json.load(response))


@contextlib.contextmanager
def start_stub(model: str = "stub") -> Iterator[StubHandle]:
    """A stub process on a free port; killed on leaving."""
    command = [sys.executable, __file__, "serve", "none", "--port", "0", "--served-model-name", model]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        line = process.stdout.readline().decode() if process.stdout else ""
        yield StubHandle(process, line.split()[-1])
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def write_program(folder: Path, **environment: str) -> Path:
    """An executable in ``folder`` that can stand in for vLLM's."""
    exports = "".join(f"export {name}='{value}'\n" for name, value in environment.items())
    path = folder / "vllm"
    path.write_text(f'#!/bin/sh\n{exports}exec {sys.executable} {Path(__file__).resolve()} "$@"\n')
    path.chmod(0o755)
    return path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("path")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", default="stub")
    options, _ = parser.parse_known_args()
    if os.environ.get("STUB_EXIT"):
        print(os.environ["STUB_EXIT"], flush=True)
        sys.exit(1)
    if os.environ.get("STUB_CHILD"):
        subprocess.Popen(["sleep", "600"])
    time.sleep(float(os.environ.get("STUB_BOOT_SECONDS", "0")))
    server = Stub((options.host, options.port), options.served_model_name)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.drain).start())
    print(f"listening on http://{options.host}:{server.server_address[1]}/v1", flush=True)
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
