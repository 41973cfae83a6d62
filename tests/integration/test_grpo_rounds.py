"""GRPO in rounds with the real vLLM and the real trainer, led, killed and gone on with as by a user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hpc.rundir import RunDir
from hpc.trajectories.reader import Trajectory
from tests.integration.whole_job import ROOT, processes_of, until

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900), pytest.mark.xdist_group("vllm")]

PLAYED = 8
LORA = ("lora=on", "lora.rank=4")


class Lab:
    """A folder of runs, and the command line."""

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"
        self.overrides = [
            "cluster=local", f"run.root={self.runs}", "run.name=rl", "rounds.tasks=2", "rounds.group=4",
            "agent.max_steps=14", "rounds.keep=2", "train.global_batch=2",
        ]  # fmt: skip

    def words(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "hpc.cli", *arguments]

    def hpc(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.words(*arguments), capture_output=True, text=True, cwd=ROOT, timeout=600)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stderr}\n{done.stdout}"
        return done

    def rounds(self) -> dict[str, Any]:
        return dict(json.loads(self.hpc("train", "rounds", "rl", "--runs", str(self.runs), "--json").stdout))

    def jobs(self, run: str) -> list[str]:
        jobs = json.loads((self.runs / run / "jobs.json").read_text())["jobs"]
        return [name for name, job in jobs.items() for _ in job["submissions"]]


@pytest.fixture
def lab(tmp_path: Path) -> Any:
    found = Lab(tmp_path)
    yield found
    for pid in processes_of(found.runs):
        if pid != os.getpid():
            os.kill(pid, signal.SIGKILL)


def test_rounds_go_on_after_kills_and_each_plays_with_the_weights_of_the_one_before(lab: Lab) -> None:
    first = subprocess.Popen(lab.words("train", "grpo", *lab.overrides, "rounds.count=1"), cwd=ROOT)
    played = lab.runs / "rl-001-rollouts" / "episodes"
    until(lambda: list(played.glob("*/progress.json")), "the first rollouts", 300)
    refused = lab.hpc("train", "grpo", *lab.overrides, code=2).stderr
    assert "another process leads the rounds of rl" in refused and "fix:" in refused
    first.send_signal(signal.SIGKILL)
    first.wait()

    stopped = lab.hpc("train", "grpo", *lab.overrides, "rounds.count=1", "rounds.max_drift=1e-12", code=1).stderr
    assert "trainer and engine differ by" in stopped and "rounds.max_drift=1e-12" in stopped
    done = lab.hpc("train", "grpo", *lab.overrides, "rounds.count=2")
    assert "round 2/2" in done.stderr
    assert lab.jobs("rl-001-rollouts").count("episodes") == 1 and lab.jobs("rl-001-update") == ["train"]
    before = json.dumps(lab.rounds())
    lab.hpc("train", "grpo", *lab.overrides, "rounds.count=2")  # there is nothing left to do
    assert json.dumps(lab.rounds()) == before
    assert "seed" in lab.hpc("train", "grpo", *lab.overrides, "task.seed=9", code=2).stderr  # another configuration

    rounds = lab.rounds()["rounds"]
    assert [each["version"] for each in rounds] == ["minilab-tiny@0", "minilab-tiny@1"]
    assert rounds[1]["weights"] == rounds[0]["export"]
    for each in rounds:
        assert (each["episodes"], each["stale"]) == (PLAYED, 0)
        assert all(len(group) == 4 for group in each["rewards"].values()) and len(each["rewards"]) == 2
        assert each["update"] is None or (each["gap"] < 1e-4 and abs(each["ratio"] - 1) < 1e-4)
    export = Path(rounds[1]["weights"])
    assert json.loads((export / "config.json").read_text())["dtype"] == "float32"
    assert _farthest(export, RunDir(lab.runs / "rl-002-rollouts"), "minilab-tiny@1") < 1e-4


def test_adapters_reach_a_running_server_and_every_answer_says_which(lab: Lab) -> None:
    lab.hpc("train", "grpo", *lab.overrides, "rounds.count=2", "rounds.tasks=1", *LORA)
    assert lab.jobs("rl-server") == ["serve-tiny"] and "serve-tiny" not in lab.jobs("rl-002-rollouts")
    assert (lab.runs / "rl-server" / "done.json").exists()
    first, second = lab.rounds()["rounds"]
    assert (first["version"], second["version"], second["stale"]) == ("minilab-tiny@0", "minilab-tiny@1", 0)
    assert second["weights"] == first["export"]
    assert (Path(first["export"]) / "adapter_config.json").exists()
    assert second["gap"] is None or second["gap"] < 1e-4  # the trainer's own adapters: vLLM computes with the same
    merged = lab.runs / "merged"
    lab.hpc("checkpoint", "export", "rl-001-update", "--to", str(merged), "--runs", str(lab.runs), "--dtype", "float32")
    assert _farthest(merged, RunDir(lab.runs / "rl-002-rollouts"), "minilab-tiny@1", episodes=4) < 1e-4


def _farthest(weights: Path, run: RunDir, version: str, *, episodes: int = PLAYED) -> float:
    """Most that any sampled token's log-probability by the engine differs from that by transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    farthest = 0.0
    for index in range(episodes):
        with Trajectory.open(run.trajectory(index)) as trajectory:
            for step in trajectory.steps:
                assert step.action.model == version
                seen = trajectory.tokens(step.action.step)
                ids = torch.tensor([seen.prompt + seen.answer])
                with torch.no_grad():
                    logits = model(ids).logits[0, len(seen.prompt) - 1 : -1]
                ours = logits.log_softmax(-1).gather(1, ids[0, len(seen.prompt) :, None])[:, 0]
                farthest = max(farthest, float((ours - torch.tensor(seen.logprobs)).abs().max()))
    return farthest
