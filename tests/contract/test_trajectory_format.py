"""docs/trajectory-format.md as an outsider reads it: h5py, json, zlib and nothing of ours."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest

from hpc.trajectories.check import check
from hpc.trajectories.layout import ARRAYS, TABLES
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import Record
from hpc.trajectories.writer import TrajectoryWriter
from tests.contract import plain_reader
from tests.unit.trajectories.samples import episode, run_dir

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "trajectory-format.md"
VERSION_1 = Path(__file__).parent / "version1"
"""Files that version 1 of the format wrote: a sealed one, and a log without an outcome."""


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    with TrajectoryWriter.open(run_dir(tmp_path), 0) as writer:
        writer.append(*episode(14))
        return writer.seal()


def plain(records: list[Record]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(msgspec.json.encode(record)) for record in records]


def without_prompts(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "prompt"} for record in records]


def test_an_outsider_reads_every_record(sealed: Path) -> None:
    records = plain_reader.read(sealed)
    assert without_prompts(records) == plain(episode(14))
    assert {record["type"] for record in records} == {
        "header", "attempt", "action", "observation", "alert", "guidance", "context", "snapshot", "outcome",
    }  # fmt: skip
    with Trajectory.open(sealed) as trajectory:
        prompts = [trajectory.prompt_token_ids(step) for step in range(1, 15)]
    assert [record["prompt"] for record in records if record["type"] == "action"] == prompts


def test_the_outsiders_reader_is_short() -> None:
    lines = [line for line in inspect.getsource(plain_reader.read).splitlines() if line.strip()]
    assert len(lines) <= 40  # with its signature, docstring and the checksums


def test_columns_repeat_the_json(sealed: Path) -> None:
    actions = [record for record in plain(episode(14)) if record["type"] == "action"]
    with h5py.File(sealed, "r") as file:
        assert file.attrs["episode_id"] == b"demo-00000"
        assert file.attrs["status"] == b"finished"
        assert file.attrs["environment_hash"] == b"e" * 64
        assert list(file["evaluations"]["score"]) == [50.0, 100.0]
        assert list(file["guidance"]["annotator"]) == [b"ada", b"ada"]
        boundaries = {value: name for name, value in h5py.check_enum_dtype(file["steps"].dtype["boundary"]).items()}
        steps = file["steps"][:]
        assert [boundaries[number] for number in steps["boundary"][:4]] == ["none", "none", "none", "tool"]
        for name, key in (("used_prompt_tokens", "prompt_tokens"), ("cost", "cost"), ("gpu_seconds", "gpu_seconds")):
            wanted = [np.nan if not a["usage"] or a["usage"][key] is None else a["usage"][key] for a in actions]
            assert np.array_equal(steps[name], wanted, equal_nan=True)
        assert [number for number in steps["duplicate_tokens"] if number] == [2]
        assert [int(file["contexts"][name][0]) for name in ("number", "after_step", "last_step")] == [1, 10, 7]
        assert list(file["snapshots"]["id"]) == [f"{10:064x}".encode()]
        reasons = {value: name for name, value in h5py.check_enum_dtype(file["snapshots"].dtype["reason"]).items()}
        assert reasons[file["snapshots"]["reason"][0]] == "interval"


def test_files_of_version_1_are_read_as_they_were() -> None:
    old = plain_reader.read(VERSION_1 / "sealed.h5")
    with Trajectory.open(VERSION_1 / "sealed.h5") as trajectory:
        ours = list(trajectory.records())
        assert trajectory.header.format_version == 1
        assert np.isnan(trajectory.table("steps")["cost"]).all()
        assert len(trajectory.table("contexts")) == len(trajectory.table("snapshots")) == 0
        assert trajectory.usage()["cost"] is None
        assert trajectory.summary()["snapshots"] == []
    assert len(ours) == len(old)
    for record, stored in zip(plain(ours), without_prompts(old), strict=True):
        assert {name: record[name] for name in stored} == stored
    with Trajectory.open(VERSION_1 / "log.frames") as trajectory:
        assert [type(record) for record in trajectory.records()] == [type(record) for record in ours[:-1]]
    assert [check(VERSION_1 / name).state for name in ("sealed.h5", "log.frames")] == ["whole", "whole"]


def test_an_episode_that_version_1_began_goes_on(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    run.log(1).parent.mkdir(parents=True)
    run.log(1).write_bytes((VERSION_1 / "log.frames").read_bytes())
    added = [record for record in episode(21, index=1)[3:] if getattr(record, "step", 0) > 14]
    with TrajectoryWriter.open(run, 1) as writer:
        before = len(writer.records)
        writer.append(*added, episode(21, index=1)[-1])
        path = writer.seal()
    assert check(path).findings == []
    assert len(plain_reader.read(path)) == before + len(added) + 1
    with h5py.File(path, "r") as file:
        assert file.attrs["format_version"] == 2  # what it holds, not what began it


def test_orders_are_a_count(sealed: Path) -> None:
    with h5py.File(sealed, "r") as file:
        orders = [int(order) for table in (*plain_reader.RECORDS, "steps") for order in file[table]["order"]]
        orders += [int(order) for order in file["steps"]["observed_order"]]
        assert sorted(orders) == list(range(file.attrs["records"]))


def test_the_document_names_every_table_array_and_column() -> None:
    words = set(re.findall(r"`([a-z_0-9]+)`", DOCUMENT.read_text()))
    named = {*TABLES, *ARRAYS}
    for dtype in TABLES.values():
        named |= set(dtype.names or ())
    assert named - words == set()


def test_the_document_names_every_field_of_every_record() -> None:
    words = set(re.findall(r"[a-z_0-9]+", DOCUMENT.read_text()))
    for kind in Record.__args__:
        assert {field.encode_name for field in msgspec.structs.fields(kind)} - words == set(), kind
