"""Configuration of `hpc eval submit`: the same tasks and seeds for each of several models, nobody advising."""

from __future__ import annotations

from hpc.config.agent import AgentConfig
from hpc.config.base import Config, require_plain
from hpc.config.cluster import ClusterConfig
from hpc.config.gym import GymConfig
from hpc.config.router import RouterConfig
from hpc.config.runtime import RuntimeConfig
from hpc.config.server import ServerConfig
from hpc.config.task import TaskConfig


class EvaluateConfig(Config):
    """How much is played."""

    name: str = ""
    """Beginning of the names of the runs: NAME-<model>. It must be given."""
    root: str = "runs"
    """Folder of run directories."""
    tasks: int = 20
    """Task instances, the same for every model."""
    seeds: int = 3
    """Episodes of each instance, each under a seed of its own; the same seeds for every model."""
    first: int = 0
    """First task instance."""
    episodes_per_job: int = 1
    """Episodes that share one array element (and its process)."""

    def __post_init__(self) -> None:
        for name in ("tasks", "seeds", "episodes_per_job"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        if self.first < 0:
            raise ValueError(f"first is {self.first}, it must be 0 or more")
        require_plain(self.name or None)


class EvaluateRunConfig(Config):
    """Root configuration of `hpc eval submit`."""

    eval: EvaluateConfig
    cluster: ClusterConfig
    runtime: RuntimeConfig
    server: ServerConfig
    agent: AgentConfig
    gym: GymConfig
    task: TaskConfig
    router: RouterConfig
