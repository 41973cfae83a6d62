"""The local executor: the same manifest, jobs and states, as processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hpc import slurm
from hpc.config.cluster import ClusterConfig
from hpc.core.errors import UsageError
from hpc.rundir import RunDir
from hpc.slurm import Dependency, JobSpec
from tests.integration.slurm_cluster import REPOSITORY, all_in, eventually, run_dir, wait_for
from tests.integration.slurm_probe import KIND, events

__all__ = ["run_dir"]

LOCAL = ClusterConfig(executor="local")
WORK = {"name": "p", "act": "work"}


@pytest.fixture(autouse=True)
def _nothing_left(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    yield
    slurm.cancel(run_dir)
    eventually(lambda: not living(run_dir))


def living(run: RunDir) -> list[psutil.Process]:
    """Processes that name the run directory in their command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(run.root) in word for word in words):
            found.append(process)
    return found


def at_work(run: RunDir, index: int = 0, name: str = "p") -> None:
    eventually(lambda: bool(events(run, name, index)))


def test_every_element_runs_as_on_slurm(run_dir: RunDir) -> None:
    payloads = [{"name": "p", "act": act} for act in ("finish", "fail", "exit", "again")]
    job = slurm.submit(JobSpec("job", KIND, payloads), LOCAL, run_dir)
    elements = wait_for(run_dir, "job", all_in("DONE", "FAILED"))
    assert [e.state for e in elements] == ["DONE", "FAILED", "FAILED", "DONE"]
    assert [e.attempt for e in elements] == [1, 1, 1, 2]
    assert elements[1].reason == "RuntimeError: told to fail"
    assert elements[2].exit == 3
    assert [e.job_id for e in elements] == [f"{job.ids[0]}_{index}" for index in range(4)]
    assert {event["backend"] for event in events(run_dir, "p", 0)} == {"local"}
    assert "told to fail" in "".join(slurm.tail_log(run_dir, "job", 1))


def test_no_more_elements_at_once_than_the_throttle_says(run_dir: RunDir) -> None:
    payloads = [{"name": "p", "act": "deaf", "seconds": 0.5} for _ in range(6)]
    slurm.submit(JobSpec("job", KIND, payloads, throttle=2), LOCAL, run_dir)
    wait_for(run_dir, "job", all_in("DONE"))
    spans = [(e[0]["at"], e[1]["at"]) for e in (events(run_dir, "p", index) for index in range(6))]
    together = max(sum(start <= other < end for start, end in spans) for other, _ in spans)
    assert together <= 2


def test_a_job_outlives_the_process_and_the_terminal_that_submitted_it(run_dir: RunDir) -> None:
    """The submitter's whole process group gets Ctrl-C and its output is closed; the job goes on."""
    script = (
        "import sys, os, signal; from pathlib import Path; from hpc import slurm; from hpc.rundir import RunDir\n"
        "from hpc.config.cluster import ClusterConfig\n"
        f"spec = slurm.JobSpec('job', {KIND!r}, [{WORK!r}])\n"
        f"slurm.submit(spec, ClusterConfig(executor='local'), RunDir(Path({str(run_dir.root)!r})))\n"
        "print('submitted', flush=True); os.killpg(0, signal.SIGINT)"
    )
    submitter = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, start_new_session=True, timeout=60
    )
    assert submitter.stdout == "submitted\n"  # its pipe was closed by its end: the job does not hold it
    at_work(run_dir)
    assert slurm.states(run_dir)[0].state == "RUNNING"
    # ... and is cancelled from here, another process
    assert slurm.cancel(run_dir) == 1
    wait_for(run_dir, "job", all_in("CANCELLED"))
    assert [(event["event"], event["reason"]) for event in events(run_dir, "p", 0)] == [
        ("start", None),
        ("stop", "cancel"),
    ]


def test_cancelling_reaches_what_runs_and_what_waits(run_dir: RunDir) -> None:
    slurm.submit(JobSpec("job", KIND, [WORK] * 3, throttle=1), LOCAL, run_dir)
    at_work(run_dir)
    assert [e.state for e in slurm.states(run_dir)][1:] == ["PENDING", "PENDING"]
    slurm.cancel(run_dir)
    wait_for(run_dir, "job", all_in("CANCELLED"))
    wait_for(run_dir, "job", lambda elements: all(element.gone for element in elements))  # its last lines are written
    assert events(run_dir, "p", 1) == []


def test_a_saved_element_goes_on_after_a_preemption_signal(run_dir: RunDir) -> None:
    slurm.submit(JobSpec("job", KIND, [WORK]), LOCAL, run_dir)
    at_work(run_dir)
    os.kill(events(run_dir, "p", 0)[0]["pid"], signal.SIGUSR2)
    wait_for(run_dir, "job", all_in("DONE"))
    assert [(e["event"], e["restarts"], e["reason"]) for e in events(run_dir, "p", 0)] == [
        ("start", 0, None),
        ("stop", 0, "preempt"),
        ("start", 1, None),
    ]


def test_requeues_are_capped(run_dir: RunDir) -> None:
    payload = {"name": "p", "act": "again", "starts": 9}
    slurm.submit(JobSpec("job", KIND, [payload]), ClusterConfig(executor="local", max_requeues=2), run_dir)
    element = wait_for(run_dir, "job", all_in("FAILED"))[0]
    assert "max_requeues is 2" in element.reason
    assert len(events(run_dir, "p", 0)) == 3


