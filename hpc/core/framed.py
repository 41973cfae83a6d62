"""An append-only log of framed records: the durable form of everything that must not be lost.

A frame is ``length`` (u32, little endian, not 0), ``crc32`` of the payload (u32) and the payload. A write
that was cut short by a crash leaves a torn frame at the end; opening the log for writing cuts it
off, reading stops before it. One writer at a time, enforced by an exclusive lock on the file.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from hpc.core.errors import HpcError
from hpc.core.files import fsync_dir

_HEADER = struct.Struct("<II")
MAX_FRAME = 256 * 1024 * 1024


def scan(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield ``(end_offset, payload)`` of every whole frame from the start of ``data``."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, offset)
        end = offset + _HEADER.size + length
        if not 0 < length <= MAX_FRAME or end > len(data):  # a tail of zeros is not a row of empty frames
            return
        payload = data[offset + _HEADER.size : end]
        if zlib.crc32(payload) != checksum:
            return
        offset = end
        yield offset, payload


def read_frames(path: Path) -> list[bytes]:
    """All whole frames of the log at ``path``; an absent file is an empty log."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return [payload for _, payload in scan(data)]


class FramedLog:
    """Single writer of a framed log.

    ``append`` returns once the data is on disk (``fdatasync``) unless the log was opened with
    ``durable=False``.

    Raises:
        HpcError: another process has the log open, or the disk is full. A failed append leaves
            the log as it was before.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self.path = path
        self.durable = durable
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise HpcError(f"{path} is being written by another process", "wait for it or cancel it") from error
        self.frames: list[bytes] = []
        self.size = 0
        try:
            if os.fstat(self._fd).st_ino != path.stat().st_ino:  # rewritten between opening and locking
                raise BlockingIOError("is being rewritten")
            for end, payload in scan(path.read_bytes()):
                self.frames.append(payload)
                self.size = end
            os.ftruncate(self._fd, self.size)
            os.lseek(self._fd, 0, os.SEEK_END)
            fsync_dir(path.parent)
        except OSError as error:
            os.close(self._fd)
            raise HpcError(f"cannot open {path}: {error.strerror}", "mend the disk or the permissions") from error

    def append(self, *payloads: bytes) -> None:
        """Append the payloads, in order, as one durable write. None of them may be empty."""
        if not all(payloads):
            raise ValueError("an empty payload cannot be told from a zeroed disk block")
        block = b"".join(_HEADER.pack(len(p), zlib.crc32(p)) + p for p in payloads)
        view = memoryview(block)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
            if self.durable:
                os.fdatasync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, self.size)
            os.lseek(self._fd, 0, os.SEEK_END)
            raise HpcError(f"cannot append to {self.path}: {error.strerror}", "free space on that disk") from error
        self.size += len(block)

    def rewrite(self, payloads: Iterable[bytes]) -> None:
        """Replace the whole log by other frames, atomically: a crash leaves the old or the new one.

        Raises:
            HpcError: the disk is full; the log is as it was.
        """
        block = b"".join(_HEADER.pack(len(p), zlib.crc32(p)) + p for p in payloads)
        draft = self.path.with_name(f".{self.path.name}.rewrite")
        fd = -1
        try:
            fd = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC, 0o644)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before it can be found under the log's name
            view = memoryview(block)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
            draft.replace(self.path)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
                draft.unlink(missing_ok=True)
            raise HpcError(f"cannot rewrite {self.path}: {error.strerror}", "free space on that disk") from error
        os.close(self._fd)
        self._fd, self.size = fd, len(block)
        fsync_dir(self.path.parent)

    def close(self) -> None:
        """Release the lock and the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> FramedLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
