"""A run directory and a supervisor in a thread, for the tests of serving."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from hpc.config.model import ModelConfig
from hpc.config.runtime import RuntimeConfig
from hpc.config.server import ServerConfig
from hpc.rundir import RunDir
from hpc.serving import registry
from hpc.serving.registry import Endpoint, ServerState
from hpc.serving.supervisor import Supervisor

T = TypeVar("T")


def until(look: Callable[[], T], what: str, seconds: float = 60.0) -> T:
    """The first true value of ``look``; fails the test when none came in time."""
    deadline = time.monotonic() + seconds
    while not (value := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: nothing after {seconds:g} s")
        time.sleep(0.02)
    return value


def make_run(folder: Path) -> RunDir:
    return RunDir.create(folder / "run", manifest={}, config={}, config_hash="0")


def make_model(folder: Path, name: str = "stub") -> ModelConfig:
    """A folder that looks like a model; enough for a stub."""
    path = folder / "model"
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text("{}")
    return ModelConfig(name=name, path=str(path))


class Served:
    """A supervisor at work."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.run = supervisor.run_dir
        self.server = supervisor.server.name
        self.outcomes: list[str] = []
        self.states: list[tuple[str, str]] = []
        self.thread = threading.Thread(target=lambda: self.outcomes.append(supervisor.run()))

    @property
    def state(self) -> ServerState | None:
        return registry.read_states(self.run, self.server).get(self.supervisor.replica)

    def endpoint(self) -> Endpoint | None:
        return next(iter(registry.live_endpoints(self.run, self.server)), None)

    def wait_endpoint(self, seconds: float = 60.0) -> Endpoint:
        def look() -> Endpoint | None:
            assert self.thread.is_alive(), f"the supervisor ended: {self.state}"
            return self.endpoint()

        return until(look, "an endpoint", seconds)

    def wait_state(self, name: str, seconds: float = 60.0) -> ServerState:
        def look() -> ServerState | None:
            state = self.state
            return state if state is not None and state.state == name else None

        return until(look, f"state {name}", seconds)

    def wait_outcome(self, seconds: float = 60.0) -> str:
        self.thread.join(seconds)
        assert self.outcomes, f"the supervisor still runs: {self.state}"
        return self.outcomes[0]


@contextlib.contextmanager
def serving(
    run: RunDir, server: ServerConfig, model: ModelConfig, runtime: RuntimeConfig, replica: int = 0
) -> Iterator[Served]:
    """Run a supervisor in a thread; it is stopped on leaving."""
    served = Served(Supervisor(run, replica, server=server, model=model, runtime=runtime))
    served.thread.start()
    try:
        yield served
    finally:
        served.supervisor.stop("the test is over")
        served.thread.join(60)
        assert not served.thread.is_alive()
