"""What all readers of foreign files share: opening, hashing and parsing them with one clear error."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hpc.core.errors import TrajectoryIncomplete, TrajectoryLayoutError
from hpc.trajectories.records import EpisodeHeader, Origin

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
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
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


def imported_header(origin: Origin, **fields: Any) -> EpisodeHeader:
    """The header of an imported trajectory; ``run`` and ``index`` are set where it is stored.

    Its id follows from the source, so that the same file gives the same episode.
    """
    stem = f"im-{origin.sha256[:16]}" + (f"-{origin.entry}" if origin.entry else "")
    known = {
        "episode_id": stem,
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
