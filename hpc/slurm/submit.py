"""Submitting, running again and cancelling the jobs of a run."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Sequence

import msgspec

from hpc.config.cluster import ClusterConfig, Resources
from hpc.core import files
from hpc.core.errors import SubmissionError, UsageError
from hpc.core.interrupts import deferred
from hpc.rundir import RunDir, make_folder
from hpc.slurm import local, localstate
from hpc.slurm.commands import call, complaint
from hpc.slurm.dependencies import judge
from hpc.slurm.elements import LIVE, ElementState, is_settled, unsure
from hpc.slurm.facts import choose_executor, limits
from hpc.slurm.jobspec import Dependency, JobSpec, SubmittedJob
from hpc.slurm.record import (
    Chunk,
    JobRecord,
    Submission,
    array_spec,
    locked,
    read_record,
    with_submission,
    write_record,
)
from hpc.slurm.script import batch_command, batch_script, element_command, job_name, plan_chunks, sbatch_options
from hpc.slurm.states import states

FIXES = {
    "invalid partition": "set cluster.partition to one that `sinfo` lists",
    "invalid account": "set cluster.account to one of yours (`sacctmgr show associations user=$USER`)",
    "invalid qos": "set cluster.qos to one of yours (`sacctmgr show associations user=$USER`)",
    "memory specification": "lower mem_gb of this kind in cluster.resources",
    "node configuration is not available": "ask for less in cluster.resources, or for another partition",
    "time limit": "lower time_min of this kind in cluster.resources",
    "array specification": "the cluster's MaxArraySize has changed; repeat the command",
    "unrecognized option": "remove that option from cluster.extra",
    "invalid option": "remove that option from cluster.extra",
    "limit": "wait until some of your jobs have ended, or submit fewer elements",
    "unable to contact": "the controller does not answer; try again later",
    "did not answer": "the controller does not answer; try again later",
    "not installed": "run this on a login node, or with cluster=local",
    "no such file": "run this on a login node, or with cluster=local",
    "configuration source": "run this on a login node, or with cluster=local",
}
"""Part of sbatch's complaint -> how to mend it; the first that fits."""


def submit(spec: JobSpec, cluster: ClusterConfig, run: RunDir) -> SubmittedJob:
    """Submit all elements of a job and return at once; every id is kept in the run's jobs.json.

    Raises:
        SubmissionError: the scheduler refused it. Nothing of the job is left in the queue then.
    """
    shutil.rmtree(run.element_results(spec.name), ignore_errors=True)  # outcomes of an earlier submission
    job = JobRecord(
        kind=spec.kind,
        elements=len(spec.payloads),
        resources=spec.resources,
        throttle=spec.throttle,
        hide_env=list(spec.hide_env),
    )
    _write_manifest(spec, cluster, run)
    return _submit_elements(spec, cluster, run, job, range(len(spec.payloads)))


def resubmit(run: RunDir, cluster: ClusterConfig, job: str, indices: Sequence[int] | None = None) -> SubmittedJob:
    """Run elements of a submitted job again, with the payloads they had.

    Args:
        indices: which; None: all that failed, were cancelled or are missing. The job's
            dependencies are not repeated: it has been started before.

    Raises:
        UsageError: the job is unknown, nothing is to be run again, or an element is still alive.
        SubmissionError: the scheduler refused it, or nobody can say whether an element is alive.
    """
    record = read_record(run).jobs.get(job)
    if record is None:
        raise UsageError(f"{run.name} has no job {job!r}", "`hpc run status` lists its jobs")
    known = {element.index: element for element in states(run, job)}
    wanted = [i for i, e in known.items() if e.state not in LIVE and e.state != "DONE"] if indices is None else indices
    if not wanted:
        raise UsageError(f"nothing of {job} in {run.name} is to be run again")
    for index in wanted:
        if index not in known:
            raise UsageError(f"{job} has no element {index}", f"it has {record.elements}, counted from 0")
        if known[index].state in LIVE:
            raise UsageError(
                f"element {index} of {job} is still {known[index].state}",
                f"cancel it first: hpc run cancel {run.name} {job}",
            )
    if unknown := unsure(known[index] for index in wanted):
        which = array_spec(element.index for element in unknown)
        raise SubmissionError(
            f"the state of {job} {which} is unknown: {unknown[0].reason}",
            "repeat the command when the scheduler answers, or on the machine that runs it",
        )
    blocked = [known[index] for index in wanted if known[index].state == "BLOCKED" and not known[index].gone]
    _scancel([element.job_id for element in blocked])
    spec = JobSpec(
        name=job,
        kind=record.kind,
        payloads=files.read_json(run.elements(job))["payloads"],
        resources=record.resources,
        throttle=record.throttle,
        hide_env=tuple(record.hide_env),
    )
    for index in wanted:
        run.element_result(job, index).unlink(missing_ok=True)
    _write_manifest(spec, cluster, run)  # the cluster's limits may be others now
    return _submit_elements(spec, cluster, run, record, wanted)


