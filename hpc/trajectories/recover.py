"""Everything whole that the files of one episode still hold, put in order. Writes nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hpc.core.errors import TrajectoryIncomplete
from hpc.trajectories.codec import decode, to_json
from hpc.trajectories.log import LogContents, frames_between, is_torn, parse_log, payload_of, whole_behind
from hpc.trajectories.order import RecordOrder
from hpc.trajectories.records import OutcomeReached, Record
from hpc.trajectories.salvage import salvage


class Recovered(msgspec.Struct, kw_only=True):
    """What the files of an episode hold together.

    ``records`` are an unbroken beginning of the trajectory, ``behind`` the whole records after the
    first gap, which no trajectory can hold; ``problems`` says what is damaged. ``complete``: there is
    nothing else that may have been lost.
    """

    records: list[Record]
    behind: list[Record]
    problems: list[str]
    complete: bool


def recover(sealed: Path | None, log: Path | None, views: list[Path]) -> Recovered:
    """Put together what is whole in a sealed file, a log and live views; each may be damaged or absent.

    Raises:
        TrajectoryIncomplete: the log cannot be read at all.
    """
    placed: dict[int, Record] = {}
    problems: list[str] = []
    for path in [*([sealed] if sealed and sealed.exists() else []), *sorted(views)]:
        found = salvage(path)
        for place, record in found.records():
            placed.setdefault(place, record)
        if path == sealed:
            problems += found.problems
    unplaced: list[Record] = []
    total: int | None = None
    if log is not None and log.exists():
        try:
            data = log.read_bytes()
        except OSError as error:
            raise TrajectoryIncomplete(f"cannot read {log}: {error.strerror}", "mend its permissions") from error
        contents = parse_log(data)
        problems += log_problems(contents)
        placed |= dict(enumerate(contents.records))
        unplaced, total = _place_behind(data, contents, placed)
    return _in_order(placed, unplaced, problems, total)


def log_problems(contents: LogContents) -> list[str]:
    """What is wrong with a log; a torn tail, which was never acknowledged, is not."""
    if contents.damage:
        return [contents.damage]
    if contents.tail and not contents.torn:
        return [f"the last {contents.tail} bytes, from byte {contents.size}, are no record"]
    return []


def _place_behind(data: bytes, contents: LogContents, placed: dict[int, Record]) -> tuple[list[Record], int | None]:
    """Find the places of whole records behind damage.

    Returns those whose place cannot be told, and how many records the log ever held, if that can be told.
    """
    tail = data[contents.size :]
    place: int | None = len(contents.records)
    end, unplaced = 0, []
    for span in whole_behind(tail):
        try:
            record = decode(payload_of(tail, span))
        except ValueError:  # whole, but nothing that this version knows: one of those between
            continue
        missing = frames_between(tail, end, span[0])
        end = span[1]
        place = place + missing if place is not None and missing is not None else _find(record, placed)
        if place is None:
            unplaced.append(record)
            continue
        placed[place] = record
        place += 1
    rest = tail[end:]
    if not rest or is_torn(rest) or not any(rest):  # the end as every crash may leave it
        return unplaced, place
    missing = frames_between(rest, 0, len(rest))
    return unplaced, place + missing if place is not None and missing is not None else None


def _find(record: Record, placed: dict[int, Record]) -> int | None:
    wanted = to_json(record)
    return next((place for place, other in placed.items() if to_json(other) == wanted), None)


def _in_order(placed: dict[int, Record], unplaced: list[Record], problems: list[str], total: int | None) -> Recovered:
    order = RecordOrder()
    records: list[Record] = []
    while (record := placed.get(len(records))) is not None and not order.problem(record):
        order.take(record)
        records.append(record)
    behind = [*(placed[place] for place in sorted(placed) if place >= len(records)), *unplaced]
    ended = bool(records) and isinstance(records[-1], OutcomeReached)
    complete = ended or (not behind and total is not None and len(records) >= total)
    return Recovered(records=records, behind=behind, problems=problems, complete=complete)
