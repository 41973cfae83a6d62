"""The formats by name, and which one a file is of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from hpc.core import files
from hpc.core.errors import HpcError, UsageError
from hpc.trajectories.exchange import (
    atif,
    atif_reader,
    inspect_eval,
    inspect_reader,
    jsonl,
    parquet,
    swe_agent,
)
from hpc.trajectories.exchange.losses import Loss
from hpc.trajectories.exchange.source import parse_json, read_bytes
from hpc.trajectories.records import EpisodeHeader, Record

SWE_AGENT, JSONL, PARQUET, ATIF, INSPECT = "swe-agent", "jsonl", "parquet", "atif", "inspect"
READABLE = (SWE_AGENT, JSONL, PARQUET, ATIF, INSPECT)
WRITABLE = (JSONL, PARQUET, ATIF, INSPECT)

LOSSES: dict[str, Sequence[Loss]] = {
    JSONL: jsonl.LOSSES,
    PARQUET: parquet.LOSSES,
    ATIF: atif.LOSSES,
    INSPECT: inspect_eval.LOSSES,
}
"""What an export of ours loses, also when it comes back."""
_SUFFIXES = {
    ".traj": SWE_AGENT,
    ".jsonl": JSONL,
    ".ndjson": JSONL,
    ".parquet": PARQUET,
    ".eval": INSPECT,
}

Found = Iterator[tuple[str, list[Record] | HpcError]]
"""Of a file's trajectories each with its place in the file, and the records or why there are none."""


class Writer(Protocol):
    """Takes trajectories one at a time."""

    def add(self, records: Iterable[Record]) -> None: ...

    def close(self) -> None: ...


def read(path: Path, name: str, *, sha256: str) -> Found:
    """The trajectories of a file of the format ``name``.

    Raises (while it is read):
        TrajectoryLayoutError: the whole file is of another format.
        TrajectoryIncomplete: absent, empty or truncated.
        MissingExtra: a package is not installed.
    """
    if name == SWE_AGENT:
        return iter([("", swe_agent.read(path, sha256=sha256))])
    readers = {JSONL: jsonl.read, PARQUET: parquet.read, ATIF: atif_reader.read, INSPECT: inspect_reader.read}
    return readers[name](path, sha256=sha256)


def writer(name: str, file: IO[bytes], *, bare: bool) -> Writer:
    """A writer into one open file. ATIF has a file for each trajectory; see `Folder`.

    Raises:
        MissingExtra: a package is not installed.
    """
    writers: dict[str, Any] = {JSONL: jsonl.Writer, PARQUET: parquet.Writer, INSPECT: inspect_eval.Writer}
    made: Writer = writers[name](file, bare=bare)
    return made


class Folder:
    """Writes ATIF documents into a folder, each whole or not at all, named after its episode."""

    def __init__(self, folder: Path, *, bare: bool) -> None:
        self._folder = folder
        self._bare = bare
        self._names: dict[str, int] = {}

    def add(self, records: Iterable[Record]) -> None:
        """Write one trajectory."""
        listed = list(records)
        header = listed[0]
        name = header.episode_id.replace("/", "-") if isinstance(header, EpisodeHeader) else "episode"
        self._names[name] = count = self._names.get(name, 0) + 1
        path = self._folder / (f"{name}.json" if count == 1 else f"{name}-{count}.json")
        write_document(path, listed, bare=self._bare)

    def close(self) -> None:
        """Nothing is left to write."""


def write_document(path: Path, records: Iterable[Record], *, bare: bool) -> None:
    """Write one trajectory as an ATIF file."""
    files.write_text(path, json.dumps(atif.document_of(records, bare=bare), ensure_ascii=False) + "\n")


def format_of(path: Path) -> str:
    """The format of a file by its name, and where that is ``.json`` by what is in it.

    Raises:
        UsageError: it cannot be told.
        TrajectoryError: a ``.json`` that is absent or no JSON.
    """
    name = _SUFFIXES.get(path.suffix.lower())
    if name is not None:
        return name
    if path.suffix.lower() == ".json":
        value = parse_json(read_bytes(path), path)
        if atif_reader.is_document(value):
            return ATIF
        if isinstance(value, dict) and "eval" in value and "status" in value:
            return INSPECT
        if isinstance(value, dict) and ("history" in value or "trajectory" in value):
            return SWE_AGENT
    raise UsageError(f"cannot tell the format of {path}", f"name it: --format {'|'.join(READABLE)}")