def render(spec: JobSpec, cluster: ClusterConfig, run: RunDir) -> list[str]:
    """The exact script of every array chunk, as `submit` would send it; touches nothing.

    Dependencies show the other job's name where its ids will stand.
    """
    if choose_executor(cluster) == "local":
        return [_local_script(spec, cluster, run)]
    resources = spec.resources or cluster.resources_for(spec.kind)
    chunks = plan_chunks(range(len(spec.payloads)), resources.elements_per_job, limits().max_array_size)
    dependency = ",".join(f"{each.kind}:<{each.job}>" for each in spec.after)
    return [_script(spec, cluster, run, resources, chunk, dependency) for chunk in chunks]


def cancel(run: RunDir, jobs: Sequence[str] | None = None) -> int:
    """Cancel what is alive of the named jobs (of all without names); how many jobs that were.

    Raises:
        UsageError: no such job.
        SubmissionError: scancel failed, or elements run on another machine, where alone they can be
            cancelled; the others are cancelled then.
    """
    with locked(run):
        record = read_record(run)
        for name in jobs or ():
            if name not in record.jobs:
                raise UsageError(f"{run.name} has no job {name!r}", "`hpc run status` lists its jobs")
        wanted = set(record.jobs if jobs is None else jobs)
        living = [e for e in states(run) if e.job in wanted and (e.state == "BLOCKED" or not is_settled(e))]
        _scancel(sorted({element.job_id.split("_")[0] for element in living if element.backend == "slurm"}))
        for name in {element.job for element in living}:
            job = record.jobs[name]
            ended = [msgspec.structs.replace(each, cancelled=_end(each, living)) for each in job.submissions]
            changed = {**record.jobs, name: msgspec.structs.replace(job, submissions=ended)}
            record = msgspec.structs.replace(record, jobs=changed)
        if living:
            write_record(run, record)
    if elsewhere := [element for element in unsure(living) if element.backend == "local"]:
        names = ", ".join(sorted({element.job for element in elsewhere}))
        hosts = ", ".join(sorted({element.host for element in elsewhere}))
        raise SubmissionError(
            f"{names} of {run.name} cannot be cancelled from here: it runs on {hosts}",
            f"give the same command on {hosts}",
        )
    return len({element.job for element in living})


def is_recorded(run: RunDir, job: str) -> bool:
    """Whether the job was ever submitted for this run."""
    return job in read_record(run).jobs


# ---- parts ------------------------------------------------------------------------------------


def _write_manifest(spec: JobSpec, cluster: ClusterConfig, run: RunDir) -> None:
    config_hash = files.read_json(run.config)["hash"] if run.config.exists() else ""
    manifest = {
        "kind": spec.kind,
        "run": str(run.root),
        "config_hash": config_hash,
        "max_requeues": cluster.max_requeues,
        "signal_seconds": cluster.signal_seconds,
        "payloads": spec.payloads,
    }
    files.write_bytes(run.elements(spec.name), msgspec.json.encode(manifest) + b"\n", durable=False)


def _submit_elements(
    spec: JobSpec, cluster: ClusterConfig, run: RunDir, job: JobRecord, elements: Sequence[int]
) -> SubmittedJob:
    backend = choose_executor(cluster)
    make_folder(run.job_logs(spec.name))  # Slurm does not make it, the job would vanish
    with locked(run), deferred():  # a job that is submitted but not recorded would be nobody's
        record = read_record(run)
        if backend == "slurm":
            submission = _to_slurm(spec, cluster, run, elements)
        else:
            submission = _to_machine(spec, cluster, run, elements)
        write_record(run, with_submission(record, spec.name, job, submission))
    count = len(list(elements))
    return SubmittedJob(name=spec.name, backend=backend, ids=[chunk.id for chunk in submission.chunks], elements=count)


