"""The checksums behind the HDF5 part of a sealed file, compared before HDF5 sees what they cover.

libhdf5 may crash on metadata that was damaged in the right way, in spite of its own checksums. So a
sealed file ends with a CRC-32 of each 64 KiB. HDF5 ignores what lies behind the end that its superblock
declares; `Image` shows it the rest, a block at a time, each compared on every read. Opening a file and
reading one step touches a few blocks, however large it is.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAGIC = b"APOLLO-HPC-CRC32"
BLOCK_BYTES = 1 << 16
_END = struct.Struct("<QII16s")  # bytes of the HDF5 part, bytes of a block, CRC-32 of the trailer so far, MAGIC
_SUPERBLOCK = struct.Struct("<8sBBBBQQQ")  # signature, version, sizes, flags, base, extension, end
_KEPT_BLOCKS = 16
_MOST_PADDING = 1 << 34


def with_trailer(image: bytes) -> bytes:
    """The HDF5 part of a file followed by its checksums."""
    sums = [zlib.crc32(image[start : start + BLOCK_BYTES]) for start in range(0, len(image), BLOCK_BYTES)]
    body = struct.pack(f"<{len(sums)}I", *sums)
    return b"".join((image, body, _END.pack(len(image), BLOCK_BYTES, _own_sum(body, len(image)), MAGIC)))


class CutOffError(ValueError):
    """The file is shorter than its own beginning says."""


class Extent(NamedTuple):
    """The HDF5 part of a file: its length in bytes, the CRC-32 of each block or None where it has no trailer."""

    length: int
    sums: Sequence[int] | None


class Image(io.RawIOBase):
    """The HDF5 part of a file, for h5py. Read only; a block that does not match is an OSError.

    Where the file is shorter than ``extent`` says it ends in zeros.
    """

    def __init__(self, path: Path, extent: Extent) -> None:
        self._extent = extent
        self._at = 0
        self._kept: dict[int, bytes] = {}
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Set the position; returns it."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._extent.length}[whence]
        return self._at

    def tell(self) -> int:
        """The position."""
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer`` from the position on; returns how much of it.

        Raises:
            OSError: a block cannot be read or is not as it was written.
        """
        with memoryview(buffer).cast("B") as view:
            count = max(0, min(len(view), self._extent.length - self._at))
            done = 0
            while done < count:
                number, start = divmod(self._at + done, BLOCK_BYTES)
                part = self.block(number)[start : start + count - done]
                view[done : done + len(part)] = part
                done += len(part)
        self._at += count
        return count

    def block(self, number: int) -> bytes:
        """A block, compared with its checksum.

        Raises:
            OSError: it cannot be read or is not as it was written.
        """
        if number in self._kept:
            return self._kept[number]
        start = number * BLOCK_BYTES
        size = min(BLOCK_BYTES, self._extent.length - start)
        data = b""
        while len(data) < size and (more := os.pread(self._descriptor, size - len(data), start + len(data))):
            data += more
        sums = self._extent.sums
        if sums is not None and (len(data) != size or zlib.crc32(data) != sums[number]):
            raise OSError(f"bytes {start} to {start + size - 1} are not as they were written")
        if len(self._kept) >= _KEPT_BLOCKS:
            del self._kept[next(iter(self._kept))]
        self._kept[number] = data.ljust(size, b"\0")
        return self._kept[number]

    def verify(self) -> None:
        """Compare every block.

        Raises:
            OSError: one cannot be read or is not as it was written.
        """
        for number in range(-(-self._extent.length // BLOCK_BYTES)):
            self.block(number)

    def close(self) -> None:
        """Close the file."""
        if not self.closed and self._descriptor >= 0:
            os.close(self._descriptor)
        super().close()


def extent_of(path: Path) -> Extent:
    """What is known of the HDF5 part of a file before anything of it is read.

    Raises:
        CutOffError: its end is missing.
        ValueError: bytes are missing elsewhere, were added, or the checksums are not as they were written.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        found = _trailer(file, size)
        if found is not None:
            return found
        end = _declared_end(file)
    if end is None:
        raise ValueError("its first bytes are not as they were written")
    if end > size:
        raise CutOffError(f"its last {end - size} bytes are missing")
    if end < size:
        raise ValueError("its checksums are missing or changed")
    return Extent(size, None)


def probable_extent(path: Path) -> Extent:
    """The HDF5 part of a damaged file, as far as that can be told. Never verified.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        try:
            found = _trailer(file, size)
        except ValueError:
            found = None
        end = found.length if found else _declared_end(file) or size
    return Extent(end if end < size + _MOST_PADDING else size, None)


def contains(path: Path, *words: bytes) -> bool:
    """Whether the file holds any of these bytes anywhere.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return any(data.find(word) >= 0 for word in words)


def _trailer(file: io.BufferedReader, size: int) -> Extent | None:
    """The trailer at the end of a file of ``size`` bytes; None if there is none that one would recognise."""
    if size < _END.size:
        return None
    file.seek(size - _END.size)
    length, block, checksum, magic = _END.unpack(file.read(_END.size))
    if magic != MAGIC:
        return None
    count = -(-length // BLOCK_BYTES)
    if block != BLOCK_BYTES or length + 4 * count + _END.size != size:
        raise ValueError("bytes were added or are missing")
    file.seek(length)
    body = file.read(4 * count)
    if _own_sum(body, length) != checksum:
        raise ValueError("its checksums were changed")
    return Extent(length, struct.unpack(f"<{count}I", body))


def _own_sum(body: bytes, length: int) -> int:
    return zlib.crc32(struct.pack("<QI", length, BLOCK_BYTES), zlib.crc32(body))


def _declared_end(file: io.BufferedReader) -> int | None:
    """Where the superblock (version 2 or 3) says that the file ends; None if it says nothing of the kind."""
    file.seek(0)
    head = file.read(_SUPERBLOCK.size)
    if len(head) < _SUPERBLOCK.size:
        return None
    _, version, offsets, lengths, _, base, _, end = _SUPERBLOCK.unpack(head)
    return end if version in (2, 3) and (offsets, lengths, base) == (8, 8, 0) else None
