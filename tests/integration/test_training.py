"""The trainer as jobs run it: killed, told to go, out of disk; it goes on exactly, and it learns."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpc.config import compose, config_hash, to_builtins
from hpc.core.locate import data_dir
from hpc.examples import Dataset, DatasetWriter, Example
from hpc.examples.advantages import group_advantages
from hpc.rundir import RunDir
from hpc.training.metrics import read_metrics
from hpc.training.shelf import shelf_of
from tests.integration.training_ranks import Nursery

pytestmark = [pytest.mark.xdist_group("training")]

KILLS = int(os.environ.get("HPC_TRAINING_KILLS", "2"))
"""Trainings that are killed at random; the campaign has 30 or more."""
MODEL = str(data_dir("models") / "minilab-tiny")
STEPS = 8


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty examples of random tokens, half of them trained."""
    folder = tmp_path_factory.mktemp("data") / "random"
    generator = np.random.default_rng(0)
    with DatasetWriter(folder, about={}) as writer:
        for number in range(40):
            length = int(generator.integers(10, 60))
            mask = (generator.random(length) < 0.5).astype(np.uint8)
            mask[0] = 0
            tokens = generator.integers(0, 900, length).astype(np.int32)
            meta = {"task_id": f"t{number % 3}", "episode_id": f"e{number}"}
            split = "validation" if number >= 36 else "train"
            writer.add(Example(id=f"x{number}", tokens=tokens, loss_mask=mask, meta=meta), split=split)
    return folder


Make = Callable[..., RunDir]


def new_run(root: Path, dataset: Path, *overrides: str) -> RunDir:
    """A run directory of a training of the tiny policy."""
    wanted = [
        "train=tiny", f"model.path={MODEL}", f"train.dataset={dataset}", "train.seq_length=128",
        "train.global_batch=2", f"train.steps={STEPS}", "train.checkpoints.every=2",
        "train.metrics.tensorboard=false",
    ]  # fmt: skip
    config = compose("train", [*wanted, *overrides])
    return RunDir.create(root, manifest={}, config=to_builtins(config), config_hash=config_hash(config))


@pytest.fixture
def make(tmp_path: Path, dataset: Path) -> Make:
    return lambda name, *overrides: new_run(tmp_path / name, dataset, *overrides)


