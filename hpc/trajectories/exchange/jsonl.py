"""JSONL: one chat ``{messages, tools, metadata}`` a line, as OpenAI's fine-tuning and most trainers read it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from hpc.core.errors import HpcError, TrajectoryIncomplete
from hpc.trajectories.exchange import chat
from hpc.trajectories.exchange.source import parse_json
from hpc.trajectories.records import Origin, Record

FORMAT = "jsonl"
SUFFIXES = (".jsonl", ".ndjson")
LOSSES = chat.LOSSES


def read(path: Path, *, sha256: str) -> Iterator[tuple[str, list[Record] | HpcError]]:
    """Each chat's place in the file and its records, or the error that it is."""
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                entry = f"line {number}"
                try:
                    row = parse_json(line, path, line=number)
                    origin = Origin(format=FORMAT, file=str(path), sha256=sha256, entry=entry)
                    yield entry, chat.records_of_row(row, origin, f"{path}:{number}")
                except HpcError as error:
                    yield entry, error
    except OSError as error:
        raise TrajectoryIncomplete(f"cannot read {path}: {error.strerror}", "check the name") from error
    if number == 0:
        raise TrajectoryIncomplete(f"{path} is empty", "fetch it again")


class Writer:
    """Writes chats line by line into a file that the caller opened."""

    def __init__(self, file: IO[bytes], *, bare: bool = False) -> None:
        self._file = file
        self._bare = bare

    def add(self, records: Iterable[Record]) -> None:
        """Write one trajectory."""
        row = chat.row_of(records, bare=self._bare)
        self._file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Nothing is left to write."""
