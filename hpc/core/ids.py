"""Identifiers that sort by time of creation."""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32: no i, l, o, u


_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_SHIFTS = range(80, -1, -10)


def new_id(prefix: str) -> str:
    """A new unique id such as ``al-01k3v9w2xz4m5n6p7q8r``.

    45 bits of milliseconds since the epoch, then 50 random bits: ids made later sort later, to
    the millisecond.
    """
    milliseconds = time.time_ns() // 1_000_000
    noise = int.from_bytes(os.urandom(7), "big") & ((1 << 50) - 1)
    value = (milliseconds & ((1 << 45) - 1)) << 50 | noise  # 95 bits: one character, then nine pairs
    return f"{prefix}-{_ALPHABET[value >> 90]}" + "".join([_PAIRS[value >> shift & 1023] for shift in _SHIFTS])
