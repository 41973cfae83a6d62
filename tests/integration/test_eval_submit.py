"""`hpc eval submit` as a user gives it: real jobs on this machine, the MiniLab stub in vLLM's place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hpc.cli import cli
from hpc.core.errors import HpcError
from hpc.rundir import RunDir
from tests.integration.test_training import dataset  # noqa: F401  a fixture
from tests.integration.whole_job import until

STUB = Path(__file__).with_name("minilab_stub.py")
TASKS, SEEDS = 2, 2


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    program = tmp_path / "vllm"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {STUB} "$@"\n')
    program.chmod(0o755)
    return [
        "eval.name=first", f"eval.tasks={TASKS}", f"eval.seeds={SEEDS}", "eval.episodes_per_job=2", "cluster=local",
        f"runtime.vllm={program}", "task.seconds_per_run=0", "agent.max_steps=8",
    ]  # fmt: skip


def model(folder: Path) -> Path:
    """A folder that looks like weights: the stub reads none."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def hpc(*words: str) -> Result:
    return CliRunner().invoke(cli, ["eval", *words])


def refusal(*words: str) -> str:
    error = hpc("submit", *words).exception
    assert isinstance(error, HpcError), error
    return str(error)


def test_models_play_the_same_tasks_and_seeds_and_only_what_is_missing_is_run(
    tmp_path: Path, overrides: list[str]
) -> None:
    runs = f"--runs={tmp_path / 'runs'}"
    models = [str(model(tmp_path / "models" / name)) for name in ("a", "b")]
    planned = hpc("submit", *models, *overrides, runs, "--dry-run")
    assert planned.exit_code == 0 and "# ==== episodes" in planned.stdout, planned.output
    assert not (tmp_path / "runs").exists()

    launched = hpc("submit", *models, *overrides, runs, "--json")
    assert launched.exit_code == 0, launched.output
    played = [RunDir(tmp_path / "runs" / f"first-{name}") for name in ("a", "b")]
    assert [Path(each["directory"]) for each in json.loads(launched.stdout)] == [run.root for run in played]
    until(lambda: all(run.done.exists() for run in played), "both evaluations", 120)
    again = hpc("submit", *models, *overrides, runs)
    assert again.stderr.count("nothing is missing") == 2
    assert "next: hpc eval compare first-a first-b" in again.stderr

    compared: dict[str, Any] = json.loads(hpc("compare", "first-a", "first-b", runs, "--json").stdout)
    assert compared["comparisons"][0]["pairs"] == TASKS * SEEDS


def test_what_cannot_be_evaluated_is_refused_with_the_way_out(tmp_path: Path, overrides: list[str]) -> None:
    runs = f"--runs={tmp_path / 'runs'}"
    one = str(model(tmp_path / "models" / "a"))
    assert "'nothing' is no training" in refusal("nothing", *overrides, runs)
    assert "two models would be called a" in refusal(one, str(model(tmp_path / "more" / "a")), *overrides, runs)
    assert "task.split is 'train'" in refusal(one, *overrides, "task=minilab", runs)
    assert "eval.name is empty" in refusal(one, *overrides, "eval.name=''", runs)
    assert "no model to evaluate" in refusal(*overrides, runs)
    assert not (tmp_path / "runs").exists()


def test_each_checkpoint_of_a_training_is_evaluated_once_it_is_whole(
    tmp_path: Path,
    overrides: list[str],
    dataset: Path,  # noqa: F811
) -> None:
    runs = tmp_path / "runs"
    words = ["train=tiny", "cluster=local", "run.name=taught", f"run.root={runs}", f"train.dataset={dataset}"]
    words += ["train.seq_length=128", "train.global_batch=4", "train.steps=4", "train.checkpoints.every=2"]
    assert CliRunner().invoke(cli, ["train", "sft", *words]).exit_code == 0
    watched = hpc("watch", "taught", *overrides, "eval.tasks=1", "eval.seeds=1", f"--runs={runs}")
    assert watched.exit_code == 0, watched.output
    names = [f"first-taught-{step}" for step in (2, 4)]
    assert [line for line in watched.stderr.splitlines() if line.startswith("over: ")] == [f"over: {n}" for n in names]
    assert all(RunDir(runs / name).result(0).exists() for name in names)
    table = hpc("table", *names, f"--runs={runs}", "--format", "json")
    assert table.exit_code == 0 and "step 4 of taught" in table.output
