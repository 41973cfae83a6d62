"""Identifiers that sort by time of creation."""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32: no i, l, o, u


def _base32(value: int, width: int) -> str:
    return "".join(_ALPHABET[(value >> (5 * i)) & 31] for i in reversed(range(width)))


def new_id(prefix: str) -> str:
    """A new unique id such as ``al-01k3v9w2xz4m5n6p7q8r``.

    45 bits of milliseconds since the epoch, then 50 random bits: ids made later sort later, to
    the millisecond.
    """
    milliseconds = time.time_ns() // 1_000_000
    noise = int.from_bytes(os.urandom(7), "big") & ((1 << 50) - 1)
    return f"{prefix}-{_base32(milliseconds, 9)}{_base32(noise, 10)}"
