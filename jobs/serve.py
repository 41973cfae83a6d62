"""Serves one replica of a run's model server until the run is over or the allocation ends."""

from __future__ import annotations

import msgspec

from hpc.config.model import ModelConfig
from hpc.config.runtime import RuntimeConfig
from hpc.config.server import ServerConfig
from hpc.core.errors import ConfigError, ServingError
from hpc.rundir import RunDir
from hpc.serving.supervisor import Supervisor
from hpc.slurm import REQUEUE, Allocation


class ServeJob(msgspec.Struct, frozen=True):
    """One replica of the server called ``server``."""

    server: str
    replica: int

    def __call__(self, run: RunDir, allocation: Allocation) -> int:
        """0 when the run is over or was cancelled, `REQUEUE` when the node must be given back.

        Raises:
            ConfigError: the run has no such server.
            ServingError: the server could not be started or kept alive.
        """
        config = run.read_config()
        server = msgspec.convert(config["server"], ServerConfig)
        if server.name != self.server:
            raise ConfigError(f"run {run.name} has server {server.name!r}, not {self.server!r}", "launch it again")
        supervisor = Supervisor(
            run,
            self.replica,
            server=server,
            model=msgspec.convert(config["model"], ModelConfig),
            runtime=msgspec.convert(config["runtime"], RuntimeConfig),
            job_id=allocation.job_id,
            local=allocation.backend == "local",
        )
        allocation.on_stop(supervisor.stop)
        outcome = supervisor.run()
        if outcome == "failed":
            raise ServingError(
                f"server {self.server}/{self.replica} failed: {supervisor.reason}", f"its log: {supervisor.log_path}"
            )
        return REQUEUE if outcome == "stopped" and allocation.stop_reason in ("preempt", "walltime") else 0
