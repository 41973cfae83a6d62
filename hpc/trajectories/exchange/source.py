"""What all readers of foreign files share: opening, hashing and parsing them with one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from hpc.core import files
from hpc.core.errors import TrajectoryIncomplete, TrajectoryLayoutError
from hpc.trajectories.records import ActionTaken, EpisodeHeader, Origin, OutcomeReached, Record

UNKNOWN_TIME = 0.0
"""Stands for a moment that the source does not tell."""


def read_bytes(path: Path) -> bytes:
    """The whole file.

    Raises:
        TrajectoryIncomplete: it is absent, unreadable or empty.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise TrajectoryIncomplete(f"no such file: {path}", "check the name") from error
    except OSError as error:
        raise TrajectoryIncomplete(f"cannot read {path}: {error.strerror}", "mend its permissions or disk") from error
    if not data.strip():
        raise TrajectoryIncomplete(f"{path} is empty", "fetch it again")
    return data


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in pieces."""
    try:
        return files.sha256(path)
    except OSError as error:
        raise TrajectoryIncomplete(f"cannot read {path}: {error.strerror}", "check the name") from error


def parse_json(data: bytes, path: Path, *, line: int | None = None) -> Any:
    """A JSON document; ``line`` is its place in a file of many.

    Raises:
        TrajectoryLayoutError: not UTF-8, or not JSON.
        TrajectoryIncomplete: JSON that ends in the middle.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = line if line is not None else data[: error.start].count(b"\n") + 1
        raise TrajectoryLayoutError(
            f"{path}:{at} is not UTF-8 (byte {error.start}: 0x{data[error.start]:02x})", "convert it to UTF-8"
        ) from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = line if line is not None else error.lineno
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            raise TrajectoryIncomplete(
                f"{path}:{at} is truncated: the JSON ends in the middle", "fetch the whole file"
            ) from error
        raise TrajectoryLayoutError(f"{path}:{at} is not JSON: {error.msg}", "name a file of this format") from error
    except RecursionError as error:
        raise TrajectoryLayoutError(f"{path} is nested too deeply", "name a file of this format") from error


def episode_id_of(origin: Origin) -> str:
    """The id of an episode that has none of its own: the same source gives the same id."""
    return f"im-{origin.sha256[:16]}" + (f"-{origin.entry.replace(' ', '-')}" if origin.entry else "")


def imported_header(origin: Origin, **fields: Any) -> EpisodeHeader:
    """The header of an imported trajectory; ``run`` and ``index`` are set where it is stored."""
    known = {
        "episode_id": episode_id_of(origin),
        "run": "",
        "index": 0,
        "task_id": "",
        "task_family": origin.format,
        "split": "imported",
        "seed": 0,
        "config_hash": "",
        "created_at": UNKNOWN_TIME,
    }
    return EpisodeHeader(**{**known, **fields}, origin=origin)


def adopted(records: list[Record], origin: Origin) -> list[Record]:
    """Records that come back from an export of this project, marked as imported from ``origin``.

    What was said about an earlier import stays in ``origin.extra["first"]``; an episode that had not
    ended gets an outcome that says so.
    """
    header = records[0]
    if not isinstance(header, EpisodeHeader):
        raise ValueError("a trajectory begins with its header")
    before = header.origin
    extra = dict(origin.extra)
    if before is None:
        extra["stored"] = {"run": header.run, "index": header.index}
    else:
        extra["first"] = before.extra.get("first", msgspec.to_builtins(before))
    records = [replace(header, run="", index=0, origin=replace(origin, extra=extra)), *records[1:]]
    if not isinstance(records[-1], OutcomeReached):
        steps = sum(isinstance(record, ActionTaken) for record in records)
        reason = "exported before it had ended"
        records.append(
            OutcomeReached(status="truncated", at=UNKNOWN_TIME, steps=steps, working_seconds=0.0, reason=reason)
        )
    return records


def text_of(content: Any) -> str:
    """The text of a message's content, which may be a string, nothing, or a list of parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text", "") if isinstance(part, dict) else part for part in content)
        return "".join(part for part in parts if isinstance(part, str))
    return json.dumps(content, ensure_ascii=False)
