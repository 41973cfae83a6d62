"""Configuration of `hpc train grpo` in rounds: collect groups of rollouts, update, serve the new weights, again."""

from __future__ import annotations

from typing import Literal

from hpc.config.agent import AgentConfig
from hpc.config.annotators import AnnotatorsConfig
from hpc.config.base import Config, require_plain
from hpc.config.cluster import ClusterConfig
from hpc.config.dataset import DatasetConfig
from hpc.config.drift import DriftConfig
from hpc.config.gym import GymConfig
from hpc.config.layout import LayoutConfig
from hpc.config.lora import LoraConfig
from hpc.config.model import ModelConfig
from hpc.config.router import RouterConfig
from hpc.config.runtime import RuntimeConfig
from hpc.config.server import ServerConfig
from hpc.config.task import TaskConfig
from hpc.config.train import TrainConfig


class RoundsConfig(Config):
    """How many rounds, of which rollouts."""

    count: int = 20
    """Rounds in all; raise it to go on with a run that is over."""
    tasks: int = 8
    """Task instances of a round, each the start of one group."""
    group: int = 8
    """Rollouts of each instance, whose rewards are compared with each other."""
    new_tasks: bool = True
    """Other instances in every round (`task.seed` grows by one); false: the same ones again."""
    episodes_per_job: int = 8
    """Rollouts that share one array element (and its process)."""
    export_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of the weights that are served; null: float32 where training is, else that of the model."""
    max_drift: float = 0.02
    """Most that trainer and engine may differ at the first step of an update, in the natural logarithm of a token's
    probability and in the mean over tokens: beyond it the engine does not serve the weights that it should."""
    retries: int = 1
    """So often what failed of a round is submitted again."""
    keep: int = 3
    """Rounds whose checkpoint and weights stay, the newest ones; the best one's beside them."""

    def __post_init__(self) -> None:
        for name in ("count", "tasks", "episodes_per_job", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        if self.group < 2:
            raise ValueError(f"group is {self.group}, it must be 2 or more: rollouts are compared within their group")
        if self.max_drift <= 0:
            raise ValueError(f"max_drift is {self.max_drift}, it must be positive")
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}, it must be 0 or more")


class GrpoRunDirConfig(Config):
    """Where the rounds write."""

    name: str | None = None
    """Name of the run directory, and the beginning of the names of the runs of its rounds; None: grpo-<date>-<time>."""
    root: str = "runs"
    """Folder of run directories."""

    def __post_init__(self) -> None:
        require_plain(self.name)


class GrpoRunConfig(Config):
    """Root configuration of `hpc train grpo` without a dataset."""

    run: GrpoRunDirConfig
    rounds: RoundsConfig
    cluster: ClusterConfig
    runtime: RuntimeConfig
    model: ModelConfig
    server: ServerConfig
    agent: AgentConfig
    gym: GymConfig
    task: TaskConfig
    drift: DriftConfig
    annotators: AnnotatorsConfig
    router: RouterConfig
    layout: LayoutConfig
    train: TrainConfig
    dataset: DatasetConfig
    lora: LoraConfig = LoraConfig()
