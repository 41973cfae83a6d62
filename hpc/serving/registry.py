"""Published endpoints and the states of servers, as files in the run directory.

A server publishes an endpoint while it answers and renews the heartbeat; a reader trusts neither a
file that is old nor one that is torn (there are none: files are replaced whole).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from hpc.config.server import ServerConfig
from hpc.core import files
from hpc.core.errors import HpcError
from hpc.rundir import RunDir

T = TypeVar("T")
STALE_AFTER = 30.0
"""Seconds without a heartbeat after which an endpoint counts as gone."""
REREAD_SECONDS = 0.5

StateName = Literal["LAUNCHING", "READY", "DEGRADED", "FAILED", "SHUTDOWN"]
HOPEFUL = ("LAUNCHING", "READY", "DEGRADED")


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a replica answers. ``url`` ends in ``/v1``; times are Unix seconds."""

    server: str
    replica: int
    url: str
    model: str
    state: Literal["READY", "DRAINING"] = "READY"
    heartbeat: float = 0.0
    started_at: float = 0.0
    job_id: str = ""
    pid: int = 0
    host: str = ""
    max_model_len: int = 0

    def is_stale(self, now: float) -> bool:
        """Whether its server stopped renewing it (never for an external one: heartbeat 0)."""
        return self.heartbeat > 0 and now - self.heartbeat > STALE_AFTER


class ServerState(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica's job says of itself, and why."""

    state: StateName
    reason: str = ""
    at: float = 0.0
    job_id: str = ""
    host: str = ""
    pid: int = 0
    log: str = ""


# ---- written by servers -----------------------------------------------------------------------


def publish(run: RunDir, endpoint: Endpoint) -> None:
    """Publish or renew an endpoint."""
    files.write_json(run.endpoint(endpoint.server, endpoint.replica), msgspec.to_builtins(endpoint))


def withdraw(run: RunDir, server: str, replica: int) -> None:
    """Take an endpoint back; nothing happens if it is not published."""
    run.endpoint(server, replica).unlink(missing_ok=True)


def write_state(run: RunDir, server: str, replica: int, state: ServerState) -> None:
    """Replace what a replica says of itself."""
    files.write_json(run.server_state(server, replica), msgspec.to_builtins(state))


# ---- read by everyone -------------------------------------------------------------------------


def read_endpoints(run: RunDir, server: str) -> list[Endpoint]:
    """Every published endpoint of a server, stale ones too, by replica."""
    return _read_all(run.endpoints(server), Endpoint, lambda endpoint: endpoint.replica)


def live_endpoints(run: RunDir, server: str, now: float | None = None) -> list[Endpoint]:
    """The endpoints that are renewed, READY or DRAINING."""
    at = time.time() if now is None else now
    return [endpoint for endpoint in read_endpoints(run, server) if not endpoint.is_stale(at)]


def read_states(run: RunDir, server: str) -> dict[int, ServerState]:
    """Replica -> what it says of itself."""
    folder = run.server_state(server, 0).parent
    states = {}
    for path in sorted(folder.glob("[0-9]*.json")):
        if (state := _read(path, ServerState)) is not None and path.stem.isdigit():
            states[int(path.stem)] = state
    return states


def failure(run: RunDir, server: str) -> str:
    """Why no replica can be hoped for; empty while one lives, starts, or none has spoken yet."""
    states = read_states(run, server)
    if any(state.state in HOPEFUL for state in states.values()):
        return ""
    failed = [f"replica {replica}: {state.reason}" for replica, state in states.items() if state.state == "FAILED"]
    return "; ".join(failed)


def forget(run: RunDir, server: str) -> None:
    """Remove what an earlier launch's replicas said of themselves, before they are launched again."""
    for path in run.server_state(server, 0).parent.glob("[0-9]*.json"):
        path.unlink(missing_ok=True)


class Registry:
    """The live endpoints of one server, read again at most twice a second.

    Called, it returns them; `failure` says why none can be hoped for.
    """

    def __init__(self, run: RunDir, server: str, *, clock: Callable[[], float] = time.time) -> None:
        self.run = run
        self.server = server
        self._clock = clock
        self._read_at = float("-inf")
        self._endpoints: list[Endpoint] = []

    def __call__(self) -> list[Endpoint]:
        now = self._clock()
        if not 0 <= now - self._read_at < REREAD_SECONDS:
            self._endpoints = read_endpoints(self.run, self.server)
            self._read_at = now
        return [endpoint for endpoint in self._endpoints if not endpoint.is_stale(now)]

    def failure(self) -> str:
        return failure(self.run, self.server)


def external_endpoints(server: ServerConfig, model: str) -> list[Endpoint]:
    """The endpoints that an external server's configuration names. They never go stale."""
    return [
        Endpoint(server=server.name, replica=replica, url=url.rstrip("/"), model=model)
        for replica, url in enumerate(server.urls)
    ]


def _read_all(folder: Path, kind: type[T], key: Callable[[T], int]) -> list[T]:
    found = [_read(path, kind) for path in folder.glob("[0-9]*.json")]
    return sorted((value for value in found if value is not None), key=key)


def _read(path: Path, kind: type[T]) -> T | None:
    """A file's value; None when it vanished between listing and reading, or is not ours."""
    try:
        return msgspec.convert(files.read_json(path), kind)
    except (HpcError, msgspec.ValidationError):
        return None
