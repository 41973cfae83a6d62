from __future__ import annotations

import datetime
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hpc.trajectories import codec
from hpc.trajectories.records import Action, ActionTaken, Observation, Observed, Record
from tests.unit.trajectories.samples import episode, header

texts = st.text(st.characters(), max_size=20)  # lone surrogates too
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("record", episode(6), ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert codec.decode(codec.encode(record)) == record
    assert codec.from_json(codec.to_json(record)) == record


@given(st.dictionaries(texts, anything, max_size=3), texts)
def test_whatever_an_agent_says_can_be_stored_alike_in_log_and_json(arguments: dict[str, Any], text: str) -> None:
    record = ActionTaken(step=1, at=1.0, action=Action(name=text, arguments=arguments), text=text)
    logged = codec.decode(codec.encode(record))
    assert codec.from_json(codec.to_json(logged)) == logged


def test_what_json_cannot_say_is_replaced() -> None:
    info = {"when": datetime.date(2026, 1, 2), "big": 10**30, "raw": b"\xff", "by": {1: "one"}}
    record = Observed(step=1, at=1.0, observation=Observation(text="a\ud800b", info=info))
    stored = codec.decode(codec.encode(record))
    assert isinstance(stored, Observed)
    assert stored.observation.text == "a?b"
    assert stored.observation.info == {"when": "2026-01-02", "big": str(10**30), "raw": "/w==", "by": {"1": "one"}}


def test_numbers_beyond_numbers_survive() -> None:
    record = Observed(step=1, at=1.0, observation=Observation(text="", info={"loss": math.inf}))
    assert codec.from_json(codec.to_json(record)) == record
    strange = replace(record, observation=Observation(text="", info={"loss": math.nan}))
    stored = codec.from_json(codec.to_json(strange))
    assert isinstance(stored, Observed)
    assert math.isnan(stored.observation.info["loss"])


def test_left_out_fields_are_put_back() -> None:
    rest = codec.to_json(header(), without=("messages",))
    assert b"messages" not in rest
    assert codec.from_json(rest, messages=header().messages) == header()


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\xff" * 9, b"[]", b'{"type":"nonsense"}', b'{"type":"attempt"}', b"\xc3"]
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        codec.decode(data)
    with pytest.raises(ValueError):
        codec.from_json(data)
