"""Root configuration of `hpc episodes submit`: everything a run of agent episodes needs."""

from __future__ import annotations

from hpc.config.agent import AgentConfig
from hpc.config.annotators import AnnotatorsConfig
from hpc.config.base import Config, require_plain
from hpc.config.cluster import ClusterConfig
from hpc.config.drift import DriftConfig
from hpc.config.gym import GymConfig
from hpc.config.model import ModelConfig
from hpc.config.router import RouterConfig
from hpc.config.runtime import RuntimeConfig
from hpc.config.server import ServerConfig
from hpc.config.task import TaskConfig


class EpisodesRunConfig(Config):
    """Which episodes, under which name."""

    name: str | None = None
    """Name of the run directory; None: episodes-<date>-<time>."""
    root: str = "runs"
    """Folder of run directories."""
    episodes: int = 8
    """How many episodes; array index i plays task instance first + i."""
    first: int = 0
    """First task instance."""
    episodes_per_job: int = 1
    """Episodes that share one array element (and its process)."""
    local_dir: str | None = None
    """Folder on each node's own disk for logs and live views, such as $TMPDIR, where the run directory's
    file system is slow; None: in the run directory. What that costs in durability: docs/trajectory-format.md."""
    publish_seconds: float = 30.0
    """With local_dir: steps reach the run directory after so many seconds at the latest, alerts, guidance
    and the like at once."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes is {self.episodes}, it must be 1 or more")
        if self.episodes_per_job < 1:
            raise ValueError(f"episodes_per_job is {self.episodes_per_job}, it must be 1 or more")
        if self.publish_seconds < 0:
            raise ValueError(f"publish_seconds is {self.publish_seconds}, it must be 0 or more")
        require_plain(self.name)


class EpisodesConfig(Config):
    """Servers, router and an array of agent episodes."""

    run: EpisodesRunConfig
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

    @property
    def judge_server(self) -> ServerConfig:
        """Where the drift judge is asked: its own endpoint, which need not be vLLM, or the run's server."""
        judge = self.drift.judge
        if judge.url is None:
            return self.server
        return ServerConfig(
            name="judge", kind="external", urls=[judge.url], token_ids=False, api_key_env=judge.api_key_env
        )
