"""Datasets for other trainers: what is trained there is what is trained here, or the row is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpc.core.errors import DatasetError
from hpc.datasets.builder import build
from hpc.datasets.export import FORMS, IGNORED, MIXED, REWRITTEN, export
from hpc.examples import Dataset
from tests.unit.datasets.scripted import Verdict, chat, config, episode, store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole episode, one with an answer as context only, one whose context was rewritten."""
    root = tmp_path_factory.mktemp("export")
    episodes = [episode(3), episode(3, name="demo-00001"), episode(4, name="demo-00002", summary_at=3)]

    def decide(trajectory: Any) -> dict[int, Verdict]:
        bad = 2 if trajectory.header.index == 1 else 0
        return {step: Verdict(step != bad, "bad") for step in range(1, 5)}

    build(store(root / "run", *episodes), root / "set", config(filter=True), chat(), decide, name="set")
    return root / "set"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("reader", ["trl", "axolotl"])
def test_forms_of_tokens_hold_every_example_exactly(folder: Path, tmp_path: Path, reader: str) -> None:
    done = export(folder, tmp_path / "out.jsonl", parquet=False, reader=reader)
    assert done.written == 4 and not done.left_out
    with Dataset(folder) as dataset:
        for row, example in zip(rows(tmp_path / "out.jsonl"), dataset, strict=True):
            assert row["input_ids"] == example.tokens.tolist()
            assert [label != IGNORED for label in row["labels"]] == example.loss_mask.astype(bool).tolist()
            assert all(label in (IGNORED, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))


def test_slime_is_told_which_answers_are_context_only(folder: Path, tmp_path: Path) -> None:
    done = export(folder, tmp_path / "out.jsonl", parquet=False, reader="slime")
    assert done.left_out == {REWRITTEN: 1}
    flags = [
        [told["step_loss_mask"] for told in row["messages"] if "step_loss_mask" in told]
        for row in rows(tmp_path / "out.jsonl")
    ]
    assert flags == [[1, 1, 1], [1, 0, 1], [1, 1]]


def test_what_verl_would_train_wrongly_is_left_out(folder: Path, tmp_path: Path) -> None:
    done = export(folder, tmp_path / "out.jsonl", parquet=False, reader="verl")
    assert done.left_out == {REWRITTEN: 1, MIXED: 1} and done.written == 2
    assert any("token ids" in loss for loss in done.lost)


def test_parquet_has_messages_and_tokens_with_their_masks(folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    done = export(folder, tmp_path / "out.parquet", parquet=True)
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert done.written == len(table) == 4
    assert table[1]["loss_mask"] == [0, 0, 1, 0, 0, 0, 1]
    assert [told["role"] for told in table[1]["messages"]][:3] == ["system", "user", "assistant"]
    with Dataset(folder) as dataset:
        assert [row["tokens"] for row in table] == [example.tokens.tolist() for example in dataset]
        assert [row["token_loss_mask"] for row in table] == [example.loss_mask.tolist() for example in dataset]
    assert table[3]["messages"] == [] and len(table[3]["tokens"]) > 0  # rewritten


def test_a_file_is_not_replaced_unasked_and_never_half_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(DatasetError, match="exists already"):
        export(folder, out, parquet=False)
    with pytest.raises(DatasetError, match="split"):
        export(folder, out, parquet=False, split="validation", overwrite=True)
    assert out.read_text() == "mine" and list(tmp_path.iterdir()) == [out]
    assert export(folder, out, parquet=False, overwrite=True).written == 4
    assert set(FORMS) == {"trl", "axolotl", "slime", "verl"}
