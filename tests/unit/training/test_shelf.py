"""The folder of checkpoints: only what is marked is whole, and what may go goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpc.config.lora import LoraConfig
from hpc.core.errors import CheckpointError, CheckpointNotFound, ConfigError
from hpc.training.shelf import (
    MARKER,
    Checkpoint,
    Shelf,
    describe_adapters,
    parse_reference,
    refuse_broken_moves,
    refuse_other_adapters,
)


def about(step: int, validation: float | None = None) -> Checkpoint:
    return Checkpoint(
        step=step, created_at=1.0, layout={}, world=1, data={}, state={}, loss=1.0 / step, validation_loss=validation
    )


def put(shelf: Shelf, step: int, validation: float | None = None) -> Checkpoint:
    partial = shelf.begin(step)
    (partial / "state" / "weights").write_bytes(b"x" * step)
    return shelf.finish(partial, about(step, validation))


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "checkpoints")


def steps(shelf: Shelf) -> list[int]:
    return [each.step for each in shelf.stable()]


def test_an_empty_shelf_has_nothing(shelf: Shelf) -> None:
    assert (shelf.latest(), shelf.best(), shelf.stable()) == (None, None, [])
    shelf.sweep()
    with pytest.raises(CheckpointNotFound, match="no whole checkpoint yet"):
        shelf.find()


def test_a_finished_checkpoint_says_what_it_is(shelf: Shelf) -> None:
    made = put(shelf, 12)
    assert shelf.find() == made == shelf.find("12")
    assert made.sizes == {"state/weights": 12} and made.folder.name == "step-00000012"
    assert [path.name for path in shelf.folder.iterdir()] == ["step-00000012"]


def test_what_is_begun_or_unmarked_is_none_and_is_swept(shelf: Shelf) -> None:
    put(shelf, 3)
    shelf.begin(4)
    unmarked = put(shelf, 5).folder
    (unmarked / MARKER).unlink()
    damaged = put(shelf, 6).folder
    (damaged / MARKER).write_text("{")
    assert steps(shelf) == [3]
    shelf.sweep()
    assert [path.name for path in shelf.folder.iterdir()] == ["step-00000003"]


def test_a_step_left_without_its_marker_is_replaced(shelf: Shelf) -> None:
    (put(shelf, 5).folder / MARKER).unlink()
    put(shelf, 5)
    assert steps(shelf) == [5]


@pytest.mark.parametrize("damage", ["shorter", "missing"])
def test_a_checkpoint_that_lost_a_file_is_not_used(shelf: Shelf, damage: str) -> None:
    weights = put(shelf, 9).folder / "state" / "weights"
    weights.write_bytes(b"x" * 8) if damage == "shorter" else weights.unlink()
    with pytest.raises(CheckpointError, match=r"state/weights is (8 bytes long, not 9|missing)"):
        shelf.find()


def test_pruning_keeps_the_newest_and_the_best(shelf: Shelf) -> None:
    for step, validation in ((1, 0.9), (2, 0.5), (3, None), (4, 0.7), (5, 0.8)):
        put(shelf, step, validation)
    assert shelf.prune(2) == [1, 3]
    assert steps(shelf) == [2, 4, 5]
    best = shelf.best()
    assert best is not None and best.step == 2 == shelf.find("best").step


def test_of_two_equally_good_ones_the_later_is_the_best(shelf: Shelf) -> None:
    put(shelf, 1, 0.5)
    put(shelf, 2, 0.5)
    assert shelf.find("best").step == 2


@pytest.mark.parametrize(("which", "message"), [("7", "no whole checkpoint 7"), ("newest", "'newest' names no")])
def test_one_that_is_not_there_is_named_with_those_that_are(shelf: Shelf, which: str, message: str) -> None:
    put(shelf, 3)
    with pytest.raises(CheckpointNotFound, match=message):
        shelf.find(which)


def test_references() -> None:
    assert parse_reference("mine") == ("mine", None)
    assert parse_reference("runs/mine@best") == ("runs/mine", "best")


# ---- layouts


@pytest.mark.parametrize(
    ("before", "now", "experts"),
    [
        ({"expert": 1}, {"expert": 1, "tensor": 4}, True),
        ({"expert": 2}, {"expert": 4}, True),
        ({"expert": 1}, {"expert": 2}, False),
        ({"distributed_optimizer": True}, {"distributed_optimizer": True, "pipeline": 2}, False),
    ],
)
def test_what_moves_between_layouts(before: dict[str, Any], now: dict[str, Any], experts: bool) -> None:
    refuse_broken_moves(before, now, experts=experts)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"expert": 1}, {"expert": 2}, "layout.expert=1 to 2"),
        ({"expert": 4}, {}, "layout.expert=4 to 1"),
        ({}, {"distributed_optimizer": True}, "cannot be loaded with True"),
    ],
)
def test_what_is_loaded_wrongly_is_refused(before: dict[str, Any], now: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse_broken_moves(before, now, experts=True)


# ---- adapters


def with_adapters(lora: LoraConfig, base: str = "b") -> Checkpoint:
    adapters = {**describe_adapters(lora), "base": base} if lora.enabled else {}
    return msgspec.structs.replace(about(1), adapters=adapters, path="here")


@pytest.mark.parametrize("lora", [LoraConfig(), LoraConfig(rank=4), LoraConfig(rank=4, targets=("linear_qkv",))])
def test_a_checkpoint_is_loaded_with_the_adapters_that_it_holds(lora: LoraConfig) -> None:
    refuse_other_adapters(with_adapters(lora), describe_adapters(lora))
    refuse_other_adapters(with_adapters(lora), with_adapters(lora).adapters)


def test_a_default_written_out_is_no_other() -> None:
    written = LoraConfig(rank=4, alpha=8, targets=("linear_fc2", "linear_fc1", "linear_qkv", "linear_proj"))
    refuse_other_adapters(with_adapters(LoraConfig(rank=4)), describe_adapters(written))


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (LoraConfig(), LoraConfig(rank=4), "lora.rank=none, not 4"),
        (LoraConfig(rank=4), LoraConfig(), "lora.rank=4, not none"),
        (LoraConfig(rank=4), LoraConfig(rank=4, alpha=4), r"lora\.alpha=8\.0, not 4"),
        (
            LoraConfig(rank=4),
            LoraConfig(rank=4, targets=("linear_qkv",)),
            r"targets=\[linear_fc1,.*, not \[linear_qkv\]",
        ),
    ],
)
def test_other_adapters_are_refused(before: LoraConfig, now: LoraConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse_other_adapters(with_adapters(before), describe_adapters(now))


def test_adapters_of_another_model_are_refused() -> None:
    lora = LoraConfig(rank=4)
    with pytest.raises(ConfigError, match="stand on another model"):
        refuse_other_adapters(with_adapters(lora), {**describe_adapters(lora), "base": "c"})
