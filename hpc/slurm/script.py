"""From a job and its resources to the text that sbatch reads. Submitit writes the directives."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from hpc.config.cluster import ClusterConfig, Resources
from hpc.rundir import RunDir
from hpc.slurm.record import Chunk, array_spec, parse_spec

DEAF = "trap '' USR2"
"""The job's first line: told to go before it can listen it would die and count as failed; deaf it is
requeued at the end of its grace time. Python's handlers end the deafness."""


def plan_chunks(elements: Sequence[int], pack: int, max_array_size: int) -> list[Chunk]:
    """Spread elements over array jobs, each with indices below ``max_array_size``.

    Args:
        elements: positions in the job's manifest.
        pack: elements per array index.
        max_array_size: Slurm's limit: the largest index is one less.

    The chunks have no ids yet. Packed neighbours of a wanted element come with it.
    """
    tasks = sorted({element // pack for element in elements})
    return [
        Chunk(
            id="",
            offset=number * max_array_size * pack,
            tasks=array_spec([task - number * max_array_size for task in members]),
            pack=pack,
        )
        for number, members in groupby(tasks, key=lambda task: task // max_array_size)
    ]


def element_command(cluster: ClusterConfig, manifest: Path) -> list[str]:
    """The words that run one element; which one is told by ``--offset`` or ``--index``."""
    python = shlex.split(cluster.python) if cluster.python else [sys.executable]
    return [*python, "-P", "-m", "jobs", str(manifest)]


def batch_command(cluster: ClusterConfig, resources: Resources, manifest: Path, chunk: Chunk, *, srun: bool) -> str:
    """The last line of the batch script. ``exec``: the shell must not stand between Slurm's signals and us."""
    words = [*element_command(cluster, manifest), "--offset", str(chunk.offset)]
    if chunk.pack > 1:
        words += ["--pack", str(chunk.pack)]
    if srun or resources.nodes * resources.tasks_per_node > 1:
        options = ["--kill-on-bad-exit=1"] if cluster.kill_on_bad_exit else []
        words = ["srun", "--unbuffered", *options, *words]
    return "exec " + shlex.join(words)


def sbatch_options(
    name: str,
    cluster: ClusterConfig,
    resources: Resources,
    logs: Path,
    chunk: Chunk,
    *,
    throttle: int | None = None,
    dependency: str = "",
) -> dict[str, Any]:
    """Parameters of Submitit's SlurmExecutor. What we add ourselves goes through its
    ``additional_parameters``, which win over everything else."""
    own: dict[str, Any] = {
        "array": chunk.tasks + (f"%{throttle}" if throttle and throttle < len(parse_spec(chunk.tasks)) else ""),
        "output": f"{str(logs).replace('%', '%%')}/%A_%a.out",
        "requeue": True,
        "signal": f"B:USR2@{cluster.signal_seconds}",
    }
    site = {
        option.replace("-", "_"): value
        for option, value in {**cluster.extra, **resources.extra}.items()
        if value is not False
    }
    wanted: dict[str, Any] = {
        "job_name": name,
        "time": resources.time_min,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks_per_node if resources.nodes * resources.tasks_per_node > 1 else None,
        "cpus_per_task": resources.cpus,
        "gpus_per_node": resources.gpus or None,
        "mem": None if resources.mem_gb is None else f"{round(resources.mem_gb * 1024)}M",
        "partition": resources.partition or cluster.partition,
        "qos": resources.qos or cluster.qos,
        "account": cluster.account,
        "dependency": dependency or None,
        "wckey": None,
        "stderr_to_stdout": True,
        "use_srun": False,
        "setup": [DEAF, *cluster.setup],
        "additional_parameters": {**site, **own},
    }
    return {key: value for key, value in wanted.items() if value is not None or key == "wckey"}


def batch_script(options: dict[str, Any], command: str, folder: Path) -> str:
    """The whole script.

    Submitit's own command line unpickles a function per element; ours needs only the manifest, so
    that submitting a thousand elements costs what one sbatch costs.
    """
    import submitit

    class Script(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 2  # scripts can be written where no srun is installed

    executor = Script(folder)
    executor.update_parameters(**options)
    return str(executor._make_submission_file_text(command, uid=""))


def job_name(run: RunDir, job: str) -> str:
    """What squeue shows."""
    return f"{run.name}.{job}"
