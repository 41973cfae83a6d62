"""`hpc train` and `hpc checkpoint` as a user gives them, on this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hpc.cli import cli
from hpc.core.errors import HpcError
from hpc.examples import Manifest
from tests.integration.test_training import dataset  # noqa: F401  a fixture

pytestmark = [pytest.mark.xdist_group("training-cli")]


@pytest.fixture
def overrides(dataset: Path, tmp_path: Path) -> list[str]:  # noqa: F811
    return [
        "train=tiny", "cluster=local", "run.name=taught", f"run.root={tmp_path / 'runs'}", f"train.dataset={dataset}",
        "train.seq_length=128", "train.global_batch=4", "train.steps=4", "train.checkpoints.every=2",
        "train.validation=validation", "train.ranks_per_node=2",
    ]  # fmt: skip


def hpc(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def read(*arguments: str) -> Any:
    done = hpc(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refusal(*arguments: str) -> str:
    error = hpc(*arguments).exception
    assert isinstance(error, HpcError), error
    return str(error)


def test_from_a_dataset_to_weights_that_transformers_loads(overrides: list[str], tmp_path: Path) -> None:
    runs = f"--runs={tmp_path / 'runs'}"
    done = hpc("train", "sft", *overrides, "--watch")
    assert done.exit_code == 0, done.output
    status = read("train", "status", runs)
    assert (status["step"], status["of"], status["state"], status["checkpoint"]) == (4, 4, "DONE", 4)
    assert [row["step"] for row in read("train", "metrics", "taught", runs, "--last=2")] == [3, 4]
    assert "step 4/4" in hpc("train", "logs", "taught", runs).output
    assert list((tmp_path / "runs" / "taught" / "tensorboard").iterdir())

    again = hpc("train", "sft", *overrides)
    assert "already trained" in again.stderr

    listed = read("checkpoint", "ls", "taught", runs)
    assert [each["step"] for each in listed] == [2, 4]
    assert min(listed, key=lambda each: each["validation_loss"])["best"]

    there = f"train.start_from={tmp_path / 'runs' / 'taught'}@2"
    assert "(seed differ)" in refusal("train", "sft", *overrides, "run.name=more", there, "train.seed=9")
    assert "distributed_optimizer=False cannot be loaded with True" in refusal(
        "train", "sft", *overrides, "run.name=more", there, "layout.distributed_optimizer=true"
    )
    assert "was made with lora.rank=none, not 4" in refusal(
        "train", "sft", *overrides, "run.name=more", there, "lora.rank=4"
    )

    target = tmp_path / "exported"
    assert read("checkpoint", "export", "taught@2", runs, f"--to={target}", "--dry-run")["dry_run"] is True
    assert not target.exists()
    exported = read("checkpoint", "export", "taught@2", runs, f"--to={target}")
    assert (exported["step"], exported["export"]) == (2, str(target))
    marker = json.loads((target / "STABLE").read_text())
    data = Path(marker["dataset"]["folder"])
    assert marker["dataset"]["content"] == Manifest.read(data / "manifest.json").content
    assert (marker["run"], marker["step"]) == ("taught", 2) and marker["start_from"] is None is marker["warm_start"]
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from hpc.core.locate import data_dir

    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    before = load_file(data_dir("models") / "minilab-tiny" / "model.safetensors")
    after = load_file(target / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].dtype == after[name].dtype for name in before)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
    assert "is there already" in refusal("checkpoint", "export", "taught@2", runs, f"--to={target}")
    assert "has no whole checkpoint 3" in refusal("checkpoint", "export", "taught@3", runs)


def test_a_dry_run_shows_the_script_and_touches_nothing(overrides: list[str], tmp_path: Path) -> None:
    plan = read("train", "sft", *overrides, "--dry-run")
    assert "-m jobs" in plan["scripts"]["train"][0] and plan["problems"] == []
    assert plan["config"]["train"]["seq_length"] == 128
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.dataset=/nowhere", "/nowhere is no whole dataset"),
        ("train.dataset=''", "train.dataset is empty"),
        ("train.split=test", "has no examples of the split 'test'"),
        ("train.seq_length=8", "are longer than train.seq_length=8"),
        ("model.path=/nowhere", "model '/nowhere' does not exist"),
        ("layout.tensor=4", "layout.tensor=4 does not divide the model's 2 key/value heads"),
        ("layout.pipeline=4", "2 ranks cannot be shared by tensor=1 x pipeline=4"),
        ("layout.context=2", "packed rows cannot be shared by layout.context=2 ranks"),
        ("train.validation=train", "validation is 'train', the split that is trained on"),
        ("train.start_from=/nowhere", "no run directory at /nowhere"),
        ("lora.alpha=8", "lora.alpha is 8.0 with rank=0, which trains no adapters; set lora=on, or a rank"),
        ("lora.targets=[linear_qkv,head]", "lora.targets[1] is 'head', which is no choice"),
        ("cluster.resources.train={nodes: 2}", "asks for 2 tasks, this machine starts one"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_submitted(
    overrides: list[str], tmp_path: Path, change: str, message: str
) -> None:
    assert message in refusal("train", "sft", *overrides, change)
    assert not (tmp_path / "runs").exists()


def test_a_dataset_of_another_tokenizer_is_refused(overrides: list[str], tmp_path: Path) -> None:
    source = Path(next(each for each in overrides if each.startswith("train.dataset=")).partition("=")[2])
    other = tmp_path / "other"
    shutil.copytree(source, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["about"] = {"tokenizer": {"sha256": "0" * 64}}
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert "another tokenizer" in refusal("train", "sft", *overrides, f"train.dataset={other}")


def test_other_runs_are_no_trainings(tmp_path: Path) -> None:
    assert "no training under" in refusal("train", "status", f"--runs={tmp_path}")


def test_the_verb_decides_the_method(overrides: list[str]) -> None:
    plan = read("train", "grpo", *overrides, "train.validation=null", "--dry-run")
    assert plan["config"]["train"]["method"] == "grpo"
    assert read("train", "sft", *overrides, "--dry-run")["config"]["train"]["method"] == "sft"


def test_what_is_not_installed_is_said(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "training needs torch and megatron" in refusal("train", "sft", *overrides)
