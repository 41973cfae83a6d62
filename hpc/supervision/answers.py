"""The judge's answers on disk, by the content of the question: what was asked once is not paid for again.

Any number of processes may share a folder: each answer is a file of its own, whole or absent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from hpc.core import files


class StoredAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as the model wrote it, so that a later version may draw other verdicts from it."""

    key: str
    model: str
    text: str
    tokens: int
    at: float


def key_of(model: str, messages: Sequence[dict[str, Any]]) -> str:
    """SHA-256 of who is asked and what, in hexadecimal."""
    content = msgspec.json.encode({"model": model, "messages": list(messages)}, order="deterministic")
    return hashlib.sha256(content).hexdigest()


class Answers:
    """The answers in ``folder``, which need not be there yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> StoredAnswer | None:
        """The answer; None where there is none, or one that cannot be read (it is then asked for again)."""
        try:
            found = msgspec.json.decode(self._path(key).read_bytes(), type=StoredAnswer)
        except (OSError, msgspec.MsgspecError, ValueError):
            return None
        return found if found.key == key else None

    def put(self, answer: StoredAnswer) -> None:
        """Keep an answer.

        Raises:
            HpcError: it cannot be written.
        """
        files.write_bytes(self._path(answer.key), msgspec.json.encode(answer) + b"\n")

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
