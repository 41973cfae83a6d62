"""Bytes to messages and back: map-encoded msgpack, checked before anything acts on it.

A frame that cannot be taken yields a `Refusal`, which says what to answer with `Reject`. A refusal
without ``parent`` cannot be answered: nobody could tell what it refers to.
"""

from __future__ import annotations

import contextlib
import functools
import math
from typing import Any, Generic, TypeVar

import msgspec
import msgspec.inspect

from hpc.core.errors import WireDecodeError, WireError, WireVersionError
from hpc.wire.messages import MAX_MESSAGE, PROTOCOL_VERSION, Envelope, Message, RejectCode

MAX_INTEGER = 2**53
"""Largest magnitude of a number: what any language and JSON can carry."""

M = TypeVar("M", bound=Envelope)

_encoder = msgspec.msgpack.Encoder()


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a frame is not a message. ``parent`` is its id, empty where none can be read."""

    parent: str
    code: RejectCode
    reason: str


def encode(message: Envelope, *, limit: int = MAX_MESSAGE) -> bytes:
    """One frame of ``limit`` bytes at most.

    Raises:
        WireError: the message is larger.
    """
    data = _encoder.encode(message)
    if len(data) > limit:
        raise WireError(
            f"{type(message).__name__} {message.id} has {len(data)} bytes, the limit is {limit}",
            "send a path and an offset instead of the body",
        )
    return data


_UNREADABLE = (msgspec.DecodeError, RecursionError, ValueError, OverflowError)
"""What decoders raise; text that is not UTF-8 is a bare ValueError."""


class _Name(msgspec.Struct, frozen=True):
    """What can be known of a message that cannot be read."""

    id: str = ""


class _Head(_Name, frozen=True):
    type: str | int | float | bool | None = None
    v: str | int | float | bool | None = PROTOCOL_VERSION


_HEADS = (msgspec.msgpack.Decoder(_Head), msgspec.msgpack.Decoder(_Name))


class Codec(Generic[M]):
    """Reads the messages of one tagged union, such as `Message`, of ``limit`` bytes at most."""

    def __init__(self, union: Any, *, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(union)
        self._types = {kind.__struct_config__.tag for kind in getattr(union, "__args__", (union,))}

    def examine(self, data: bytes) -> M | Refusal:
        """The message in ``data``, or why there is none. Never raises on any bytes."""
        if len(data) > self._limit:
            return self._refuse(data, "too_large", f"{len(data)} bytes, the limit is {self._limit}")
        try:
            message = self._decoder.decode(data)
        except _UNREADABLE as error:
            return self._refuse(data, "malformed", str(error))
        if message.v != PROTOCOL_VERSION:
            return self._refuse(data, "version", "")
        problem = _number_problem(message)
        if problem:
            return Refusal(parent=message.id, code="malformed", reason=problem)
        return message

    def decode(self, data: bytes) -> M:
        """The message in ``data``.

        Raises:
            WireVersionError: it is of a newer major version.
            WireDecodeError: it is not a message.
        """
        found = self.examine(data)
        if not isinstance(found, Refusal):
            return found
        if found.code == "version":
            raise WireVersionError(found.reason, "run router and agents from the same installation")
        raise WireDecodeError(f"not a message of the protocol: {found.reason}", "see docs/protocol.md")

    def _refuse(self, data: bytes, code: RejectCode, reason: str) -> Refusal:
        head: _Name = _Name()
        for decoder in _HEADS:  # the rest is skipped, not built: a few bytes can stand for a great many objects
            with contextlib.suppress(*_UNREADABLE):
                head = decoder.decode(data)
                break
        parent = head.id
        if not isinstance(head, _Head):
            return Refusal(parent=parent, code=code, reason=reason)
        if head.v != PROTOCOL_VERSION:
            reason = f"version {head.v!r}, this side speaks {PROTOCOL_VERSION}"
            return Refusal(parent=parent, code="version", reason=reason)
        if code == "malformed" and isinstance(head.type, str) and head.type not in self._types:
            return Refusal(parent=parent, code="type", reason=f"unknown type {head.type!r}")
        return Refusal(parent=parent, code=code, reason=reason)


@functools.cache
def _numbers_of(kind: type[Envelope]) -> tuple[str, ...]:
    """The fields that hold a number."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    return tuple(field.encode_name for field in info.fields if _may_be_number(field.type))


def _may_be_number(kind: msgspec.inspect.Type) -> bool:
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(map(_may_be_number, kind.types))
    return isinstance(kind, msgspec.inspect.IntType | msgspec.inspect.FloatType)


def _number_problem(message: Envelope) -> str:
    """What is wrong with the numbers of a message: databases and JSON take neither NaN nor 2**63."""
    for name in _numbers_of(type(message)):
        value = getattr(message, name)
        if value is None or isinstance(value, str) or -MAX_INTEGER <= value <= MAX_INTEGER:  # false for NaN
            continue
        return f"{name} is beyond 2**53" if math.isfinite(value) else f"{name} is {value}"
    return ""


MESSAGES: Codec[Message] = Codec(Message)
"""The codec of the agents' socket."""


def decode(data: bytes) -> Message:
    """`Codec.decode` for the agents' messages."""
    return MESSAGES.decode(data)
