"""Jobs as processes of this machine: the same manifest and the same elements, started by Submitit's
LocalExecutor, living on when whoever submitted them has gone."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from hpc.config.cluster import ClusterConfig
from hpc.core.ids import new_id
from hpc.core.logs import setup_logging
from hpc.rundir import RunDir
from hpc.slurm.commands import clean_environment
from hpc.slurm.dependencies import Verdict, judge
from hpc.slurm.elements import Outcome, write_outcome
from hpc.slurm.jobspec import Dependency, JobSpec
from hpc.slurm.pool import ElementPool, die_with_parent
from hpc.slurm.record import Chunk, Submission, array_spec
from hpc.slurm.script import element_command
from hpc.slurm.states import states

POLL_SECONDS = 0.5

NO_LIMIT_MIN = 10 * 365 * 24 * 60
"""Submitit's local controller ends a job after its time; ours have none."""


def width(elements: int, throttle: int | None) -> int:
    """How many elements run at the same time: the throttle, else four, or two per core."""
    return min(elements, throttle or max(4, 2 * (os.cpu_count() or 1)))


def start(spec: JobSpec, cluster: ClusterConfig, run: RunDir, elements: Sequence[int]) -> Submission:
    """Start one detached process that sees the elements through, and return."""
    job_id = new_id("local")
    plan = Plan(
        run=str(run.root),
        job=spec.name,
        job_id=job_id,
        elements=list(elements),
        width=width(len(elements), spec.throttle),
        command=_with_setup(cluster, element_command(cluster, run.elements(spec.name))),
        after=list(spec.after),
    )
    executor = _executor(run.job_logs(spec.name) / "launcher", cluster, clean_environment(os.environ, spec.hide_env))
    job = executor.submit(run_plan, plan)
    pid = int(job.job_id)
    try:
        started = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        started = time.time()  # it has ended already
    return Submission(
        backend="local",
        at=time.time(),
        chunks=[Chunk(id=job_id, offset=0, tasks=array_spec(elements))],
        after=[{"job": each.job, "kind": each.kind} for each in spec.after],
        host=os.uname().nodename,
        pid=pid,
        process_started=started,
    )


def _with_setup(cluster: ClusterConfig, command: list[str]) -> list[str]:
    """The command behind the site's setup lines; ``"$@"`` is what follows (which element)."""
    if not cluster.setup:
        return command
    return ["bash", "-c", "\n".join([*cluster.setup, f'exec {shlex.join(command)} "$@"']), "element"]


def _executor(folder: Path, cluster: ClusterConfig, environment: dict[str, str]) -> Any:
    """Submitit's LocalExecutor, but its controller has a session of its own, no terminal and a clean
    environment: closing the terminal or Ctrl-C in it does not reach the jobs."""
    import submitit

    python = shlex.split(cluster.python) if cluster.python else [sys.executable]

    class Detached(submitit.LocalExecutor):
        def _submit_command(self, command: str) -> Any:
            argv = [*python, "-P", "-m", "submitit.local._local", str(self.folder)]
            settings = {
                "SUBMITIT_LOCAL_NTASKS": "1",
                "SUBMITIT_LOCAL_COMMAND": command,
                "SUBMITIT_LOCAL_TIMEOUT_S": str(NO_LIMIT_MIN * 60),
                "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "0",
                "SUBMITIT_LOCAL_NODEID": "0",
                "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
                "SUBMITIT_LOCAL_WITH_SHELL": "",
                "SUBMITIT_STDERR_TO_STDOUT": "1",
                "SUBMITIT_EXECUTOR": "local",
            }
            pid = os.posix_spawnp(
                argv[0],
                argv,
                {**environment, **settings},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
            )
            return submitit.LocalJob(folder=self.folder, job_id=str(pid), tasks=[0])

    return Detached(folder, python=f"{shlex.join(python)} -P")


# ---- in the detached process ------------------------------------------------------------------


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All that the detached process is told; the elements themselves are in the manifest."""

    run: str
    job: str
    job_id: str
    elements: list[int]
    width: int
    command: list[str]
    after: list[Dependency]


def run_plan(plan: Plan) -> None:
    """Wait for what the job depends on, then see its elements through."""
    setup_logging(1)
    die_with_parent(os.getppid())
    run = RunDir(Path(plan.run))
    pool = ElementPool(
        run,
        plan.job,
        command=plan.command,
        job_id=lambda index: f"{plan.job_id}_{index}",
        log=lambda index: run.job_logs(plan.job) / f"{plan.job_id}_{index}.out",
        environment=clean_environment(os.environ),
        width=plan.width,
        again=True,
    )
    signal.signal(signal.SIGTERM, lambda _signal, _frame: pool.stop("cancel"))
    signal.signal(signal.SIGUSR2, lambda _signal, _frame: pool.stop("preempt"))
    if _await(plan.after, run, pool) == "never":
        waited = ", ".join(f"{each.kind} of {each.job}" for each in plan.after)
        for index in plan.elements:
            blocked = Outcome(
                state="blocked",
                attempt=0,
                job_id=f"{plan.job_id}_{index}",
                error=f"waits for {waited}, which never came",
            )
            write_outcome(run, plan.job, index, blocked)
        return
    pool.run(plan.elements)


def _await(after: Sequence[Dependency], run: RunDir, pool: ElementPool) -> Verdict:
    """Wait until all conditions are met, one never can be, or the job is cancelled."""
    while not pool.cancelled.is_set():
        verdicts = {judge(each.kind, states(run, each.job)) for each in after}
        if "never" in verdicts:
            return "never"
        if verdicts <= {"met"}:
            break
        pool.cancelled.wait(POLL_SECONDS)
    return "met"
