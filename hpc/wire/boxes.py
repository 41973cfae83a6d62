"""An episode's post on disk: what it must still get through, and what it has received.

Both are framed logs in the episode's folder; a line is durable when the method that wrote it returns.
They belong to one process at a time, which holds their lock. What is settled leaves only its id
behind once enough of it has gathered, so the files stay as small as what is still under way.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import msgspec

from hpc.core.errors import HpcError
from hpc.core.framed import FramedLog
from hpc.wire.codec import encode
from hpc.wire.messages import Ack, Alert, Bye, Guidance

log = logging.getLogger(__name__)


class _Queued(msgspec.Struct, frozen=True, tag="queued"):
    id: str
    body: bytes


class _Settled(msgspec.Struct, frozen=True, tag="settled"):
    id: str


class _Known(msgspec.Struct, frozen=True, tag="known"):
    ids: list[str]


class _Received(msgspec.Struct, frozen=True, tag="received"):
    guidance: Guidance
    at: float


GARBAGE = 256 * 1024
"""So many bytes of settled messages are left in the file before it is written anew."""


class Outbox:
    """Messages the router must get, in order. A message is settled once the router stored (or for
    good refused) it."""

    def __init__(self, path: Path) -> None:
        self._log = FramedLog(path)
        self._pending: dict[str, bytes] = {}
        self._known: set[str] = set()
        self._garbage = 0
        decoder = msgspec.msgpack.Decoder(_Queued | _Settled | _Known)
        for frame in self._log.frames:
            match decoder.decode(frame):
                case _Known(ids=ids):
                    self._known.update(ids)
                case _Queued(id=name, body=body):
                    self._known.add(name)
                    self._pending[name] = body
                case _Settled(id=name):
                    self._garbage += len(self._pending.pop(name, b""))
        self._log.frames.clear()

    @property
    def pending(self) -> dict[str, bytes]:
        """Id -> frame of what is not settled, oldest first."""
        return dict(self._pending)

    def __contains__(self, message_id: str) -> bool:
        """Whether a message of this id was ever added."""
        return message_id in self._known

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, message: Alert | Ack | Bye) -> None:
        """Take a message in, once per id.

        Raises:
            HpcError: the disk is full; the message was not taken.
        """
        if message.id in self._known:
            return
        body = encode(message)
        self._log.append(msgspec.msgpack.encode(_Queued(message.id, body)))
        self._known.add(message.id)
        self._pending[message.id] = body

    def settle(self, message_id: str) -> bool:
        """Note that nothing more is to be done for a message; False when there was nothing to do.

        Raises:
            HpcError: the disk is full; the message stays pending and will be sent again.
        """
        if message_id not in self._pending:
            return False
        self._log.append(msgspec.msgpack.encode(_Settled(message_id)))
        self._garbage += len(self._pending.pop(message_id))
        if self._garbage > GARBAGE:
            self._compact()
        return True

    def _compact(self) -> None:
        """Write the file anew without the bodies of what is settled."""
        self._garbage = 0  # also after a failure: the next try comes after as much again
        settled = [name for name in self._known if name not in self._pending]
        frames = [_Known(settled), *(_Queued(name, body) for name, body in self._pending.items())]
        try:
            self._log.rewrite(map(msgspec.msgpack.encode, frames))
        except HpcError as error:
            log.warning("%s", error)

    def close(self) -> None:
        """Release the file."""
        self._log.close()


class Inbox:
    """Guidance that arrived, in order, each with the time at which it became durable here."""

    def __init__(self, path: Path) -> None:
        self._log = FramedLog(path)
        self._received: dict[str, tuple[Guidance, float]] = {}
        decoder = msgspec.msgpack.Decoder(_Received)
        for frame in self._log.frames:
            received = decoder.decode(frame)
            self._received[received.guidance.id] = (received.guidance, received.at)
        self._log.frames.clear()

    @property
    def received(self) -> list[tuple[Guidance, float]]:
        """All guidance and when it was delivered, oldest first."""
        return list(self._received.values())

    def add(self, guidance: Guidance, at: float) -> bool:
        """Take guidance in, once per id; False for one that is known.

        Raises:
            HpcError: the disk is full; the guidance was not taken.
        """
        if guidance.id in self._received:
            return False
        self._log.append(msgspec.msgpack.encode(_Received(guidance, at)))
        self._received[guidance.id] = (guidance, at)
        return True

    def forget_texts(self, done: Collection[str]) -> None:
        """Leave out the texts of guidance that is done with, once enough of them have gathered."""
        garbage = sum(len(self._received[name][0].text) for name in done if name in self._received)
        if garbage <= GARBAGE:
            return
        kept = {
            name: (msgspec.structs.replace(guidance, text="") if name in done else guidance, at)
            for name, (guidance, at) in self._received.items()
        }
        try:
            self._log.rewrite(msgspec.msgpack.encode(_Received(guidance, at)) for guidance, at in kept.values())
        except HpcError as error:
            log.warning("%s", error)
            return
        self._received = kept

    def close(self) -> None:
        """Release the file."""
        self._log.close()
