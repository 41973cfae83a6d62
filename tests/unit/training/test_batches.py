"""What the model is given: every token predicts the next one of its own example, and only trained ones count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpc.config.train import TrainConfig
from hpc.core.errors import ConfigError, DatasetError
from hpc.examples import Dataset, DatasetWriter, Example

pytest.importorskip("torch")

from hpc.training.batches import Feed, Share, packed_row, padded_rows, stripes, to_device
from hpc.training.packing import Position


def example(first: int, length: int, trained: list[int], **meta: str) -> Example:
    mask = np.zeros(length, np.uint8)
    mask[trained] = 1
    return Example(id=f"e{first}", tokens=np.arange(first, first + length, dtype=np.int32), loss_mask=mask, meta=meta)


A, B = example(10, 4, [2, 3]), example(20, 3, [1])


def test_a_packed_row_restarts_positions_and_shifts_within_each_example() -> None:
    row = packed_row([A, B], multiple=4)
    assert row.tokens.tolist() == [[10, 11, 12, 20, 21, 0, 0, 0]]
    assert row.labels.tolist() == [[11, 12, 13, 21, 22, 0, 0, 0]]
    assert row.loss_mask.tolist() == [[0, 1, 1, 1, 0, 0, 0, 0]]
    assert row.position_ids.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    assert row.ends == [3, 5, 8]


def test_a_row_that_fits_has_no_padding() -> None:
    assert packed_row([A, B]).ends == [3, 5]
    assert packed_row([A, B], length=5).ends == [3, 5]


@pytest.mark.parametrize("length", [None, 6])
def test_an_empty_row_is_padding_that_teaches_nothing(length: int | None) -> None:
    row = packed_row([], multiple=2, length=length)
    assert row.tokens.shape == (1, length or 2) and row.ends == [length or 2]
    assert row.loss_mask.sum() == 0


def test_rows_of_one_example_are_padded_to_the_longest() -> None:
    rows = padded_rows([A, None, B])
    assert rows.tokens.tolist() == [[10, 11, 12], [0, 0, 0], [20, 21, 0]]
    assert rows.labels.tolist() == [[11, 12, 13], [0, 0, 0], [21, 22, 0]]
    assert rows.loss_mask.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert rows.position_ids.tolist() == [[0, 1, 2]] * 3
    assert padded_rows([None], multiple=4).tokens.shape == (1, 4)


def test_packed_segments_reach_the_model_as_cumulative_lengths() -> None:
    batch = to_device(packed_row([A, B], multiple=8), Share())
    assert batch.packed is not None and batch.packed.qkv_format == "thd"
    assert batch.packed.cu_seqlens_q.tolist() == [0, 3, 5, 8] and batch.packed.max_seqlen_q == 3


def test_context_parallel_ranks_have_two_stripes_each_and_together_all() -> None:
    columns = np.arange(8)[None]
    assert [stripes(columns, rank, 2).tolist() for rank in (0, 1)] == [[[0, 1, 6, 7]], [[2, 3, 4, 5]]]


# ---- a feed

EXAMPLES = [example(100 * index, 3 + index % 4, [1, 2], task_id=f"t{index % 2}") for index in range(9)]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    with DatasetWriter(tmp_path / "d", about={}) as writer:
        for each in EXAMPLES:
            writer.add(each)
    return Dataset(tmp_path / "d")


def tokens_seen(dataset: Dataset, config: TrainConfig, ranks: int) -> list[int]:
    """First tokens of all examples that the ranks are given in one epoch."""
    seen = []
    for rank in range(ranks):
        feed, position = Feed(dataset, config, Share(dp_rank=rank, dp_size=ranks), vocabulary=1000), Position()
        for _ in range(feed.steps):
            portion = feed.batches(position)
            position = portion.after
            for batch in portion.batches:
                counted = batch.tokens[batch.loss_mask.bool()]
                seen += (counted[counted % 100 == 0]).tolist()
        assert position == Position(1, 0)
    return sorted(seen)


@pytest.mark.parametrize("packing", [True, False])
def test_the_ranks_are_given_every_example_once_whatever_their_number(dataset: Dataset, packing: bool) -> None:
    config = TrainConfig(seq_length=8, global_batch=4, packing=packing)
    assert tokens_seen(dataset, config, 1) == tokens_seen(dataset, config, 2) == [100 * index for index in range(9)]


def test_what_is_read_is_counted(dataset: Dataset) -> None:
    feed = Feed(dataset, TrainConfig(seq_length=8, global_batch=16), Share(), vocabulary=1000)
    portion = feed.batches(Position())
    assert feed.composition["examples"] == 9 and feed.composition["trained_tokens"] == 18
    assert (feed.composition["task_id=t0"], feed.composition["task_id=t1"]) == (5, 4)
    assert sorted(portion.lengths) == sorted(len(each.tokens) - 1 for each in EXAMPLES)


def test_one_pass_has_as_many_batches_on_every_rank(dataset: Dataset) -> None:
    config = TrainConfig(seq_length=8, global_batch=4, packing=False)
    passes = [
        list(Feed(dataset, config, Share(dp_rank=rank, dp_size=4), vocabulary=1000).every_row_once())
        for rank in range(4)
    ]
    assert [[len(batches) for batches in each] for each in passes] == [[1, 1, 1]] * 4
    assert sum(int(batch.loss_mask.sum()) for each in passes for batches in each for batch in batches) == 18


def test_full_rows_where_stages_expect_them(dataset: Dataset) -> None:
    config = TrainConfig(seq_length=8, global_batch=2)
    for batch in Feed(dataset, config, Share(static=True), vocabulary=1000).batches(Position()).batches:
        assert batch.tokens.shape == (1, 8)


def test_a_batch_that_the_ranks_cannot_share_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"train.global_batch is 6, no multiple of 4 data-parallel ranks"):
        Feed(dataset, TrainConfig(global_batch=6), Share(dp_size=4), vocabulary=1000)


def test_a_row_length_that_the_layout_cannot_divide_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"train.seq_length is 10, no multiple of 4"):
        Feed(dataset, TrainConfig(seq_length=10), Share(static=True, multiple=4), vocabulary=1000)


def test_tokens_that_the_model_does_not_know_are_refused(dataset: Dataset) -> None:
    feed = Feed(dataset, TrainConfig(seq_length=8, global_batch=16), Share(), vocabulary=700)
    with pytest.raises(DatasetError, match=r"has the token \d+, the model knows 700"):
        feed.batches(Position())
