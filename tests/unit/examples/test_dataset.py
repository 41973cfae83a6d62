"""Datasets on disk: what goes in comes out, and nothing half-written passes for whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpc.core.errors import DatasetError
from hpc.examples import Dataset, DatasetWriter, Example


def an_example(number: int, length: int = 50, **fields: Any) -> Example:
    random = np.random.default_rng(number)
    mask = random.integers(0, 2, length).astype(np.uint8)
    mask[0] = 0
    tokens = random.integers(0, 1000, length).astype(np.int32)
    meta = {"episode_id": f"run/{number}", "task_id": "t", "wörd": [number]}
    return Example(**{"id": f"e{number}", "tokens": tokens, "loss_mask": mask, "meta": meta} | fields)


def assert_same(one: Example, other: Example) -> None:
    assert (one.id, one.meta) == (other.id, other.meta)
    for name in ("tokens", "loss_mask", "logprobs", "advantages"):
        before, after = getattr(one, name), getattr(other, name)
        assert (before is None) == (after is None)
        if before is not None:
            np.testing.assert_array_equal(before, after)
            assert before.dtype == after.dtype


def test_examples_come_back_over_many_shards_and_splits(tmp_path: Path) -> None:
    given = [an_example(number, 1 + number) for number in range(200)]
    with DatasetWriter(tmp_path / "d", about={"arm": "x"}, shard_tokens=3000) as writer:
        for number, example in enumerate(given):
            writer.add(example, split="validation" if number % 10 == 0 else "train")
    with Dataset(tmp_path / "d") as train, Dataset(tmp_path / "d", split=None) as everything:
        assert len(train.shards) > 3
        assert train.manifest.about == {"arm": "x"}
        train.check_files()
        expected = [example for number, example in enumerate(given) if number % 10]
        assert [len(example.tokens) for example in expected] == train.lengths.tolist()
        for before, after in zip(expected, train, strict=True):
            assert_same(before, after)
        assert_same(train[len(train) - 1], expected[-1])
        assert len(everything) == 200
        with pytest.raises(IndexError):
            train[len(train)]


def test_logprobs_and_advantages_are_kept(tmp_path: Path) -> None:
    logprobs = np.full(50, np.nan, np.float32)
    logprobs[7] = -0.25
    example = an_example(1, logprobs=logprobs, advantages=np.linspace(-1, 1, 50, dtype=np.float32))
    with DatasetWriter(tmp_path / "d", about={}) as writer:
        writer.add(example)
        with pytest.raises(DatasetError, match="logprobs, advantages"):
            writer.add(an_example(2))
    with Dataset(tmp_path / "d") as dataset:
        assert_same(example, dataset[0])


def test_the_same_examples_have_the_same_content_hash(tmp_path: Path) -> None:
    manifests = []
    for name, numbers in (("a", (1, 2)), ("b", (1, 2)), ("c", (2, 1))):
        with DatasetWriter(tmp_path / name, about={}) as writer:
            for number in numbers:
                writer.add(an_example(number))
        assert writer.manifest is not None
        manifests.append(writer.manifest)
    assert manifests[0].content == manifests[1].content != manifests[2].content


def test_an_exception_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), DatasetWriter(tmp_path / "d", about={}, shard_tokens=60) as writer:
        for number in range(5):
            writer.add(an_example(number))
        raise RuntimeError("stop")
    assert not (tmp_path / "d").exists()


def test_a_build_that_was_killed_is_no_dataset_and_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "shard-00000.h5").write_bytes(b"left")
    (tmp_path / "d" / "shard-00001.h5.tmp").write_bytes(b"left")
    with pytest.raises(DatasetError, match="no whole dataset"):
        Dataset(tmp_path / "d")
    with DatasetWriter(tmp_path / "d", about={}) as writer:
        writer.add(an_example(1))
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["manifest.json", "shard-00000.h5"]
    with pytest.raises(DatasetError, match="already"):
        DatasetWriter(tmp_path / "d", about={})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_mask": np.zeros(49, np.uint8)}, "loss_mask has shape"),
        ({"loss_mask": np.ones(50, np.uint8)}, "first token"),
        ({"loss_mask": np.full(50, 2, np.uint8)}, "other values"),
        ({"tokens": np.full(50, -1, np.int32)}, "negative"),
        ({"tokens": np.zeros(0, np.int32), "loss_mask": np.zeros(0, np.uint8)}, "empty"),
    ],
)
def test_what_is_not_valid_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=f"e3.*{message}"), DatasetWriter(tmp_path / "d", about={}) as writer:
        writer.add(an_example(3, **fields))


def test_damage_is_an_error_never_a_wrong_value(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    with DatasetWriter(folder, about={}) as writer:
        for number in range(20):
            writer.add(an_example(number))
    shard = folder / "shard-00000.h5"
    whole = shard.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        data[random.integers(len(data))] ^= 1 << int(random.integers(8))
        shard.write_bytes(data[: len(data) if random.random() < 0.7 else random.integers(len(data))])
        try:
            with Dataset(folder) as dataset:
                with pytest.raises(DatasetError):
                    dataset.check_files()
                for number, example in enumerate(dataset):
                    np.testing.assert_array_equal(example.tokens, an_example(number).tokens)
        except DatasetError:
            continue


def test_unknown_splits_and_manifests_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    with DatasetWriter(folder, about={}) as writer:
        writer.add(an_example(1))
    with pytest.raises(DatasetError, match="'test'") as caught:
        Dataset(folder, split="test")
    assert "train" in caught.value.hint
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(DatasetError, match="version 9"):
        Dataset(folder)
    manifest.write_text("{")
    with pytest.raises(DatasetError, match="cannot read"):
        Dataset(folder)
