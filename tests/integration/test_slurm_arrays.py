"""Arrays, chunks, dependencies, packing, refusals and running again, on a real Slurm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpc import slurm
from hpc.config.cluster import Resources
from hpc.core.errors import SubmissionError, UsageError
from hpc.rundir import RunDir
from hpc.slurm import Dependency, JobSpec
from hpc.slurm.elements import read_outcome
from tests.integration.slurm_cluster import DevSlurm, all_in, wait_for
from tests.integration.slurm_probe import KIND, events

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm-arrays")]


def probes(count: int, **payload: object) -> list[dict[str, object]]:
    return [{"name": "p", **payload} for _ in range(count)]


def test_an_array_larger_than_max_array_size_runs_every_element_once(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    job = slurm.submit(JobSpec("many", KIND, probes(20), throttle=5), slurm_cluster.config(), run_dir)

    assert len(job.ids) == 2
    assert json.loads(run_dir.jobs.read_bytes())["jobs"]["many"]["submissions"][0]["chunks"] == [
        {"id": job.ids[0], "offset": 0, "tasks": "0-9", "pack": 1},
        {"id": job.ids[1], "offset": 10, "tasks": "0-9", "pack": 1},
    ]
    elements = wait_for(run_dir, "many", all_in("DONE"))
    assert [element.index for element in elements] == list(range(20))
    assert {element.job_id for element in elements} == {f"{each}_{task}" for each in job.ids for task in range(10)}
    for index in range(20):
        assert [event["event"] for event in events(run_dir, "p", index)] == ["start"]
    assert {path.name for path in run_dir.job_logs("many").glob("*.out")} == {f"{e.job_id}.out" for e in elements}


def test_a_dependency_waits_for_every_chunk(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    config = slurm_cluster.config()
    # element 19 is in the second chunk, and held back until the others are long over
    first = slurm.submit(JobSpec("first", KIND, probes(20)), config, run_dir)
    slurm_cluster.call("scontrol", "hold", f"{first.ids[1]}_9")
    slurm.submit(JobSpec("second", KIND, probes(12, name="s"), after=[Dependency("first")]), config, run_dir)
    wait_for(run_dir, "first", lambda elements: sum(e.state == "DONE" for e in elements) == 19)
    waiting = slurm.states(run_dir, "second")
    assert {(e.state, e.reason) for e in waiting} == {("PENDING", "Dependency")}

    slurm_cluster.call("scontrol", "release", f"{first.ids[1]}_9")
    wait_for(run_dir, "second", all_in("DONE"))
    last = max(event["at"] for event in events(run_dir, "p", 19))
    assert all(events(run_dir, "s", index)[0]["at"] > last for index in range(12))


def test_a_job_behind_a_failed_one_is_reported_as_blocked(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    config = slurm_cluster.config()
    slurm.submit(JobSpec("bad", KIND, [{"act": "fail"}, {"act": "exit"}, {}]), config, run_dir)
    slurm.submit(JobSpec("behind", KIND, probes(1), after=[Dependency("bad", "afterok")]), config, run_dir)
    slurm.submit(JobSpec("anyway", KIND, probes(1), after=[Dependency("bad", "afterany")]), config, run_dir)

    elements = {
        (e.job, e.index): e for e in wait_for(run_dir, None, lambda es: all(e.state not in slurm.LIVE for e in es))
    }
    assert elements["bad", 0].state == "FAILED"
    assert elements["bad", 0].reason == "RuntimeError: told to fail"
    assert (elements["bad", 1].state, elements["bad", 1].exit) == ("FAILED", 3)
    assert elements["behind", 0].state == "BLOCKED"
    assert "DependencyNeverSatisfied" in elements["behind", 0].reason
    assert elements["anyway", 0].state == "DONE"

    # later, when the failure is known, such a job is not even taken
    with pytest.raises(SubmissionError, match="afterok of bad, which can never come"):
        slurm.submit(JobSpec("late", KIND, probes(1), after=[Dependency("bad", "afterok")]), config, run_dir)
    assert not slurm.is_recorded(run_dir, "late")
    # and what is blocked can be cancelled
    assert slurm.cancel(run_dir) == 1
    wait_for(run_dir, "behind", all_in("CANCELLED"))


def test_failed_elements_run_again_with_their_payloads(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    config = slurm_cluster.config()
    payloads = [{"name": "p", "act": "fail_once" if index in (3, 11) else "finish"} for index in range(12)]
    slurm.submit(JobSpec("mixed", KIND, payloads), config, run_dir)
    wait_for(run_dir, "mixed", all_in("DONE", "FAILED"))

    again = slurm.resubmit(run_dir, config, "mixed")
    assert (again.elements, len(again.ids)) == (2, 2)
    elements = wait_for(run_dir, "mixed", all_in("DONE"))
    assert [e.index for e in elements if e.job_id.split("_")[0] in again.ids] == [3, 11]
    assert [len(events(run_dir, "p", index)) for index in range(12)] == [1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 2]
    with pytest.raises(UsageError, match="nothing of mixed"):
        slurm.resubmit(run_dir, config, "mixed")


def test_packed_elements_share_a_job_and_fail_alone(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    config = slurm_cluster.config(elements_per_job=3)
    payloads = [{"name": "p"}, {"name": "p", "act": "again"}, {"name": "p", "act": "exit"}, {"name": "p"}]
    job = slurm.submit(JobSpec("packed", KIND, payloads), config, run_dir)

    elements = wait_for(run_dir, "packed", lambda es: all(e.state in ("DONE", "FAILED") for e in es))
    assert [e.state for e in elements] == ["DONE", "DONE", "FAILED", "DONE"]
    assert [e.job_id for e in elements] == [f"{job.ids[0]}_{task}" for task in (0, 0, 0, 1)]
    # the one that asked to be run again was, its neighbours that were over were not
    assert [len(events(run_dir, "p", index)) for index in range(4)] == [1, 2, 1, 1]
    assert "".join(slurm.tail_log(run_dir, "packed", 2)) == ""


def test_what_sbatch_refuses_is_said_in_its_words_with_the_fix(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    with pytest.raises(SubmissionError, match=r"(?i)invalid partition") as caught:
        slurm.submit(JobSpec("no", KIND, probes(1)), slurm_cluster.config(partition="nowhere"), run_dir)
    assert "cluster.partition" in caught.value.hint
    assert caught.value.exit_code == 4
    with pytest.raises(SubmissionError, match=r"(?i)node configuration"):
        spec = JobSpec("no", KIND, probes(1), resources=Resources(gpus=99))
        slurm.submit(spec, slurm_cluster.config(), run_dir)
    assert not slurm.is_recorded(run_dir, "no")


def test_a_job_is_submitted_whole_or_not_at_all(slurm_cluster: DevSlurm, run_dir: RunDir, tmp_path: Path) -> None:
    """The second chunk is refused: the first one is taken back."""
    import shutil

    real = shutil.which("sbatch")
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/sh\nif [ -e {tmp_path}/once ]; then echo "sbatch: error: told to refuse" >&2; exit 1; fi\n'
        f'touch {tmp_path}/once\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{wrapper.parent}:{__import__('os').environ['PATH']}")
        with pytest.raises(SubmissionError, match="told to refuse"):
            slurm.submit(JobSpec("half", KIND, probes(12, act="work")), slurm_cluster.config(), run_dir)
    assert not slurm.is_recorded(run_dir, "half")
    left = slurm_cluster.call("squeue", "--noheader", "--array", "--states=PENDING,RUNNING", "--name=tried.half")
    assert left == ""


def test_the_job_inherits_neither_the_submitters_slurm_variables_nor_secrets(
    slurm_cluster: DevSlurm, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "SBATCH_PARTITION": "nowhere",
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "64",
        "CUDA_VISIBLE_DEVICES": "5",
        "SQUEUE_FORMAT": "%i",
        "A_SECRET": "s3cret",
        "KEPT": "yes",
    }.items():
        monkeypatch.setenv(name, value)
    spec = JobSpec("clean", KIND, probes(1), hide_env=("A_SECRET",))
    slurm.submit(spec, slurm_cluster.config(), run_dir)
    wait_for(run_dir, "clean", all_in("DONE"))
    seen = set(events(run_dir, "p", 0)[0]["environment"])
    assert "KEPT" in seen
    assert not seen & {"A_SECRET", "CUDA_VISIBLE_DEVICES", "SBATCH_PARTITION", "SLURM_NTASKS", "SQUEUE_FORMAT"}


def test_many_processes_speak_with_one_voice_and_end_together(slurm_cluster: DevSlurm, run_dir: RunDir) -> None:
    resources = Resources(nodes=2, tasks_per_node=2, mem_gb=0.1, time_min=5)
    spec = JobSpec("wide", KIND, [{"name": "p"}, {"name": "p", "act": "fail_rank"}], resources=resources)
    slurm.submit(spec, slurm_cluster.config(), run_dir)
    elements = wait_for(run_dir, "wide", all_in("DONE", "FAILED"), 60)
    assert [e.state for e in elements] == ["DONE", "FAILED"]
    assert len(events(run_dir, "p", 0)) == 4
    outcome = read_outcome(run_dir, "wide", 0)
    assert outcome is not None
    assert outcome.state == "done"
