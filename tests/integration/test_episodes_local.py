"""The main job on the local executor, with the stub in vLLM's place."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.integration.whole_job import (
    WholeJob,
    ancestors_of,
    check_trajectory,
    processes_of,
    stub_runtime,
    until,
    whole_job,
)

EPISODES = 3


def test_alerts_are_answered_in_slack_and_applied(tmp_path: Path) -> None:
    with whole_job(tmp_path, "small", EPISODES) as job:
        runtime = stub_runtime(tmp_path)
        job.hpc("episodes", "submit", "cluster=local", *runtime, *job.overrides(EPISODES))
        check_secrets(job)
        job.wait_results(EPISODES)
        replies = job.human_replies()
        applied = []
        for index in range(EPISODES):
            shown = json.loads(job.hpc("traj", "show", str(job.run.trajectory(index)), "--json"))
            assert shown["outcome"]["status"] == "finished" and shown["outcome"]["final_score"] >= 80
            assert {"id", "detector", "score", "step", "sent_at"} <= shown["alerts"][0].keys()
            check_trajectory(job.run, index)
            alerts = {alert["id"] for alert in shown["alerts"]}
            for guidance in shown["guidance"]:
                assert guidance["alert_id"] in alerts  # for this episode and no other
                assert guidance["sent_at"] <= guidance["delivered_at"] <= guidance["applied_at"]
                applied.append(guidance["text"])
        assert applied and sorted(applied) == sorted(replies)
        until(job.run.done.exists, "the end of the run")
        receipts = [message["ts"] for message in job.slack_messages() if "Applied at step" in json.dumps(message)]
        assert len(receipts) == len(applied)
        again = json.loads(job.hpc("episodes", "submit", "cluster=local", *runtime, *job.overrides(EPISODES), "--json"))
        assert again["jobs"] == {}  # the same command has nothing left to do
        said = job.hpc("episodes", "submit", "cluster=local", *runtime, *job.overrides(EPISODES + 1), code=2)
        assert "another configuration" in said
        assert "is over" in job.hpc("router", "start", "small", code=2)
        page = Path(job.hpc("episodes", "report", "small").strip())
        assert page.read_text().count("<svg") >= EPISODES
        check_snapshots(job, tmp_path)
        figures = json.loads(job.hpc("inbox", "stats", "small", "--json"))["total"]
        assert figures["replies"] == figures["applied"] == len(replies)  # the last word, not one of a while ago
        assert json.loads(job.hpc("episodes", "status", "small", "--json"))["episodes"][0]["state"] == "finished"


def check_snapshots(job: WholeJob, folder: Path) -> None:
    """The workspace of each episode as it was at its end can be laid out again, and what it ran in is known."""
    taken = json.loads(job.hpc("traj", "snapshot", "ls", "small", "--json"))
    assert [(one["index"], one["reason"], one["problem"]) for one in taken] == [
        (index, "end", "") for index in range(EPISODES)
    ]
    job.hpc("traj", "snapshot", "restore", "small/1", "--out", str(folder / "again"))
    files = {path.relative_to(folder / "again") for path in (folder / "again").rglob("*") if path.is_file()}
    assert files == {p.relative_to(job.run.workspace(1)) for p in job.run.workspace(1).rglob("*") if p.is_file()}
    shown = json.loads(job.hpc("traj", "show", "small/1", "--json"))
    assert len(shown["environment_hash"]) == 64 and shown["branched_from"] is None
    assert shown["usage"]["used_answer_tokens"] > 0
    assert "whole" in job.hpc("traj", "check", "small")


def check_secrets(job: WholeJob) -> None:
    """Slack's tokens are in the router's process (and what started it) alone: in no other job's
    environment or arguments, nor in any file of the run."""
    until(lambda: any(job.progress(index).get("step") for index in range(EPISODES)), "a step")
    until(job.run.router.exists, "the router")
    router = int(json.loads(job.run.router.read_text())["pid"])
    may_know = ancestors_of(router)
    processes = processes_of(job.run.root)
    tokens = [job.env[name].encode() for name in ("SLACK_BOT_TOKEN", "SLACK_APP_TOKEN")]
    knowing = {pid for pid, (_, text) in processes.items() if any(token in text for token in tokens)}
    assert router in knowing
    kinds = "\n".join(command for pid, (command, _) in processes.items() if pid not in may_know)
    assert "elements/episodes.json" in kinds and "elements/serve" in kinds, kinds
    assert knowing <= may_know, [processes[pid][0] for pid in knowing - may_know]
    assert not any(token.decode() in command for command, _ in processes.values() for token in tokens)
    assert not [path for path in job.run.root.rglob("*") if any(token in _contents(path) for token in tokens)]


def _contents(path: Path) -> bytes:
    """What is in a file; nothing for a folder, or for a draft that is gone by now."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_killed_episodes_resume_at_their_step(tmp_path: Path) -> None:
    with whole_job(tmp_path, "killed", 2) as job:
        node = tmp_path / "node"
        extra = ["run.episodes_per_job=2", f"run.local_dir={node}"]  # both play in one process
        job.hpc("episodes", "submit", "cluster=local", *stub_runtime(tmp_path), *job.overrides(2), *extra)
        until(lambda: job.progress(0).get("guidance", 0) >= 1, "guidance in episode 0")
        job.hpc("episodes", "cancel", "killed", "--yes")
        before = job.progress(0)["step"]
        assert len(list(node.glob("killed-*/log.frames"))) == 2  # their logs are on the node's disk
        job.hpc("episodes", "resume", "killed")
        job.wait_results(2)
        summary = check_trajectory(job.run, 0)
        assert summary["attempts"] == 2 and summary["steps"] > before
        assert summary["outcome"]["status"] == "finished"
        assert [path for path in node.rglob("*") if path.is_file()] == []


def test_a_killed_router_comes_back_and_nothing_is_lost(tmp_path: Path) -> None:
    with whole_job(tmp_path, "router", 2) as job:
        job.hpc("episodes", "submit", "cluster=local", *stub_runtime(tmp_path), *job.overrides(2))
        until(lambda: job.progress(0).get("alerts", 0) >= 1, "an alert")
        os.kill(int(json.loads(job.run.router.read_text())["pid"]), signal.SIGKILL)
        job.hpc("router", "start", "router")
        job.wait_results(2)
        for index in range(2):
            assert check_trajectory(job.run, index)["outcome"]["status"] in ("finished", "truncated")


def test_bad_starts_say_one_clear_line(tmp_path: Path) -> None:
    with whole_job(tmp_path, "bad", 1) as job:
        common = ["cluster=local", *job.overrides(1)]
        missing = {k: v for k, v in job.env.items() if not k.startswith("SLACK_")}
        runtime = stub_runtime(tmp_path)
        said = job.hpc("episodes", "submit", *runtime, *common, code=1, env=missing)
        assert said.startswith("error: ") and "SLACK_BOT_TOKEN" in said
        said = job.hpc("episodes", "submit", *common, *runtime[:3], "model.path=/no/such/model", code=2)
        assert "/no/such/model" in said
        said = job.hpc("episodes", "submit", *common, "agent.max_step=3", code=2)
        assert "agent.max_step" in said and "max_steps" in said
        assert not job.run.root.exists()  # nothing half-written
        said = job.hpc("inbox", "list", "--run", "bad", code=2)
        assert "no run directory" in said
