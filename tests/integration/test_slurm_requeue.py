"""What may befall a running job, on a real Slurm: preemption, walltime, a lost node, an operator, scancel."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from hpc import slurm
from hpc.config.cluster import Resources
from hpc.rundir import RunDir
from hpc.slurm import ElementState, JobSpec
from tests.integration.slurm_cluster import DevSlurm, all_in, wait_for
from tests.integration.slurm_probe import KIND, events

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm-requeue")]

WORK = {"name": "p", "act": "work"}


def running(elements: list[ElementState]) -> bool:
    return bool(elements) and all(e.state == "RUNNING" and e.attempt == 1 for e in elements)


def started(run: RunDir, job: str = "job", name: str = "p") -> None:
    """Wait until the job is at work: its signals are handled from then on."""
    wait_for(run, job, lambda _elements: bool(events(run, name, 0)), 60)


def crowd_out(cluster: DevSlurm, seconds: int = 3) -> None:
    """A job of a higher partition that wants every core of every node."""
    words = ["--partition=main", "--nodes=4", "--exclusive", "--output=/dev/null", f"--wrap=sleep {seconds}"]
    cluster.call("sbatch", "--parsable", *words)


def life(run: RunDir, index: int = 0) -> list[tuple[str, int, str | None]]:
    return [(event["event"], event["restarts"], event["reason"]) for event in events(run, "p", index)]


def test_a_preempted_job_saves_leaves_early_and_goes_on(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    slurm.submit(JobSpec("job", KIND, [WORK]), slurm_cluster.config(partition="low"), run_dir)
    started(run_dir)
    crowd_out(slurm_cluster)

    waiting = wait_for(run_dir, "job", lambda es: es[0].state != "RUNNING")
    assert (waiting[0].state, waiting[0].gone) == ("REQUEUED", False)
    assert waiting[0].reason.startswith("preempt")
    done = wait_for(run_dir, "job", all_in("DONE"))
    assert done[0].attempt == 2
    assert life(run_dir) == [("start", 0, None), ("stop", 0, "preempt"), ("start", 1, None)]


def test_a_preempted_job_that_hears_nothing_is_requeued_by_slurm(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    """It is killed at the end of its grace time, and its second start finishes."""
    slurm_cluster.call("scontrol", "update", "PartitionName=low", "GraceTime=0")
    try:
        deaf = {"name": "p", "act": "deaf"}
        slurm.submit(JobSpec("job", KIND, [deaf]), slurm_cluster.config(partition="low"), run_dir)
        started(run_dir)
        crowd_out(slurm_cluster)
        wait_for(run_dir, "job", lambda es: es[0].state == "REQUEUED" or es[0].attempt == 2)
        wait_for(run_dir, "job", lambda es: len(events(run_dir, "p", 0)) == 2)
    finally:
        slurm_cluster.call("scontrol", "update", "PartitionName=low", "GraceTime=20")
    assert life(run_dir) == [("start", 0, None), ("start", 1, None)]


def test_a_job_near_its_walltime_saves_and_goes_on(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    config = slurm_cluster.config(time_min=1, signal_seconds=52)
    slurm.submit(JobSpec("job", KIND, [WORK]), config, run_dir)
    done = wait_for(run_dir, "job", all_in("DONE"))
    assert done[0].attempt == 2
    assert life(run_dir) == [("start", 0, None), ("stop", 0, "walltime"), ("start", 1, None)]
    first = events(run_dir, "p", 0)
    # in time: at least so many seconds were left as the configuration says, less what the news takes
    assert first[0]["end_time"] - first[1]["at"] > 40


def test_a_job_on_a_lost_node_starts_again_on_another(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    slurm.submit(JobSpec("job", KIND, [WORK]), slurm_cluster.config(), run_dir)
    started(run_dir)
    node = events(run_dir, "p", 0)[0]["node"]
    slurm_cluster.script("kill-node", node)
    try:
        requeued = wait_for(run_dir, "job", lambda es: es[0].state == "REQUEUED" or es[0].attempt == 2, 100)
        assert not requeued[0].gone
        wait_for(run_dir, "job", all_in("DONE"))
    finally:
        slurm_cluster.script("start-node", node)
    assert life(run_dir) == [("start", 0, None), ("start", 1, None)]
    assert events(run_dir, "p", 0)[1]["node"] != node


def test_an_operators_requeue_is_not_taken_for_a_cancellation(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    job = slurm.submit(JobSpec("job", KIND, [WORK]), slurm_cluster.config(), run_dir)
    started(run_dir)
    slurm_cluster.call("scontrol", "requeue", f"{job.ids[0]}_0")
    wait_for(run_dir, "job", all_in("DONE"))
    assert life(run_dir) == [("start", 0, None), ("stop", 0, "preempt"), ("start", 1, None)]


def test_scancel_is_not_requeued(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    """Neither an element that says so itself, nor one that asks to be run again all the same."""
    stubborn = {"name": "p", "act": "work", "on_cancel": 75}
    job = slurm.submit(JobSpec("job", KIND, [WORK, stubborn]), slurm_cluster.config(), run_dir)
    wait_for(run_dir, "job", running)
    wait_for(run_dir, "job", lambda _es: bool(events(run_dir, "p", 0)) and bool(events(run_dir, "p", 1)))
    slurm_cluster.call("scancel", job.ids[0])
    ended = wait_for(run_dir, "job", all_in("CANCELLED"))
    assert all(element.gone for element in ended)
    for index in (0, 1):
        assert life(run_dir, index) == [("start", 0, None), ("stop", 0, "cancel")]
    left = slurm_cluster.call("squeue", "--noheader", "--states=PENDING,RUNNING", "--job", job.ids[0])
    assert left == ""


def test_requeues_are_capped(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    again = {"name": "p", "act": "again", "starts": 9}
    slurm.submit(JobSpec("job", KIND, [again]), slurm_cluster.config(max_requeues=1), run_dir)
    ended = wait_for(run_dir, "job", all_in("FAILED"))
    assert "max_requeues is 1" in ended[0].reason
    assert life(run_dir) == [("start", 0, None), ("start", 1, None)]


def test_cancel_ends_what_runs_and_what_waits(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    spec = JobSpec("job", KIND, [WORK] * 12, throttle=1)
    slurm.submit(spec, slurm_cluster.config(), run_dir)
    slurm.submit(JobSpec("other", KIND, [WORK]), slurm_cluster.config(), run_dir)
    started(run_dir)
    assert slurm.cancel(run_dir, ["job"]) == 1
    wait_for(run_dir, "job", all_in("CANCELLED"))
    assert slurm.states(run_dir, "other")[0].state in slurm.LIVE
    assert slurm.cancel(run_dir) == 1
    wait_for(run_dir, None, all_in("CANCELLED"))
    assert slurm.cancel(run_dir) == 0


def test_a_killed_process_is_a_failure_though_it_says_nothing(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    slurm.submit(JobSpec("job", KIND, [WORK]), slurm_cluster.config(), run_dir)
    started(run_dir)
    os.kill(events(run_dir, "p", 0)[0]["pid"], signal.SIGKILL)
    ended = wait_for(run_dir, "job", lambda es: es[0].state not in slurm.LIVE)
    assert (ended[0].state, ended[0].gone) == ("FAILED", True)


def test_silence_of_the_controller_is_no_failure(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    slurm.submit(JobSpec("job", KIND, [{**WORK, "starts": 1}]), slurm_cluster.config(), run_dir)
    slurm.submit(JobSpec("long", KIND, [WORK]), slurm_cluster.config(), run_dir)
    wait_for(run_dir, "job", all_in("DONE"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", "/nonexistent/slurm.conf")
        finished, unknown = slurm.states(run_dir)
    assert finished.state == "DONE"  # it said so itself
    assert (unknown.state, unknown.gone) == ("UNKNOWN", False)
    assert unknown.reason.startswith("squeue does not answer")


@pytest.fixture
def sigterm_only(slurm_cluster: DevSlurm) -> Iterator[DevSlurm]:
    """A cluster whose preemption sends SIGTERM alone, and to steps alone (Slurm's default)."""
    from hpc.slurm.facts import forget

    text = slurm_cluster.conf.read_text()
    slurm_cluster.conf.write_text(text.replace("SlurmctldParameters=", "#SlurmctldParameters="))
    slurm_cluster.call("scontrol", "reconfigure")
    forget()
    try:
        yield slurm_cluster
    finally:
        slurm_cluster.conf.write_text(text)
        slurm_cluster.call("scontrol", "reconfigure")
        forget()


def test_preemption_by_sigterm_alone_is_heard_too(sigterm_only: DevSlurm, run_dir: RunDir) -> None:
    spec = JobSpec("job", KIND, [WORK], resources=Resources(time_min=10, mem_gb=0.1))
    assert "exec srun " in slurm.render(spec, sigterm_only.config(partition="low"), run_dir)[0]
    slurm.submit(spec, sigterm_only.config(partition="low"), run_dir)
    started(run_dir)
    crowd_out(sigterm_only)
    wait_for(run_dir, "job", all_in("DONE"))
    assert life(run_dir) == [("start", 0, None), ("stop", 0, "preempt"), ("start", 1, None)]


def test_packed_elements_hear_of_it_each(sigterm_only: DevSlurm, run_dir: RunDir) -> None:
    """Slurm signals every process of the step at once, the pool and its elements."""
    config = sigterm_only.config(partition="low", elements_per_job=2)
    slurm.submit(JobSpec("job", KIND, [WORK, WORK]), config, run_dir)
    wait_for(run_dir, "job", lambda _es: bool(events(run_dir, "p", 0)) and bool(events(run_dir, "p", 1)))
    crowd_out(sigterm_only)
    wait_for(run_dir, "job", all_in("DONE"))
    for index in (0, 1):
        assert life(run_dir, index) == [("start", 0, None), ("stop", 0, "preempt"), ("start", 1, None)]
