"""Reading the framed log of an episode: what is whole, a torn tail, damage in the middle.

A crash leaves at most a torn frame at the very end, and nothing in it was ever acknowledged. Whole
frames *behind* an unreadable one mean damage: cutting there would throw acknowledged records away.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import msgspec

from hpc.core.errors import TrajectoryIncomplete, TrajectoryLayoutError
from hpc.core.framed import MAX_FRAME, scan
from hpc.trajectories.codec import decode
from hpc.trajectories.records import FORMAT_VERSION, EpisodeHeader, Record

_FRAME = struct.Struct("<II")
_RECORD_START = re.compile(rb"(?:[\x80-\x8f]|\xde..)\xa4type", re.DOTALL)
_SMALL_MAP = range(0x80, 0x90)
_MAP_16 = 0xDE  # of more than 15 fields: two bytes count them
_FIRST_KEY = b"\xa4type"


class LogContents(msgspec.Struct, frozen=True, kw_only=True):
    """What the bytes of a log hold.

    ``size`` is the length of the whole part and ``tail`` the number of bytes behind it. ``damage``
    names what is wrong beyond a torn tail; ``lost`` counts the whole records behind the damage.
    """

    records: list[Record]
    size: int
    tail: int
    damage: str = ""
    lost: int = 0
    torn: bool = False  # the tail is the beginning of a record's frame, as a crash leaves it


def parse_log(data: bytes) -> LogContents:
    """Read the bytes of a log as far as they are whole."""
    records: list[Record] = []
    size = 0
    for end, payload in scan(data):
        if not payload:  # zeros, which a file system may leave at the end after a power loss
            continue
        try:
            records.append(decode(payload))
        except ValueError as error:
            damage = f"frame at byte {size}: {error}"
            return LogContents(records=records, size=size, tail=len(data) - size, damage=damage)
        size = end
    tail = data[size:]
    lost = len(whole_behind(tail))
    return LogContents(
        records=records,
        size=size,
        tail=len(tail),
        lost=lost,
        damage=f"the frame at byte {size} is unreadable, {lost} whole records follow it" if lost else "",
        torn=is_torn(tail),
    )


def read_log(path: Path) -> LogContents:
    """The contents of the log at ``path``, damaged or not.

    Raises:
        TrajectoryIncomplete: the file is absent or cannot be read.
    """
    try:
        return parse_log(path.read_bytes())
    except FileNotFoundError as error:
        raise TrajectoryIncomplete(f"no trajectory at {path}", "name a sealed .h5 file, a log or RUN/INDEX") from error
    except OSError as error:
        raise TrajectoryIncomplete(f"cannot read {path}: {error.strerror}", "mend its permissions or disk") from error


def require_whole(path: Path, contents: LogContents) -> None:
    """Accept a log that is whole up to a torn tail (also an empty one).

    Raises:
        TrajectoryLayoutError: it never was a trajectory, or a newer one than this version knows.
        TrajectoryIncomplete: acknowledged records are damaged.
    """
    if not contents.records and not contents.lost and (contents.damage or (contents.tail and not contents.torn)):
        raise TrajectoryLayoutError(f"{path} is not a trajectory", "name a sealed .h5 file, a log or RUN/INDEX")
    if contents.damage:
        raise TrajectoryIncomplete(f"{path} is damaged: {contents.damage}", check_hint(path))
    first = contents.records[0] if contents.records else None
    if isinstance(first, EpisodeHeader):
        require_version(path, first.format_version)


def require_records(path: Path, contents: LogContents) -> None:
    """`require_whole`, and at least one record.

    Raises:
        TrajectoryLayoutError: it never was a trajectory, or a newer one than this version knows.
        TrajectoryIncomplete: nothing durable yet, or damage.
    """
    require_whole(path, contents)
    if not contents.records and path.suffix == ".h5":  # a sealed file appears whole: it never was one
        what = f"too short to be a trajectory ({contents.tail} bytes)" if contents.tail else "empty"
        raise TrajectoryLayoutError(f"{path} is {what}", "restore it from a copy, or name a sealed .h5 file")
    if not contents.records:
        raise TrajectoryIncomplete(f"{path} holds no records yet", "wait for the episode to start")


def require_version(path: Path, version: int) -> None:
    """Refuse a file of a newer format.

    Raises:
        TrajectoryLayoutError: this version cannot read it.
    """
    if version > FORMAT_VERSION:
        raise TrajectoryLayoutError(
            f"{path} has format version {version}, this is {FORMAT_VERSION}", "upgrade apollo-hpc"
        )


def check_hint(path: Path) -> str:
    """The fix of every damaged trajectory."""
    return f"`hpc traj check {path}` says what is whole, `hpc traj repair` saves it"


def is_torn(tail: bytes) -> bool:
    """Whether ``tail`` is a frame of a record that was cut short (a bad checksum is something else)."""
    if len(tail) < _FRAME.size:
        return bool(tail)
    start = tail[_FRAME.size : _FRAME.size + 3 + len(_FIRST_KEY)]
    cut_short: bool = _FRAME.unpack_from(tail)[0] > len(tail) - _FRAME.size
    if not start or not cut_short:
        return cut_short
    if start[0] == _MAP_16:
        return _FIRST_KEY.startswith(start[3:])
    key = start[1 : 1 + len(_FIRST_KEY)]
    return start[0] in _SMALL_MAP and _FIRST_KEY.startswith(key)


def whole_behind(tail: bytes) -> list[tuple[int, int]]:
    """Where in ``tail`` whole frames of records lie behind an unreadable one at its start (start, end)."""
    found: list[tuple[int, int]] = []
    end = 0
    for match in _RECORD_START.finditer(tail, _FRAME.size + 1):
        start = match.start()
        if start < end + _FRAME.size:
            continue
        length, checksum = _FRAME.unpack_from(tail, start - _FRAME.size)
        payload = tail[start : start + length]
        if length <= MAX_FRAME and len(payload) == length and zlib.crc32(payload) == checksum:
            end = start + length
            found.append((start - _FRAME.size, end))
    return found


def frames_between(data: bytes, start: int, end: int) -> int | None:
    """How many frames, by their lengths alone, fill ``data`` from start to end; None if none do."""
    count = 0
    while start < end:
        length = _FRAME.unpack_from(data, start)[0] if start + _FRAME.size <= end else 0
        if not length:
            return None
        start += _FRAME.size + length
        count += 1
    return count if start == end else None


def payload_of(data: bytes, span: tuple[int, int]) -> bytes:
    """The payload of a whole frame."""
    return data[span[0] + _FRAME.size : span[1]]
