"""Where jobs run and with what: the scheduler's options and the resources of each job kind."""

from __future__ import annotations

import re
from typing import Literal

from hpc.config.base import Config

OWN_OPTIONS = frozenset(
    {"array", "dependency", "error", "open-mode", "output", "parsable", "requeue", "no-requeue", "signal", "wrap"}
)
"""sbatch options that decide whether a run can be followed and resumed; no configuration may set them."""

_OPTION = re.compile(r"[a-z][a-z0-9-]*")


def _check_extra(extra: dict[str, str | int | bool]) -> None:
    for option in extra:
        if not _OPTION.fullmatch(option):
            raise ValueError(f"extra has the option {option!r}, write long sbatch options without the dashes")
        if option in OWN_OPTIONS:
            raise ValueError(f"extra sets {option!r}, which the launcher sets itself; remove it")


class Resources(Config):
    """What one array element (one job of a kind) gets."""

    time_min: int = 240
    """Walltime, minutes. Work that needs longer is requeued and goes on."""
    nodes: int = 1
    """Nodes of one job."""
    tasks_per_node: int = 1
    """Processes per node; more than one process in all is started through srun."""
    gpus: int = 0
    """GPUs per node."""
    cpus: int = 1
    """CPU cores per process."""
    mem_gb: float | None = 2.0
    """Memory per node, GiB; None: the partition's default."""
    partition: str | None = None
    """Partition of this kind; None: the cluster's."""
    qos: str | None = None
    """Quality of service of this kind; None: the cluster's."""
    elements_per_job: int = 1
    """Elements that share one job, as processes side by side (small elements waste less of a node)."""
    extra: dict[str, str | int | bool] = {}
    """More sbatch options of this kind, long names without dashes, over the cluster's own."""

    def __post_init__(self) -> None:
        for name in ("time_min", "nodes", "tasks_per_node", "cpus", "elements_per_job"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        if self.gpus < 0:
            raise ValueError(f"gpus is {self.gpus}, it must be 0 or more")
        if self.mem_gb is not None and self.mem_gb <= 0:
            raise ValueError(f"mem_gb is {self.mem_gb}, it must be positive, or null")
        if self.elements_per_job > 1 and self.nodes * self.tasks_per_node > 1:
            raise ValueError(
                f"elements_per_job is {self.elements_per_job} with {self.nodes} nodes x {self.tasks_per_node} tasks; "
                "pack elements only into jobs of one process"
            )
        _check_extra(self.extra)


DEFAULT_RESOURCES: dict[str, Resources] = {
    "serve": Resources(time_min=1440, gpus=1, cpus=8, mem_gb=64),
    "router": Resources(time_min=2880, cpus=1, mem_gb=2),
    "episode": Resources(time_min=720, cpus=2, mem_gb=4),
    "finalize": Resources(time_min=2880, cpus=1, mem_gb=1),
    "train": Resources(time_min=1440, gpus=1, cpus=8, mem_gb=64),
}
"""Used for a kind that the configuration does not mention."""


class ClusterConfig(Config):
    """The scheduler and what it is asked for."""

    executor: Literal["auto", "slurm", "local"] = "auto"
    """slurm, local (processes on this machine), or auto: slurm where a Slurm is configured, else local."""
    partition: str | None = None
    """Partition; None: the site's default."""
    account: str | None = None
    """Account to charge; None: the user's default."""
    qos: str | None = None
    """Quality of service; None: the user's default."""
    resources: dict[str, Resources] = {}
    """Job kind -> its resources; kinds left out have built-in defaults."""
    throttle: int | None = None
    """Elements of the episode array that run at the same time; None: no limit of ours."""
    max_requeues: int = 20
    """How often one element may be started again (preemption, walltime, lost node) before it fails."""
    signal_seconds: int = 120
    """How long before its walltime a job is told to save and go."""
    kill_on_bad_exit: bool = True
    """A job of several processes ends as soon as one of them fails."""
    srun: bool | None = None
    """Start jobs of one process through srun too; None: where the cluster preempts with SIGTERM alone,
    which only such processes receive (it costs a step per element)."""
    extra: dict[str, str | int | bool] = {}
    """More sbatch options, long names without dashes, such as constraint: a100; true: a bare flag."""
    python: str | None = None
    """Interpreter of the jobs (Apollo-HPC must be installed in it); None: the one that submits."""
    setup: list[str] = []
    """Shell lines that a job runs first, such as module load cuda."""

    def __post_init__(self) -> None:
        if self.throttle is not None and self.throttle < 1:
            raise ValueError(f"throttle is {self.throttle}, it must be 1 or more, or null")
        if self.max_requeues < 0:
            raise ValueError(f"max_requeues is {self.max_requeues}, it must be 0 or more")
        if self.signal_seconds < 1:
            raise ValueError(f"signal_seconds is {self.signal_seconds}, it must be 1 or more")
        for kind, resources in self.resources.items():
            if resources.time_min * 60 <= self.signal_seconds:
                raise ValueError(
                    f"signal_seconds is {self.signal_seconds}, not shorter than the walltime of {kind} "
                    f"({resources.time_min} min)"
                )
        _check_extra(self.extra)

    def resources_for(self, kind: str) -> Resources:
        """The resources of one element of ``kind``."""
        return self.resources.get(kind) or DEFAULT_RESOURCES.get(kind) or Resources()
