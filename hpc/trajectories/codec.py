"""Records as bytes: msgpack in the log, JSON in HDF5. Both give back the same record.

What JSON cannot say is replaced before a record is first written, so that the log and the sealed
file never differ: keys become strings, bytes base64, numbers beyond 64 bits and unknown types
text, lone surrogates question marks. An agent's odd output must not be able to stop its episode.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec.structs import replace

from hpc.trajectories.records import (
    Action,
    ActionTaken,
    EpisodeHeader,
    Observation,
    Observed,
    Record,
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    """The record as msgpack, the payload of a frame of the log."""
    record = _storable(record)
    try:
        return _encoder.encode(record)
    except (UnicodeEncodeError, OverflowError):
        cleaned = _clean(msgspec.to_builtins(record))
        return _encoder.encode(msgspec.convert(cleaned, type(record), strict=False))


def decode(payload: bytes) -> Record:
    """The record in a frame.

    Raises:
        ValueError: the bytes are not a record of this format.
    """
    try:
        record: Record = _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a record: {error}") from error
    return record


def to_json(record: Record, *, without: tuple[str, ...] = ()) -> bytes:
    """The record as UTF-8 JSON, leaving out the fields in ``without``. Not-a-number and infinity
    are written as JavaScript does."""
    value = msgspec.to_builtins(record)
    for field in without:
        value.pop(field)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def from_json(data: bytes, /, **fields: Any) -> Record:
    """The record that `to_json` wrote, with the left-out ``fields`` put back.

    Raises:
        ValueError: the bytes are not a record of this format.
    """
    try:
        record: Record = msgspec.convert({**json.loads(data), **fields}, Record)
    except (msgspec.MsgspecError, TypeError, RecursionError) as error:
        raise ValueError(f"not a record: {error}") from error
    return record


def _storable(record: Record) -> Record:
    """The record with plain JSON values where its type allows anything."""
    if isinstance(record, ActionTaken):
        arguments, calls = _plain(record.action.arguments), _plain(record.tool_calls)
        action: Action = replace(record.action, arguments=arguments)
        return replace(record, action=action, tool_calls=calls)
    if isinstance(record, Observed) and record.observation.info:
        observation: Observation = replace(record.observation, info=_plain(record.observation.info))
        return replace(record, observation=observation)
    if isinstance(record, EpisodeHeader):
        return replace(record, messages=_plain(record.messages), tools=_plain(record.tools))
    return record


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, str_keys=True, enc_hook=str)


def _clean(value: Any) -> Any:
    """Replace what msgpack refuses in builtins: text that is not Unicode, integers beyond 64 bits."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    return value