def _to_machine(spec: JobSpec, cluster: ClusterConfig, run: RunDir, elements: Sequence[int]) -> Submission:
    try:
        return local.start(spec, cluster, run, elements)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        raise SubmissionError(
            f"cannot start {spec.name} on this machine: {what}",
            "see that cluster.python exists and that the run directory can be written",
        ) from error


def _to_slurm(spec: JobSpec, cluster: ClusterConfig, run: RunDir, elements: Sequence[int]) -> Submission:
    resources = spec.resources or cluster.resources_for(spec.kind)
    dependency = _dependency(spec.after, run)
    chunks: list[Chunk] = []
    for chunk in plan_chunks(elements, resources.elements_per_job, limits().max_array_size):
        script = _script(spec, cluster, run, resources, chunk, dependency)
        done = call("sbatch", "--parsable", text=script, timeout=120, hide=spec.hide_env)
        job_id = done.stdout.strip().split(";")[0]
        if done.returncode != 0 or not job_id.isdigit():
            if chunks:  # a job is submitted whole or not at all
                call("scancel", *(earlier.id for earlier in chunks))
            raise _refused(spec.name, complaint(done))
        chunks.append(msgspec.structs.replace(chunk, id=job_id))
    after = [{"job": each.job, "kind": each.kind} for each in spec.after]
    return Submission(backend="slurm", at=time.time(), chunks=chunks, after=after, host=os.uname().nodename)


def _script(
    spec: JobSpec, cluster: ClusterConfig, run: RunDir, resources: Resources, chunk: Chunk, dependency: str
) -> str:
    options = sbatch_options(
        job_name(run, spec.name),
        cluster,
        resources,
        run.job_logs(spec.name),
        chunk,
        throttle=spec.throttle,
        dependency=dependency,
    )
    srun = limits().needs_srun if cluster.srun is None else cluster.srun
    command = batch_command(cluster, resources, run.elements(spec.name), chunk, srun=srun)
    return batch_script(options, command, run.job_logs(spec.name))


def _local_script(spec: JobSpec, cluster: ClusterConfig, run: RunDir) -> str:
    width = local.width(len(spec.payloads), spec.throttle)
    return "\n".join(
        [
            "#!/bin/bash",
            f"# local: the elements {array_spec(range(len(spec.payloads)))} of {spec.name}, {width} at a time",
            *(f"# {each.kind} {each.job}" for each in spec.after),
            *cluster.setup,
            f"exec {shlex.join(element_command(cluster, run.elements(spec.name)))} --in-pool PID --index INDEX",
            "",
        ]
    )


def _refused(job: str, words: str) -> SubmissionError:
    fix = next((fix for part, fix in FIXES.items() if part in words.lower()), "see `hpc doctor`")
    return SubmissionError(f"sbatch refused {job}: {words}", fix)


def _dependency(after: Sequence[Dependency], run: RunDir) -> str:
    """Slurm's words for the jobs to wait for: the ids of all their chunks.

    What has ended already is judged here: Slurm forgets it after MinJobAge and would then take
    any condition for fulfilled.
    """
    conditions = []
    for each in after:
        elements = states(run, each.job)
        verdict = judge(each.kind, elements)
        if verdict == "never":
            raise SubmissionError(
                f"the job waits for {each.kind} of {each.job}, which can never come",
                f"see `hpc run status {run.name} {each.job}`; run its failed elements again first",
            )
        if verdict == "met":
            continue
        if any(element.backend == "local" for element in elements if element.state in LIVE):
            raise SubmissionError(
                f"a Slurm job cannot wait for {each.job}, which runs on this machine",
                "submit both with the same cluster.executor",
            )
        ids = sorted({element.job_id.split("_")[0] for element in elements if not element.gone}, key=int)
        conditions.append(":".join([each.kind, *ids]))
    return ",".join(conditions)


def _end(submission: Submission, living: Sequence[ElementState]) -> bool:
    """Whether the submission is cancelled now (or was before); local processes are told to end."""
    if submission.backend == "local":
        return localstate.end(submission) or submission.cancelled
    ids = {chunk.id for chunk in submission.chunks}
    return submission.cancelled or any(element.job_id.split("_")[0] in ids for element in living)


def _scancel(ids: Sequence[str]) -> None:
    """Cancel array jobs, or elements of them (``123_4``).

    Raises:
        SubmissionError: scancel failed otherwise than by finding them over.
    """
    if not ids:
        return
    done = call("scancel", *ids, timeout=60)
    if done.returncode != 0 and "invalid job id" not in complaint(done).lower():
        raise SubmissionError(f"scancel failed: {complaint(done)}", "try again later")
