"""The main job on a real Slurm cluster: sixteen episodes, some preempted, some on a node that dies."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.learning_chain import learn
from tests.integration.slurm_cluster import DevSlurm
from tests.integration.whole_job import WholeJob, check_trajectory, stub_runtime, until, whole_job

EPISODES = 16

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900), pytest.mark.xdist_group("slurm-episodes")]


def placed(cluster: DevSlurm) -> dict[str, str]:
    """Slurm's id of each running array element or job -> its node."""
    lines = cluster.call("squeue", "-h", "-r", "-t", "R", "-o", "%i %N").splitlines()
    return {words[0]: words[1] for words in map(str.split, lines) if len(words) == 2}


def slurm_id(job: WholeJob, index: int) -> str:
    """The Slurm id of the element that plays an episode, as its first attempt recorded it."""
    return str(json.loads((job.run.root / "elements" / "episodes" / f"{index}.json").read_text())["job_id"])


def node_of(job: WholeJob, cluster: DevSlurm, index: int) -> str:
    return placed(cluster).get(slurm_id(job, index), "")


@pytest.mark.vllm
def test_sixteen_episodes_survive_preemption_and_a_lost_node(slurm_cluster: DevSlurm, tmp_path: Path) -> None:
    """The real vLLM with the shipped policy as one of the jobs; a job of a higher partition takes one
    node from the episodes, another node dies."""
    with whole_job(tmp_path, "sixteen", EPISODES) as job:
        job.hpc(
            "episodes", "submit", "cluster=dev", *job.overrides(EPISODES),
            "cluster.resources.episode.partition=low", "task.seconds_per_run=0.7", "router.grace_seconds=5",
        )  # fmt: skip
        jobs = json.loads(job.run.jobs.read_text())
        services = _nodes_of_services(job, slurm_cluster)

        moved = until(lambda: _victim(job, slurm_cluster, set(), services), "an episode with guidance, running")
        step_moved = job.progress(moved)["step"]
        node_moved = node_of(job, slurm_cluster, moved)
        slurm_cluster.call(
            "sbatch", "--partition=main", f"--nodelist={node_moved}", "--exclusive", "--output=/dev/null",
            "--wrap=sleep 2",
        )  # fmt: skip

        lost = until(lambda: _victim(job, slurm_cluster, {moved}, services | {node_moved}), "one on another node")
        step_lost = job.progress(lost)["step"]
        node = node_of(job, slurm_cluster, lost)
        slurm_cluster.script("kill-node", node)
        try:
            job.wait_results(EPISODES, seconds=400)
        finally:
            slurm_cluster.script("start-node", node)
        summaries = [check_trajectory(job.run, index) for index in range(EPISODES)]
        ends = Counter(summary["outcome"]["status"] for summary in summaries)
        # advice that came late on a busy machine may leave too few steps: an end of the episode's own, too
        assert ends["finished"] >= EPISODES - 2 and ends.total() == ends["finished"] + ends["truncated"], ends
        for index, step in ((moved, step_moved), (lost, step_lost)):
            assert summaries[index]["attempts"] >= 2
            assert summaries[index]["started"][1]["resumed_at_step"] >= step
        applied = Counter(guidance["text"] for summary in summaries for guidance in summary["guidance"])
        said = Counter(job.human_replies())
        assert applied and applied <= said  # none twice
        # none lost: the annotator was told which replies came after the end of their episode
        until(lambda: (said - applied).total() == len(job.told("Too late")), "the word on replies that came too late")
        (submission,) = jobs["jobs"]["episodes"]["submissions"]
        assert len(submission["chunks"]) == 2  # MaxArraySize is 10
        until(job.run.done.exists, "the end of the run")
        until(lambda: not placed(slurm_cluster), "servers and router to give their nodes back", 150)
        learn(job)  # what they left teaches the next model


def test_slack_tokens_reach_the_router_alone(slurm_cluster: DevSlurm, tmp_path: Path) -> None:
    with whole_job(tmp_path, "secret", 2) as job:
        job.hpc("episodes", "submit", "cluster=dev", *stub_runtime(tmp_path), *job.overrides(2))
        until(lambda: job.progress(0).get("step", 0) >= 2 and job.run.router.exists(), "a running episode")
        token = job.slack["bot_token"].encode()
        holders = set()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment, argv = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
            except OSError:
                continue
            if str(job.run.root).encode() in argv:
                assert token not in argv
                if token in environment:
                    holders.add(argv.split(b"elements/")[-1].split(b".json")[0])
        assert holders == {b"router"}
        for path in job.run.root.rglob("*"):
            if path.is_file() and os.access(path, os.R_OK):
                assert token not in path.read_bytes(), path


def _nodes_of_services(job: WholeJob, cluster: DevSlurm) -> set[str]:
    """Where servers, router and finalizer run: those nodes stay alive."""
    until(lambda: job.progress(0).get("step", 0) >= 1, "a first step", 180)
    elements = job.run.root / "elements"
    ids = {
        str(json.loads(path.read_text())["job_id"])
        for path in elements.glob("*/*.json")
        if path.parent.name != "episodes"
    }
    running = placed(cluster)
    return {running[name] for name in ids if name in running}


def _victim(job: WholeJob, cluster: DevSlurm, taken: set[int], avoid: set[str]) -> int | None:
    """An episode that already got guidance and is still running, not on one of the nodes to avoid."""
    for index in range(EPISODES):
        if index in taken or job.result(index) or job.progress(index).get("guidance", 0) < 1:
            continue
        node = node_of(job, cluster, index)
        if node and node not in avoid:
            return index
    return None
