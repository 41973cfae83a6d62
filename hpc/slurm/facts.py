"""What cluster this is: its version, its limits, and how it preempts."""

from __future__ import annotations

import os
import re
import shutil
from functools import lru_cache
from typing import Literal

import msgspec

from hpc.config.cluster import ClusterConfig
from hpc.core.errors import SubmissionError
from hpc.slurm.commands import call, complaint

DEFAULT_MAX_ARRAY_SIZE = 1001
"""Slurm's own default, assumed where no cluster can be asked."""


class Partition(msgspec.Struct, frozen=True):
    """One partition."""

    name: str
    default: bool
    state: str
    nodes: int
    max_time: str
    preempt_mode: str
    grace_seconds: int


class ClusterFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster says of itself; ``available`` False: why not is in ``problem``."""

    available: bool
    problem: str = ""
    version: str = ""
    cluster: str = ""
    max_array_size: int = DEFAULT_MAX_ARRAY_SIZE
    accounting: bool = False
    """Whether sacct can answer."""
    preempt_mode: str = "OFF"
    preempt_user_signal: bool = False
    """Whether preemption sends the job's own signal (``preempt_send_user_signal``)."""
    requeue: bool = True
    kill_wait: int = 30
    """Seconds between SIGTERM and SIGKILL."""
    partitions: list[Partition] = []

    @property
    def needs_srun(self) -> bool:
        """Whether only processes of a step (started by srun) hear that their job is preempted.

        Without ``preempt_send_user_signal`` Slurm sends SIGTERM at the beginning of the grace
        time, to steps alone and not to the batch script.
        """
        ends_jobs = any(mode in self.preempt_mode for mode in ("REQUEUE", "CANCEL"))
        return ends_jobs and not self.preempt_user_signal


def parse_config(text: str) -> dict[str, str]:
    """Key -> value of ``scontrol show config``."""
    return dict(re.findall(r"^(\w+)\s+= (.*?)\s*$", text, flags=re.MULTILINE))


def parse_partitions(text: str) -> list[Partition]:
    """Partitions of ``scontrol --oneliner show partition``."""
    found = []
    for line in text.splitlines():
        fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
        if "PartitionName" in fields:
            grace = fields.get("GraceTime", "0")
            found.append(
                Partition(
                    name=fields["PartitionName"],
                    default=fields.get("Default") == "YES",
                    state=fields.get("State", ""),
                    nodes=int(fields.get("TotalNodes", "0")),
                    max_time=fields.get("MaxTime", ""),
                    preempt_mode=fields.get("PreemptMode", ""),
                    grace_seconds=int(grace) if grace.isdigit() else 0,
                )
            )
    return found


class _Silent(Exception):
    """The controller did not answer (not cached, unlike an answer)."""


@lru_cache(maxsize=4)
def _config_of(configuration: str | None) -> dict[str, str]:
    done = call("scontrol", "show", "config")
    config = parse_config(done.stdout)
    if done.returncode != 0 or "SLURM_VERSION" not in config:
        raise _Silent(complaint(done))
    return config


def forget() -> None:
    """Ask the cluster again next time: its configuration has changed."""
    _config_of.cache_clear()


def _facts(config: dict[str, str], partitions: list[Partition]) -> ClusterFacts:
    return ClusterFacts(
        available=True,
        version=config["SLURM_VERSION"],
        cluster=config.get("ClusterName", ""),
        max_array_size=int(config.get("MaxArraySize", DEFAULT_MAX_ARRAY_SIZE)),
        accounting=config.get("AccountingStorageType", "(null)") not in ("(null)", "accounting_storage/none"),
        preempt_mode=config.get("PreemptMode", "OFF"),
        preempt_user_signal="preempt_send_user_signal" in config.get("SlurmctldParameters", ""),
        requeue=config.get("JobRequeue", "1") != "0",
        kill_wait=int(config.get("KillWait", "30").split()[0]),
        partitions=partitions,
    )


def limits() -> ClusterFacts:
    """The cluster's facts without its partitions; asked once per process and cluster."""
    try:
        return _facts(_config_of(os.environ.get("SLURM_CONF")), [])
    except _Silent as silent:
        return ClusterFacts(available=False, problem=str(silent))


def cluster_facts() -> ClusterFacts:
    """All that the cluster says of itself; never raises."""
    if shutil.which("sbatch") is None:
        return ClusterFacts(available=False, problem="sbatch is not installed")
    facts = limits()
    if not facts.available:
        return facts
    partitions = parse_partitions(call("scontrol", "--oneliner", "show", "partition").stdout)
    return msgspec.structs.replace(facts, partitions=partitions)


def choose_executor(cluster: ClusterConfig) -> Literal["slurm", "local"]:
    """Where the jobs of ``cluster`` go. ``auto`` takes Slurm wherever one is configured.

    Raises:
        SubmissionError: a Slurm is configured but its controller does not answer. To start the
            jobs on the login node instead would be no favour.
    """
    if cluster.executor != "auto":
        return cluster.executor
    if shutil.which("sbatch") is None or call("sbatch", "--version", timeout=15).returncode != 0:
        return "local"
    ping = call("scontrol", "ping", timeout=15)
    if " is UP" not in ping.stdout:
        raise SubmissionError(
            f"a Slurm is configured here, but its controller does not answer: {complaint(ping)}",
            "try again later, or run on this machine with cluster=local",
        )
    return "slurm"
