"""Rows of examples: deterministic, complete, never too long, the same in every layout."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc.config.train import TrainConfig
from hpc.core.errors import ConfigError, DatasetError
from hpc.examples import Dataset, DatasetWriter, Example
from hpc.training.packing import (
    WINDOW,
    Intake,
    Position,
    Rows,
    best_fit,
    fingerprint,
    require_same_data,
    require_tokenizer,
    share,
    take_in,
)


def intake(lengths: list[int]) -> Intake:
    positions = np.array(lengths)
    return Intake(numbers=np.arange(len(lengths)), positions=positions, examples=len(lengths), tokens=sum(lengths))


def example(name: str, spans: list[tuple[int, int]]) -> Example:
    """(length, whether it is trained) of consecutive spans."""
    mask = np.concatenate([np.full(length, trained, np.uint8) for length, trained in spans])
    return Example(id=name, tokens=np.arange(len(mask), dtype=np.int32), loss_mask=mask)


def dataset(folder: Path, examples: list[Example]) -> Dataset:
    with DatasetWriter(folder, about={}) as writer:
        for each in examples:
            writer.add(each)
    return Dataset(folder)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_example_is_in_exactly_one_row_that_has_room_for_it(lengths: list[int], epoch: int) -> None:
    rows = Rows(intake(lengths), room=50, seed=7, packing=True).epoch(epoch)
    assert Counter(index for row in rows for index in row) == Counter(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= 50 for row in rows)


def test_packing_wastes_little() -> None:
    lengths = np.random.default_rng(0).integers(10, 1000, 3 * WINDOW).tolist()
    rows = Rows(intake(lengths), room=2048, seed=1, packing=True).epoch(0)
    assert sum(lengths) / (len(rows) * 2048) > 0.97


def test_the_order_is_of_the_seed_and_the_epoch() -> None:
    lengths = [5] * 40
    rows = Rows(intake(lengths), room=10, seed=1, packing=True)
    again = Rows(intake(lengths), room=10, seed=1, packing=True)
    other = Rows(intake(lengths), room=10, seed=2, packing=True)
    assert rows.epoch(0) == again.epoch(0)
    assert rows.epoch(0) != rows.epoch(1)
    assert rows.epoch(0) != other.epoch(0)


def test_an_example_longer_than_a_row_is_no_row() -> None:
    with pytest.raises(ValueError, match="does not fit into a row of 4"):
        best_fit([0], np.array([5]), 4)


@given(st.integers(1, 7), st.integers(1, 3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_batches_cover_the_epochs_once_and_end_with_empty_rows(count: int, epochs: int, packing: bool) -> None:
    rows = Rows(intake([3, 4, 5, 2, 1, 6, 3, 3, 4, 1, 2]), room=8, seed=3, packing=packing)
    position, taken = Position(), []
    while position.epoch < epochs:
        part, position = rows.take(position, count, epochs=epochs)
        assert len(part) == count
        taken += part
    real = [row for row in taken if row]
    assert len(real) == rows.total(epochs)
    assert Counter(index for row in real for index in row) == Counter(dict.fromkeys(range(11), epochs))
    assert all(taken[: len(real)])  # only the tail is empty


def test_a_position_continues_where_it_was() -> None:
    rows = Rows(intake([1] * 10), room=1, seed=3, packing=False)
    whole, _ = rows.take(Position(), 15, epochs=2)
    first, middle = rows.take(Position(), 6, epochs=2)
    rest, _ = rows.take(middle, 9, epochs=2)
    assert first + rest == whole


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 1), (2, 1), (4, 1), (2, 2), (1, 8)])
def test_the_ranks_share_a_batch_without_gap_or_overlap(ranks: int, micro_batch: int) -> None:
    rows = [[index] for index in range(8)]
    shares = [list(share(rows, rank=rank, ranks=ranks, micro_batch=micro_batch)) for rank in range(ranks)]
    assert {len(each) for each in shares} == {8 // ranks // micro_batch}
    assert sorted(index for each in shares for micro in each for (index,) in micro) == list(range(8))


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="8 rows cannot be shared by 3 ranks"):
        list(share([[0]] * 8, rank=0, ranks=3, micro_batch=1))


# ---- overlong examples

LONG = example("long", [(4, 0), (3, 1), (2, 0), (4, 1), (1, 0)])
"""Fourteen tokens: actions end after 7 and after 13."""


def test_overlong_examples_are_refused_by_default(tmp_path: Path) -> None:
    with (
        dataset(tmp_path / "d", [example("short", [(3, 0), (2, 1)]), LONG]) as data,
        pytest.raises(DatasetError, match=r"1 of 2 examples .* longer than train.seq_length=9; the longest, long"),
    ):
        take_in(data, TrainConfig(seq_length=9))


@pytest.mark.parametrize(("room", "kept"), [(13, 14), (12, 13), (11, 7), (6, 7), (5, 0)])
def test_truncation_ends_with_a_whole_action(tmp_path: Path, room: int, kept: int) -> None:
    with dataset(tmp_path / "d", [example("short", [(3, 0), (2, 1)]), LONG]) as data:
        taken = take_in(data, TrainConfig(seq_length=room, overlong="truncate"))
    assert taken.positions.tolist() == [4, kept - 1] if kept else [4]
    assert taken.lost_tokens == 14 - kept
    assert taken.lost_trained == {14: 0, 13: 0, 7: 4, 0: 7}[kept]
    assert (taken.truncated, taken.dropped) == (int(0 < kept < 14), int(kept == 0))


def test_dropping_is_counted(tmp_path: Path) -> None:
    with dataset(tmp_path / "d", [LONG, example("short", [(3, 0), (2, 1)]), LONG]) as data:
        taken = take_in(data, TrainConfig(seq_length=8, overlong="drop"))
    assert taken.numbers.tolist() == [1]
    report = taken.report()
    assert (report["dropped_examples"], report["lost_tokens"], report["lost_trained_tokens"]) == (2, 28, 14)


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with (
        dataset(tmp_path / "d", [LONG]) as data,
        pytest.raises(DatasetError, match=r"nothing of .* can be trained on"),
    ):
        take_in(data, TrainConfig(seq_length=8, overlong="drop"))


# ---- tokenizers


def test_a_dataset_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    about = {"tokenizer": {"sha256": hashlib.sha256(b"{}").hexdigest()}}
    with DatasetWriter(tmp_path / "d", about=about) as writer:
        writer.add(LONG)
    with Dataset(tmp_path / "d") as data:
        require_tokenizer(data, tmp_path)
        require_tokenizer(data, tmp_path / "none")
        (tmp_path / "tokenizer.json").write_text("{ }")
        with pytest.raises(DatasetError, match="built with another tokenizer"):
            require_tokenizer(data, tmp_path)


def test_a_dataset_that_names_no_tokenizer_is_taken(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with dataset(tmp_path / "d", [LONG]) as data:
        require_tokenizer(data, tmp_path)


# ---- positions


def test_a_position_in_other_rows_is_refused(tmp_path: Path) -> None:
    with dataset(tmp_path / "d", [LONG]) as data:
        before = fingerprint(TrainConfig(seed=1, global_batch=8), data)
        require_same_data(fingerprint(TrainConfig(seed=1, global_batch=8, steps=5), data), before, tmp_path)
        with pytest.raises(ConfigError, match=r"other data or rows \(global_batch, seed differ\)"):
            require_same_data(fingerprint(TrainConfig(seed=2, global_batch=4), data), before, tmp_path)
    with dataset(tmp_path / "e", [LONG, LONG]) as other, pytest.raises(ConfigError, match=r"\(content differ\)"):
        require_same_data(fingerprint(TrainConfig(seed=1, global_batch=8), other), before, tmp_path)
