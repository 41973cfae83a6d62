"""Configuration of the guidance router."""

from __future__ import annotations

from typing import Literal

from hpc.config.annotators import AnnotatorsConfig
from hpc.config.base import Config
from hpc.config.cluster import ClusterConfig


class RouterConfig(Config):
    """How a run's router serves its agents."""

    host: str = ""
    """Name or address under which agents reach the router; empty: the name of its machine."""
    heartbeat_seconds: float = 3.0
    """How often router.json is renewed; agents and tools take it for dead after 15 s without."""
    resend_seconds: float = 2.0
    """Guidance that an agent has not acknowledged is sent again after this."""
    grace_seconds: float = 60.0
    """How long the router stays after the run is done, to tell late annotators so."""
    threads: Literal["start", "alert"] = "start"
    """When an episode gets its thread: as it starts (it can be guided unprompted, its state is on the
    board) or at its first alert (for runs of hundreds of episodes)."""
    board_seconds: float = 60.0
    """An episode's state is shown anew at every change, mere progress at most this often."""

    def __post_init__(self) -> None:
        for name in ("heartbeat_seconds", "resend_seconds", "board_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be positive")
        if self.heartbeat_seconds > 5:
            raise ValueError(f"heartbeat_seconds is {self.heartbeat_seconds}, it must be 5 or less (15 s is dead)")
        if self.grace_seconds < 0:
            raise ValueError(f"grace_seconds is {self.grace_seconds}, it must be 0 or more")


class RouterTargetConfig(Config):
    """Which run the router serves."""

    name: str | None = None
    """Name of the run directory; None: the newest one."""
    root: str = "runs"
    """Folder of run directories."""


class RouterRunConfig(Config):
    """Root configuration of a router on its own."""

    run: RouterTargetConfig
    cluster: ClusterConfig
    annotators: AnnotatorsConfig
    router: RouterConfig