def test_a_killed_element_is_a_failure_and_the_others_go_on(run_dir: RunDir) -> None:
    slurm.submit(JobSpec("job", KIND, [WORK, {"name": "p"}], throttle=1), LOCAL, run_dir)
    at_work(run_dir)
    os.kill(events(run_dir, "p", 0)[0]["pid"], signal.SIGKILL)
    killed, other = wait_for(run_dir, "job", all_in("DONE", "FAILED"))
    assert (killed.state, killed.reason) == ("FAILED", "killed by SIGKILL")
    assert other.state == "DONE"


def test_no_process_survives_the_loss_of_the_launcher(run_dir: RunDir) -> None:
    """kill -9 of the process that sees the elements through: they save and go, nothing is an orphan."""
    slurm.submit(JobSpec("job", KIND, [WORK, WORK]), LOCAL, run_dir)
    at_work(run_dir, 0)
    at_work(run_dir, 1)
    os.kill(json.loads(run_dir.jobs.read_bytes())["jobs"]["job"]["submissions"][0]["pid"], signal.SIGKILL)
    eventually(lambda: not living(run_dir))
    assert all(element.gone and element.state in ("CANCELLED", "FAILED") for element in slurm.states(run_dir))

    again = slurm.resubmit(run_dir, LOCAL, "job")
    assert again.elements == 2
    eventually(lambda: len(events(run_dir, "p", 0)) >= 3)
    assert slurm.states(run_dir)[0].job_id == f"{again.ids[0]}_0"


def test_dependencies_hold_and_block(run_dir: RunDir) -> None:
    slurm.submit(JobSpec("first", KIND, [{"name": "p", "act": "work"}, {"act": "fail"}]), LOCAL, run_dir)
    slurm.submit(JobSpec("never", KIND, [{"name": "n"}], after=[Dependency("first", "afterok")]), LOCAL, run_dir)
    slurm.submit(JobSpec("after", KIND, [{"name": "a"}], after=[Dependency("first", "afterany")]), LOCAL, run_dir)
    assert wait_for(run_dir, "never", all_in("BLOCKED"))[0].reason == "waits for afterok of first, which never came"
    at_work(run_dir)
    assert slurm.states(run_dir, "after")[0].state == "PENDING"
    slurm.cancel(run_dir, ["first"])
    wait_for(run_dir, "after", all_in("DONE"))
    assert events(run_dir, "n", 0) == []


def test_setup_lines_and_hidden_variables(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "s3cret")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    config = ClusterConfig(executor="local", setup=["export FROM_SETUP='a b'"])
    slurm.submit(JobSpec("job", KIND, [{"name": "p"}], hide_env=("A_SECRET",)), config, run_dir)
    wait_for(run_dir, "job", all_in("DONE"))
    seen = set(events(run_dir, "p", 0)[0]["environment"])
    assert "FROM_SETUP" in seen
    assert not seen & {"A_SECRET", "SLURM_JOB_ID", "SUBMITIT_EXECUTOR"}
    assert events(run_dir, "p", 0)[0]["backend"] == "local"


def test_a_broken_interpreter_is_reported(run_dir: RunDir) -> None:
    config = ClusterConfig(executor="local", setup=["exit 9"])
    slurm.submit(JobSpec("job", KIND, [{}]), config, run_dir)
    element = wait_for(run_dir, "job", all_in("FAILED"))[0]
    assert "ended with exit status 9" in element.reason


def test_running_again_is_refused_while_it_lives(run_dir: RunDir) -> None:
    slurm.submit(JobSpec("job", KIND, [WORK]), LOCAL, run_dir)
    at_work(run_dir)
    with pytest.raises(UsageError, match="still RUNNING"):
        slurm.resubmit(run_dir, LOCAL, "job", [0])
    with pytest.raises(UsageError, match="no job 'jobs'"):
        slurm.resubmit(run_dir, LOCAL, "jobs")
    with pytest.raises(UsageError, match="no job 'jobs'"):
        slurm.cancel(run_dir, ["jobs"])


def test_an_unknown_kind_fails_with_the_reason_in_the_log(run_dir: RunDir) -> None:
    slurm.submit(JobSpec("job", "no-such-kind", [{}]), LOCAL, run_dir)
    wait_for(run_dir, "job", all_in("FAILED"))
    assert "unknown job kind 'no-such-kind'" in "".join(slurm.tail_log(run_dir, "job", 0))


def test_following_a_log_ends_with_the_element(run_dir: RunDir) -> None:
    slurm.submit(JobSpec("job", KIND, [{"name": "p", "act": "again"}]), LOCAL, run_dir)
    assert "element" not in "".join(slurm.tail_log(run_dir, "job", 0, follow=True))
    assert slurm.states(run_dir)[0].state == "DONE"


def test_the_pickle_holds_no_payload(run_dir: RunDir) -> None:
    slurm.submit(JobSpec("job", KIND, [{**WORK, "name": "needle"}] * 50, throttle=1), LOCAL, run_dir)
    at_work(run_dir, name="needle")
    (pickle,) = Path(run_dir.job_logs("job") / "launcher").glob("*_submitted.pkl")
    assert b"needle" not in pickle.read_bytes()
