from __future__ import annotations

import math
import pickle

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc.core.errors import WireDecodeError, WireError, WireVersionError
from hpc.wire.codec import MESSAGES, Refusal, decode, encode
from hpc.wire.inbox import REQUESTS, ListAlerts
from hpc.wire.messages import MAX_MESSAGE, Ack, Alert, Guidance, Hello, Progress, StepBrief

HELLO = Hello(id="h1", sent_at=1.0, run="r", episode="r-00000", epoch=1, token="t")


def pack(**fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


def test_a_message_survives_the_wire() -> None:
    alert = Alert(
        id="r-00000-a1",
        sent_at=2.5,
        episode="r-00000",
        epoch=3,
        detector="loop",
        score=0.5,
        step=4,
        reason="größer",
        evidence=[StepBrief(step=4, action="a", observation="o", is_error=True)],
    )
    assert decode(encode(alert)) == alert


def test_unknown_fields_are_ignored_and_defaults_filled_in() -> None:
    frame = pack(type="hello", id="h1", sent_at=1, run="r", episode="r-00000", epoch=1, token="t", colour="red")
    assert decode(frame) == HELLO


@pytest.mark.parametrize(
    ("frame", "parent", "code"),
    [
        (pack(type="shout", id="m1", sent_at=1.0), "m1", "type"),
        (pack(type="hello", id="m1", sent_at=1.0, v=2), "m1", "version"),
        (pack(type="newer", id="m1", v=9), "m1", "version"),
        (pack(type="ack", id="m1", sent_at=1.0, parent="p", status="maybe"), "m1", "malformed"),
        (pack(type="ack", id="m1", sent_at="now", parent="p", status="stored"), "m1", "malformed"),
        (pack(type="hello", id="m1"), "m1", "malformed"),
        (pack(type=["hello"], id="m1"), "m1", "malformed"),
        (pack(id="m1"), "m1", "malformed"),
        (pack(type="hello", id=5, sent_at=1.0), "", "malformed"),
        (msgspec.msgpack.encode([1, 2]), "", "malformed"),
        (b"", "", "malformed"),
        (b"\xc1", "", "malformed"),
        (b"\x91" * 100_000, "", "malformed"),
        (encode(HELLO)[:-3], "", "malformed"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(frame: bytes, parent: str, code: str) -> None:
    found = MESSAGES.examine(frame)
    assert isinstance(found, Refusal)
    assert (found.parent, found.code) == (parent, code)
    assert found.reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_no_database_takes_are_refused(value: float) -> None:
    progress = Progress(id="p1", sent_at=1.0, episode="r-00000", epoch=1, step=1, state="running", drift=value)
    found = MESSAGES.examine(encode(progress))
    assert isinstance(found, Refusal)
    assert (found.parent, found.code, found.reason) == ("p1", "malformed", f"drift is {value}")


def test_integers_beyond_the_common_range_are_refused() -> None:
    found = MESSAGES.examine(encode(msgspec.structs.replace(HELLO, epoch=2**63)))
    assert isinstance(found, Refusal)
    assert found.code == "malformed"


def test_a_message_that_is_too_large_is_neither_sent_nor_taken() -> None:
    guidance = Guidance(id="g1", sent_at=1.0, episode="r-00000", alert=None, annotator="ada", text="x" * MAX_MESSAGE)
    with pytest.raises(WireError, match="limit is 1048576"):
        encode(guidance)
    found = MESSAGES.examine(encode(guidance, limit=2 * MAX_MESSAGE))
    assert isinstance(found, Refusal)
    assert (found.parent, found.code) == ("g1", "too_large")


def test_decode_raises_errors_that_survive_pickling() -> None:
    with pytest.raises(WireVersionError) as newer:
        decode(pack(type="hello", id="m1", v=2))
    with pytest.raises(WireDecodeError) as rubbish:
        decode(b"rubbish")
    assert pickle.loads(pickle.dumps(newer.value)).message == newer.value.message
    assert "protocol.md" in rubbish.value.hint


def test_the_sockets_do_not_take_each_others_messages() -> None:
    request = ListAlerts(id="q1", sent_at=1.0)
    found = MESSAGES.examine(encode(request))
    assert isinstance(found, Refusal)
    assert found.code == "type"
    found_too = REQUESTS.examine(encode(Ack(id="a", sent_at=1.0, parent="p", status="stored")))
    assert isinstance(found_too, Refusal)
    assert found_too.code == "type"


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_whatsoever_make_the_codec_raise(frame: bytes) -> None:
    MESSAGES.examine(frame)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(
    st.sampled_from(["hello", "alert", "guidance", "ack", "progress", "bye", "reject"]),
    st.dictionaries(
        st.sampled_from(["id", "sent_at", "v", "episode", "epoch", "parent", "status", "step", "evidence", "score"]),
        VALUES,
    ),
)
def test_no_mixture_of_fields_makes_the_codec_raise(kind: str, fields: dict[str, object]) -> None:
    MESSAGES.examine(msgspec.msgpack.encode({"type": kind, **fields}))
