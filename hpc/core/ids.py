"""Identifiers that sort by time of creation."""

from __future__ import annotations

import itertools
import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32: no i, l, o, u


_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_SHIFTS = range(80, -1, -10)


class Sequence:
    """Makes ids such as ``ack-01k3v9w2xz4m5n6p7q8r-42``: unique and in order like those of `new_id`, but for
    one random part in the life of a process, which makes them many times cheaper."""

    def __init__(self) -> None:
        self._stem = new_id("")
        self._numbers = itertools.count(1)

    def __call__(self, prefix: str) -> str:
        """The next id."""
        return f"{prefix}{self._stem}-{next(self._numbers)}"


def new_id(prefix: str) -> str:
    """A new unique id such as ``al-01k3v9w2xz4m5n6p7q8r``.

    45 bits of milliseconds since the epoch, then 50 random bits: ids made later sort later, to
    the millisecond.
    """
    milliseconds = time.time_ns() // 1_000_000
    noise = int.from_bytes(os.urandom(7), "big") & ((1 << 50) - 1)
    value = (milliseconds & ((1 << 45) - 1)) << 50 | noise  # 95 bits: one character, then nine pairs
    return f"{prefix}-{_ALPHABET[value >> 90]}" + "".join([_PAIRS[value >> shift & 1023] for shift in _SHIFTS])