@pytest.fixture(scope="module")
def whole(nursery: Nursery, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A training on one rank that nothing befell."""
    run = new_run(tmp_path_factory.mktemp("whole") / "run", dataset)
    assert nursery.train(run.root) == [0], log_of(run)
    assert len(curve(run)) == STEPS
    return run


def curve(run: RunDir) -> list[tuple[Any, ...]]:
    """Every step's figures that must not depend on what befell the training."""
    names = ("step", "epoch", "loss", "grad_norm", "lr", "tokens", "trained_tokens")
    return [tuple(record[name] for name in names) for record in read_metrics(run.metrics, "step")]


def log_of(run: RunDir) -> str:
    return Path(f"{run.root}.log").read_text()


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def killed_often(nursery: Nursery, run: RunDir, chance: random.Random, *, world: int = 1) -> int:
    """Kill a training at random moments until it has ended all the same; how often it was killed."""
    kills = 0
    moments = chance.sample(range(1, STEPS + 1), 2)
    for moment in sorted(moments):
        pids = nursery.start(run.root, world=world)
        while_saving = chance.random() < 0.5

        def due(moment: int = moment, while_saving: bool = while_saving) -> bool:
            steps = curve(run)
            saving = False
            with suppress(FileNotFoundError):  # what is being saved is whole, and called otherwise, a moment later
                saving = any(run.checkpoints.glob(".step-*.partial/state/*"))
            return bool(steps) and steps[-1][0] >= moment and (saving or not while_saving or steps[-1][0] == STEPS)

        wait_until(due)
        time.sleep(chance.random() * 0.05)
        os.kill(chance.choice(pids), 9)
        nursery.kill(pids)
        kills += 1
        for checkpoint in shelf_of(run).stable():
            assert shelf_of(run).find(str(checkpoint.step))
    assert nursery.train(run.root, world=world) == [0] * world, log_of(run)
    return kills


def test_killed_at_random_it_goes_on_exactly(nursery: Nursery, make: Make, whole: RunDir) -> None:
    for number in range(KILLS):
        run = make(f"killed-{number}")
        assert killed_often(nursery, run, random.Random(number)) == 2
        assert curve(run) == curve(whole), number
        names = {path.name for path in run.checkpoints.iterdir()}
        assert names == {path.name for path in whole.checkpoints.iterdir()}


def test_two_ranks_teach_the_same_and_go_on_exactly_too(nursery: Nursery, make: Make, whole: RunDir) -> None:
    pair, killed = make("pair"), make("killed")
    assert nursery.train(pair.root, world=2) == [0, 0], log_of(pair)
    one, two = np.array(curve(whole)), np.array(curve(pair))
    np.testing.assert_array_equal(one[:, [0, 1, 4, 5, 6]], two[:, [0, 1, 4, 5, 6]])
    np.testing.assert_allclose(one[:, 2:4], two[:, 2:4], rtol=1e-5)
    killed_often(nursery, killed, random.Random(1), world=2)
    assert curve(killed) == curve(pair)


def test_muon_goes_on_exactly_and_teaches_alike_on_two_ranks(nursery: Nursery, make: Make, whole: RunDir) -> None:
    alone, killed, pair = (make(name, "train.optimizer.kind=muon") for name in ("alone", "killed", "pair"))
    assert nursery.train(alone.root) == [0], log_of(alone)
    killed_often(nursery, killed, random.Random(2))
    assert curve(killed) == curve(alone)
    assert nursery.train(pair.root, world=2) == [0, 0], log_of(pair)
    np.testing.assert_allclose(np.array(curve(alone))[:, 2], np.array(curve(pair))[:, 2], rtol=1e-4)
    assert curve(alone)[0] == curve(whole)[0] and curve(alone)[-1] != curve(whole)[-1]


def test_a_warm_start_takes_weights_and_optimizer_to_the_first_row(nursery: Nursery, make: Make, whole: RunDir) -> None:
    second = make("second", f"train.warm_start={whole.root}", "train.steps=2")
    assert nursery.train(second.root) == [0], log_of(second)
    first, last = curve(whole)[0], curve(second)[-1]
    assert curve(second)[0][:2] == (1, 0) and last[0] == 2
    assert curve(second)[0][2] < first[2]  # the same rows, now known better
    common = torch.load(shelf_of(second).find().folder / "state" / "common.pt", weights_only=False)
    assert int(common["optimizer"]["state"]["common_step"]) == STEPS + 2


def test_told_to_go_it_saves_leaves_and_goes_on_in_other_layouts(nursery: Nursery, make: Make, whole: RunDir) -> None:
    stopped = make("stopped", "train.checkpoints.every=100")
    pids = nursery.start(stopped.root)
    wait_until(lambda: len(curve(stopped)) >= 3)
    nursery.say(pids, "preempt")
    assert nursery.wait(pids) == [75]
    told = list(read_metrics(stopped.metrics, "composition"))[-1]
    assert told["tasks"] == 3 and sum(told[f"task_id=t{number}"] for number in range(3)) == told["examples"]
    saved = shelf_of(stopped).latest()
    assert saved is not None and saved.step == len(curve(stopped)) < STEPS
    assert nursery.train(stopped.root) == [0]
    assert curve(stopped) == curve(whole)

    for layout in ([], ["layout.tensor=2", "layout.sequence=true"], ["layout.pipeline=2", "layout.virtual_pipeline=2"]):
        other = make("-".join(["other", *layout]), f"train.start_from={stopped.root}@{saved.step}", *layout)
        assert nursery.train(other.root, world=2) == [0, 0], log_of(other)
        np.testing.assert_allclose(np.array(curve(other)), np.array(curve(whole)[saved.step :]), rtol=3e-5)


def test_a_full_disk_ends_it_with_a_reason_and_nothing_half_written(
    nursery: Nursery, make: Make, whole: RunDir
) -> None:
    run = make("run")
    assert nursery.train(run.root, most_bytes=1_000_000) == [1]
    assert "cannot write the checkpoint" in log_of(run) and "no space left" in log_of(run)
    assert shelf_of(run).stable() == []
    assert nursery.train(run.root) == [0]  # there is space again
    assert curve(run) == curve(whole)
    assert len(list(run.checkpoints.iterdir())) == 3  # what was left half written is gone


def test_a_damaged_checkpoint_is_not_used(nursery: Nursery, make: Make) -> None:
    run = make("run", "train.steps=2")
    assert nursery.train(run.root) == [0]
    newest = shelf_of(run).find()
    next(newest.folder.glob("state/*.distcp")).write_bytes(b"")
    run.done.unlink(missing_ok=True)
    assert nursery.train(run.root) == [1]
    assert "distcp is 0 bytes long, not" in log_of(run)


def test_it_learns_a_tiny_dataset_by_heart_and_keeps_the_best(nursery: Nursery, make: Make, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    with DatasetWriter(tmp_path / "tiny", about={}) as writer:
        for number in range(8):
            tokens = generator.integers(0, 900, 16).astype(np.int32)
            mask = np.array([0] * 4 + [1] * 12, np.uint8)
            writer.add(Example(id=f"x{number}", tokens=tokens, loss_mask=mask), split="held" if number > 5 else "train")
    run = make(
        "run", f"train.dataset={tmp_path / 'tiny'}", "train.steps=48", "train.epochs=99", "train.global_batch=1",
        "train.checkpoints.every=16", "train.checkpoints.keep=1", "train.validation=held", "train.optimizer.lr=0.002",
    )  # fmt: skip
    assert nursery.train(run.root) == [0], log_of(run)
    losses = [record["loss"] for record in read_metrics(run.metrics, "step")]
    assert losses[0] > 5 and losses[-1] < 0.1, losses
    measured = {record["step"]: record["loss"] for record in read_metrics(run.metrics, "validation")}
    assert set(measured) == {16, 32, 48}
    best = min(measured, key=lambda step: (measured[step], -step))
    assert {each.step for each in shelf_of(run).stable()} == {best, 48}


def test_a_loss_that_is_no_number_leaves_the_weights_alone(nursery: Nursery, make: Make) -> None:
    """A learning rate that throws the weights far away ends in numbers that are none."""
    run = make("run", "train.optimizer.lr=1e30", "train.optimizer.min_lr=0", "train.optimizer.warmup_steps=0")
    assert nursery.train(run.root) == [1]
    verdicts = [record.get("verdict", "ok") for record in read_metrics(run.metrics, "step")]
    assert verdicts[0] == "ok" and set(verdicts[1:]) == {"nan"}
    assert "the 5th such step in a row" in log_of(run)
    assert [each.step for each in shelf_of(run).stable()] == [2, 4]  # also what was being saved as it ended


def test_grpo_starts_where_the_engine_is_and_follows_the_advantages(
    nursery: Nursery, make: Make, tmp_path: Path
) -> None:
    """Rollouts that transformers says it sampled: ratio 1 at first; then good ones gain and bad ones lose."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    generator = np.random.default_rng(2)
    rewards, tokens = [1.0, 0.0, 0.0, 1.0], generator.integers(0, 900, (4, 20)).astype(np.int32)
    advantages = group_advantages(rewards, ["one"] * 4)
    with DatasetWriter(tmp_path / "rollouts", about={}) as writer:
        for number, each in enumerate(tokens):
            with torch.no_grad():
                logits = model(torch.from_numpy(each[None].astype(np.int64))).logits[0]
            logprobs = np.full(20, np.nan, np.float32)
            chosen = logits[:-1].log_softmax(-1).gather(1, torch.from_numpy(each[1:, None].astype(np.int64)))
            logprobs[8:] = chosen[7:, 0].numpy()
            mask = np.array([0] * 8 + [1] * 12, np.uint8)
            gain = np.full(20, advantages[number], np.float32)
            writer.add(Example(id=f"r{number}", tokens=each, loss_mask=mask, logprobs=logprobs, advantages=gain))
    changes = [
        f"train.dataset={tmp_path / 'rollouts'}", "train.method=grpo", "train.epochs=4", "train.steps=4",
        "train.global_batch=2", "train.seq_length=40", "train.optimizer.lr=0.0003", "train.optimizer.warmup_steps=0",
    ]  # fmt: skip
    alone, pair = make("alone", *changes), make("pair", *changes, "layout.tensor=2", "layout.sequence=true")
    assert nursery.train(alone.root) == [0], log_of(alone)
    assert nursery.train(pair.root, world=2) == [0, 0], log_of(pair)
    first, *later = read_metrics(alone.metrics, "step")
    assert first["ratio"] == pytest.approx(1, abs=1e-5) and first["kl"] < 1e-8
    assert abs(first["loss"]) < 1e-5  # the advantages of a group balance each other
    assert later[-1]["loss"] < first["loss"] - 0.05
    np.testing.assert_allclose(np.array(curve(alone)), np.array(curve(pair)), rtol=1e-3, atol=1e-6)
    rest = make("rest", *changes, "train.global_batch=3")  # the last batch is filled with empty rows
    assert nursery.train(rest.root) == [0], log_of(rest)
    assert len(curve(rest)) == 3


ADAPTERS = ["lora.rank=4", "train.optimizer.lr=0.02", "train.optimizer.warmup_steps=0"]


def full_precision(folder: Path) -> Path:
    """The tiny policy in fp32, so that rounding hides nothing of what is merged."""
    import torch
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).save_pretrained(folder)
    return folder


def test_adapters_killed_at_random_go_on_exactly_and_move_between_layouts(
    nursery: Nursery, make: Make, whole: RunDir
) -> None:
    alone, killed = make("alone", *ADAPTERS), make("killed", *ADAPTERS)
    assert nursery.train(alone.root) == [0], log_of(alone)
    losses = [row[2] for row in curve(alone)]
    assert losses[0] == pytest.approx(curve(whole)[0][2], rel=1e-6) and losses[-1] < losses[0] - 0.2, losses
    assert killed_often(nursery, killed, random.Random(3)) == 2
    assert curve(killed) == curve(alone)
    saved = shelf_of(alone).find("4")
    assert saved.bytes < shelf_of(whole).find("4").bytes / 10  # the model itself is not in it

    there = f"train.start_from={alone.root}@4"
    for layout in (["layout.tensor=2", "layout.sequence=true"], ["layout.pipeline=2"]):
        other = make("-".join(["other", *layout]), there, *ADAPTERS, *layout)
        assert nursery.train(other.root, world=2) == [0, 0], log_of(other)
        np.testing.assert_allclose(np.array(curve(other)), np.array(curve(alone)[4:]), rtol=3e-5)


def test_adapters_are_merged_into_the_model_that_they_were_trained_on_and_no_other(
    nursery: Nursery, make: Make, tmp_path: Path
) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    model = full_precision(tmp_path / "model")
    measured = ["train.validation=validation", "train.steps=4"]
    run = make("run", f"model.path={model}", *ADAPTERS, *measured)
    assert nursery.train(run.root) == [0], log_of(run)
    assert nursery.export(run.root, 4, tmp_path / "merged") == 0, log_of(run)
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    total, count = 0.0, 0
    with Dataset(Path(run.read_config()["train"]["dataset"]), split="validation") as examples, torch.no_grad():
        for example in examples:
            tokens, mask = torch.from_numpy(example.tokens.astype(np.int64)), example.loss_mask[1:].astype(bool)
            losses = torch.nn.functional.cross_entropy(
                served(tokens[None]).logits[0, :-1], tokens[1:], reduction="none"
            )
            total, count = total + float(losses[torch.from_numpy(mask)].sum()), count + int(mask.sum())
    last = list(read_metrics(run.metrics, "validation"))[-1]
    assert last["step"] == 4 and last["tokens"] == count
    assert total / count == pytest.approx(last["loss"], abs=1e-5)

    more = make("more", f"model.path={model}", *ADAPTERS, f"train.start_from={run.root}@4", "lora.rank=8")
    assert nursery.train(more.root) == [2]
    assert "was made with lora.rank=4, not 8" in log_of(more)
    with safe_open(model / "model.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights["model.layers.3.mlp.down_proj.weight"][0, 0] += 1e-3
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    run.done.unlink(missing_ok=True)
    assert nursery.train(run.root) == [2]
    assert nursery.export(run.root, 4, tmp_path / "again") == 2 and not (tmp_path / "again").exists()
    assert log_of(run).count("stand on another model than model.path") == 2
