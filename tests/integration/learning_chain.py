"""From a run with guidance to a model that is served and evaluated, as a user would type it, on the cluster."""

from __future__ import annotations

import json

from tests.integration.whole_job import WholeJob, until

ARMS = {
    "kept": ("dataset=interaction_all", "dataset.guidance=keep"),
    "kept-filtered": ("dataset=interaction_filter", "dataset.guidance=keep"),
    "dropped": ("dataset=interaction_all", "dataset.guidance=drop"),
    "dropped-filtered": ("dataset=interaction_filter", "dataset.guidance=drop"),
}
STEPS = 6
EPISODES = 2


def learn(job: WholeJob) -> None:
    """Label the run, build and prove four arms, train on one of them as a Slurm job, export, serve, evaluate."""
    job.hpc("label", "run", job.name)
    report = json.loads(job.hpc("label", "report", job.name, "--policy", "minilab", "--json"))
    assert 0 < report["kept"] < report["steps"]
    assert any(line["labeller"] == "corrected" for line in report["rules"])
    trained = {}
    for arm, overrides in ARMS.items():
        folder = job.folder / "datasets" / arm
        job.hpc(
            "dataset", "build", job.name, "--name", arm, "--to", str(folder.parent), "supervision=minilab", *overrides
        )
        proof = json.loads(job.hpc("dataset", "verify", str(folder), "--json"))
        assert proof["ok"], proof
        assert proof["compared"] == proof["examples"]
        trained[arm] = proof["trained_tokens"]
    assert trained["kept"] == trained["dropped"] > trained["kept-filtered"] == trained["dropped-filtered"]

    job.hpc(
        "train", "sft", "cluster=dev", "model=minilab-tiny", f"run.root={job.folder / 'runs'}", "run.name=learn",
        f"train.dataset={job.folder / 'datasets' / 'dropped-filtered'}", f"train.steps={STEPS}", "train.epochs=100",
        "train.global_batch=4", "train.seq_length=2048", "train.precision=fp32",
    )  # fmt: skip
    until(lambda: _is_trained(job), "the end of the training", 240)
    losses = [line["loss"] for line in json.loads(job.hpc("train", "metrics", "learn", "--json")) if "loss" in line]
    assert len(losses) == STEPS and all(0 < loss < 1 for loss in losses), losses  # that it learns is shown elsewhere

    model = job.folder / "models" / "learnt"
    job.hpc("checkpoint", "export", "learn", "--to", str(model))
    job.hpc(
        "episodes", "submit", "cluster=dev", f"run.root={job.folder / 'runs'}", "run.name=evaluate",
        f"run.episodes={EPISODES}", "annotators=none", "drift=off", "task=minilab_eval", "task.seconds_per_run=0",
        "agent.max_steps=12", "model=custom", "model.name=learnt", f"model.path={model}",
    )  # fmt: skip
    folder = job.folder / "runs" / "evaluate" / "episodes"
    until(lambda: len(list(folder.glob("*/result.json"))) == EPISODES, "the evaluation", 240)
    for path in folder.glob("*/result.json"):
        result = json.loads(path.read_text())
        assert result["status"] in ("finished", "truncated")
        assert result["steps"] >= 3  # it has not forgotten how to act


def _is_trained(job: WholeJob) -> bool:
    status = json.loads(job.hpc("train", "status", "learn", "--json"))
    state = json.dumps(status)
    assert "FAILED" not in state, state
    return bool("DONE" in state)
