"""The checksums behind the HDF5 part of a sealed file, compared before HDF5 sees any of it.

libhdf5 may crash on metadata that was damaged in the right way, checksums or not. So the file ends
with a CRC-32 of each MiB, which HDF5 ignores, and a reader opens only what matches.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from pathlib import Path

MAGIC = b"APOLLO-HPC-CRC32"
BLOCK_BYTES = 1 << 20
_END = struct.Struct("<QII16s")  # bytes of the HDF5 part, bytes of a block, CRC-32 of the trailer so far, MAGIC


def with_trailer(image: bytes) -> bytes:
    """The HDF5 part of a file followed by its checksums."""
    sums = [zlib.crc32(image[start : start + BLOCK_BYTES]) for start in range(0, len(image), BLOCK_BYTES)]
    body = struct.pack(f"<{len(sums)}I", *sums)
    checksum = zlib.crc32(struct.pack("<QI", len(image), BLOCK_BYTES), zlib.crc32(body))
    return b"".join((image, body, _END.pack(len(image), BLOCK_BYTES, checksum, MAGIC)))


def trailer_problem(path: Path) -> str:
    """What keeps the file from being the one that was sealed; empty if it is, byte by byte.

    Reads the file once, a block at a time.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < _END.size:
            return "its end is missing"
        file.seek(size - _END.size)
        length, block, checksum, magic = _END.unpack(file.read(_END.size))
        if magic != MAGIC:
            return "its end is missing or changed"
        count = -(-length // BLOCK_BYTES)
        if block != BLOCK_BYTES or length + 4 * count + _END.size != size:
            return "bytes were added or are missing"
        file.seek(length)
        body = file.read(4 * count)
        if zlib.crc32(struct.pack("<QI", length, block), zlib.crc32(body)) != checksum:
            return "its checksums were changed"
        file.seek(0)
        for number, expected in enumerate(struct.unpack(f"<{count}I", body)):
            start = number * BLOCK_BYTES
            if zlib.crc32(file.read(min(BLOCK_BYTES, length - start))) != expected:
                return f"bytes {start} to {min(start + BLOCK_BYTES, length) - 1} are not as they were written"
    return ""


def contains(path: Path, *words: bytes) -> bool:
    """Whether the file holds any of these bytes anywhere.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return any(data.find(word) >= 0 for word in words)
