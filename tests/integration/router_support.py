"""Runs real routers and agents for the tests: one process each, killed without mercy."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from hpc.router.client import InboxClient
from hpc.rundir import RunDir
from hpc.wire import discovery
from hpc.wire.keys import create_run_keys

T = TypeVar("T")

DEADLINE = 60.0


def wait_until(probe: Callable[[], T], *, seconds: float = DEADLINE) -> T:
    """What ``probe`` returns as soon as that is true."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        assert time.monotonic() < deadline, f"never true: {probe}"
        time.sleep(0.05)


def make_run(root: Path, *, attention: dict[str, Any] | None = None, **router: Any) -> RunDir:
    """A launched run with its keys, served on the loopback interface. Without ``attention`` each alert
    is shown by itself."""
    settings = {"host": "127.0.0.1", "heartbeat_seconds": 1, "resend_seconds": 0.5, "grace_seconds": 0, **router}
    each_alert = {"budget": {"merge": False, "queue": 0}}
    config = {"annotators": {"kind": "console", "attention": attention or each_alert}, "router": settings}
    run = RunDir.create(root, manifest={}, config=config, config_hash="0" * 16)
    create_run_keys(run)
    return run


class _Process:
    """A child process of the tests that is never left behind."""

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as file:
            self._child = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, **(environment or {})},
                text=True,
            )

    def kill(self) -> None:
        """kill -9, and wait until it is dead."""
        self._child.send_signal(signal.SIGKILL)
        self._child.communicate()

    def strike(self) -> None:
        """kill -9, and leave the body to others."""
        self._child.send_signal(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: it may be away for any time."""
        self._child.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._child.send_signal(signal.SIGCONT)

    def wait(self, timeout: float = DEADLINE) -> int:
        return self._child.wait(timeout)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def close(self) -> None:
        if self.alive:
            self.kill()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


class RouterProcess(_Process):
    """`hpc router start --foreground` of a run.

    Args:
        die: where it kills itself (`router_dying`).
        standby: wait until the active one is gone.
        locks: False on a file system without (`router_lockless`).
    """

    def __init__(self, run: RunDir, *, die: str | None = None, standby: bool = False, locks: bool = True) -> None:
        self.run = run
        command = ["-m", "hpc.cli", "-v", "router", "start", str(run.root), "--foreground"]
        if die is not None:
            command = ["-m", "tests.integration.router_dying", str(run.root), die]
        if not locks:
            command = ["-m", "tests.integration.router_lockless", str(run.root)]
        super().__init__([*command, *(["--standby"] if standby else [])], run.root / "router.log")

    def wait_waiting(self) -> None:
        """Until it has said that it stands by."""
        wait_until(lambda: f"waiting to serve {self.run.name}" in self.log.read_text())

    def wait_ready(self) -> discovery.RouterInfo:
        def ready() -> discovery.RouterInfo | None:
            info = discovery.read(self.run)
            if info is not None and info.pid == self._child.pid:  # one that is to die may have done so since
                return info
            assert self.alive, self.log.read_text()
            return None

        return wait_until(ready)  # type: ignore[return-value]

    def inbox(self, *, timeout: float = 20.0) -> InboxClient:
        return InboxClient(self.run, timeout=timeout)

    def status(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.run.router_dir / "status.json").read_text()))
        except FileNotFoundError:
            return {}

    def terminate(self) -> int:
        self._child.send_signal(signal.SIGTERM)
        return self.wait()

    def __enter__(self) -> RouterProcess:
        self.wait_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AgentProcess(_Process):
    """An agent with a real mailbox that takes orders on its standard input (`router_agent.py`)."""

    def __init__(self, run: RunDir, index: int, **environment: str) -> None:
        self.run = run
        self.index = index
        self.episode = f"{run.name}-{index:05d}"
        super().__init__(
            ["-m", "tests.integration.router_agent", str(run.root), str(index)],
            run.root / f"agent-{index}.log",
            environment,
        )

    def order(self, **order: Any) -> Any:
        """Give one order and wait for its answer."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(order) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        assert line, self.log.read_text()
        return json.loads(line)

    def alert(self, step: int, reason: str = "stuck") -> str:
        return str(self.order(do="alert", step=step, reason=reason)["alert"])

    def applied(self) -> list[str]:
        """Texts of the guidance in the agent's trajectory."""
        return list(self.order(do="state")["texts"])

    def __enter__(self) -> AgentProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Proxy:
    """A TCP relay in front of the router whose connections can be cut and refused."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.target: int | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        return len(self._pairs)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            if self.target is None:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._pairs.append((near, far))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    def cut(self) -> None:
        """Break every connection at once."""
        with self._lock:
            for pair in self._pairs:
                for end in pair:
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                    end.close()
            self._pairs.clear()

    def close(self) -> None:
        self._server.close()
        self.cut()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
