"""docs/trajectory-format.md as an outsider reads it: h5py, json, zlib and nothing of ours."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest

from hpc.trajectories.layout import ARRAYS, TABLES
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories.samples import episode, run_dir

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "trajectory-format.md"


# ---- the outsider's reader ----------------------------------------------------------------------


def read_steps(path: Path) -> list[dict[str, Any]]:
    import hdf5plugin  # noqa: F401  lets h5py read zstd

    with h5py.File(path, "r") as file:
        assert file.attrs["format"] == b"apollo-hpc trajectory"
        assert file.attrs["format_version"] == 1
        text, tokens, logprobs = file["text"], file["tokens"], file["logprobs"]
        boundaries = {value: name for name, value in h5py.check_enum_dtype(file["steps"].dtype["boundary"]).items()}
        steps = []
        for row in file["steps"]:
            parts, raw = {}, b""
            for name in ("answer", "taken", "observation", "observed"):
                start, length = row[f"{name}_offset"], row[f"{name}_length"]
                parts[name] = text[start : start + length].tobytes()
                raw += parts[name]
            count = row["prompt_tokens"] + row["answer_tokens"]
            ids = tokens[row["token_offset"] : row["token_offset"] + count]
            probabilities = logprobs[row["logprob_offset"] : row["logprob_offset"] + row["logprob_length"]]
            blank = row.copy()
            blank["crc"] = 0
            assert zlib.crc32(blank.tobytes() + raw + ids.tobytes() + probabilities.tobytes()) == row["crc"]
            observed = json.loads(parts["observed"] or "null")
            steps.append({**json.loads(parts["taken"]), "text": parts["answer"].decode(), "observed": observed})
            steps[-1] |= {"new_prompt_ids": ids[: row["prompt_tokens"]].tolist(), "logprobs": probabilities.tolist()}
            steps[-1] |= {"token_ids": ids[row["prompt_tokens"] :].tolist(), "name": row["action"].decode()}
            steps[-1] |= {"output": parts["observation"].decode(), "boundary": boundaries[row["boundary"]]}
            steps[-1] |= {"score": None if np.isnan(row["score"]) else row["score"], "failed": bool(row["is_error"])}
        return steps


# ---- what it must find --------------------------------------------------------------------------


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    with TrajectoryWriter.open(run_dir(tmp_path), 0) as writer:
        writer.append(*episode(14))
        return writer.seal()


def test_an_outsider_reads_the_same_steps(sealed: Path) -> None:
    records = [msgspec.to_builtins(record) for record in episode(14)]
    actions = [record for record in records if record["type"] == "action"]
    observations = [record for record in records if record["type"] == "observation"]
    steps = read_steps(sealed)
    assert len(steps) == len(actions) == 14
    for step, action, seen in zip(steps, actions, observations, strict=True):
        observation = seen["observation"]
        score = (observation["evaluation"] or {}).get("score")
        assert step["output"] == observation["text"]
        assert step["name"] == action["action"]["name"]
        assert step["boundary"] == (observation["boundary"] or "none")
        assert (step["score"], step["failed"]) == (score, observation["is_error"])
        assert step["observed"] == {**seen, "observation": {**observation, "text": ""}}
        assert {key: step[key] for key in action} == action


def test_an_outsider_reads_every_other_record(sealed: Path) -> None:
    tables = {
        "header": "header",
        "attempts": "attempt",
        "alerts": "alert",
        "guidance": "guidance",
        "outcome": "outcome",
    }
    with h5py.File(sealed, "r") as file:
        text = file["text"][:].tobytes()
        for table, kind in tables.items():
            found = [json.loads(text[row["offset"] : row["offset"] + row["length"]]) for row in file[table]]
            assert found == [r for r in map(msgspec.to_builtins, episode(14)) if r["type"] == kind]
        assert file.attrs["episode_id"] == b"demo-00000"
        assert file.attrs["status"] == b"finished"
        assert list(file["evaluations"]["score"]) == [50.0, 100.0]
        assert list(file["guidance"]["annotator"]) == [b"ada", b"ada"]


def test_orders_are_a_count(sealed: Path) -> None:
    with h5py.File(sealed, "r") as file:
        tables = ("header", "attempts", "alerts", "guidance", "outcome", "steps")
        orders = [int(order) for table in tables for order in file[table]["order"]]
        orders += [int(order) for order in file["steps"]["observed_order"]]
        assert sorted(orders) == list(range(file.attrs["records"]))


def test_the_document_names_every_table_array_and_column() -> None:
    words = set(re.findall(r"`([a-z_0-9]+)`", DOCUMENT.read_text()))
    named = {*TABLES, *ARRAYS}
    for dtype in TABLES.values():
        named |= set(dtype.names or ())
    assert named - words == set()
