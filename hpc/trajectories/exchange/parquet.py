"""Parquet: one chat a row, in the columns ``messages``, ``tools`` and ``metadata``. Needs pyarrow (extra ``data``).

``messages`` is a list of structs, as `datasets` and trainers expect. ``tools`` and ``metadata`` are JSON
texts, because their keys differ from row to row; tools in a list of structs are read too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from hpc.core.errors import HpcError, MissingExtra, TrajectoryIncomplete, TrajectoryLayoutError
from hpc.trajectories.exchange import chat
from hpc.trajectories.exchange.losses import PROMPT_FIELDS
from hpc.trajectories.exchange.source import text_of
from hpc.trajectories.records import Origin, Record

FORMAT = "parquet"
SUFFIXES = (".parquet",)
LOSSES = (*chat.LOSSES, PROMPT_FIELDS)
ROW_GROUP_ROWS, ROW_GROUP_BYTES = 256, 32 << 20
"""A group of rows is written when it reaches either; so much is held in memory."""
BATCH_ROWS = 16


def read(path: Path, *, sha256: str) -> Iterator[tuple[str, list[Record] | HpcError]]:
    """Each chat's place in the file and its records, or the error that it is.

    Raises:
        MissingExtra: pyarrow is not installed.
        TrajectoryLayoutError: no Parquet file, or one without ``messages``.
        TrajectoryIncomplete: absent, empty or truncated.
    """
    arrow, parquet = _pyarrow()
    try:
        if path.stat().st_size == 0:
            raise TrajectoryIncomplete(f"{path} is empty", "fetch it again")
        with path.open("rb") as file:
            if file.read(4) != b"PAR1":
                raise TrajectoryLayoutError(f"{path} is not a Parquet file", "name another file or --format")
        table = parquet.ParquetFile(path)
    except OSError as error:
        if error.strerror:
            raise TrajectoryIncomplete(f"cannot read {path}: {error.strerror}", "check the name") from error
        raise TrajectoryIncomplete(f"{path} is damaged: {_line(error)}", "fetch the whole file") from error
    except arrow.ArrowInvalid as error:
        raise TrajectoryIncomplete(f"{path} is truncated: {_line(error)}", "fetch the whole file") from error
    with table:
        columns = [name for name in ("messages", "tools", "metadata") if name in table.schema_arrow.names]
        if "messages" not in columns:
            raise TrajectoryLayoutError(
                f"{path} has no column `messages`, but {', '.join(table.schema_arrow.names)}", "rename its columns"
            )
        number = 0
        try:
            for batch in table.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", _parsed(row, path, number, sha256)
        except (OSError, arrow.ArrowException) as error:
            raise TrajectoryIncomplete(f"{path}:{number + 1} is damaged: {_line(error)}", "fetch it again") from error
    if number == 0:
        raise TrajectoryIncomplete(f"{path} has no rows", "name another file")


class Writer:
    """Writes chats as rows into a file that the caller opened."""

    def __init__(self, file: IO[bytes], *, bare: bool = False) -> None:
        self._arrow, parquet = _pyarrow()
        self._bare = bare
        self._schema = _schema(self._arrow, bare)
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, records: Iterable[Record]) -> None:
        """Write one trajectory, at the latest when its group of rows is full."""
        row = chat.row_of(records, bare=self._bare)
        row["messages"] = [_struct(message) for message in row["messages"]]
        for name in ("tools", "metadata"):
            if name in row:
                row[name] = json.dumps(row[name], ensure_ascii=False, separators=(",", ":"))
        self._rows.append(row)
        self._bytes += sum(len(message["content"] or "") for message in row["messages"])
        if len(self._rows) >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is left and the footer."""
        try:
            self._flush()
        finally:
            self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("Parquet needs the package pyarrow", "pip install 'apollo-hpc[data]'") from error
    return pyarrow, pyarrow.parquet


def _schema(arrow: Any, bare: bool) -> Any:
    text = arrow.string()
    function = arrow.struct([("name", text), ("arguments", text)])
    call = arrow.struct([("id", text), ("type", text), ("function", function)])
    message = [
        ("role", text),
        ("content", text),
        ("name", text),
        ("tool_call_id", text),
        ("tool_calls", arrow.list_(call)),
    ]
    columns = [("messages", arrow.list_(arrow.struct(message))), ("tools", text)]
    return arrow.schema(columns if bare else [*columns, ("metadata", text)])


def _struct(message: dict[str, Any]) -> dict[str, Any]:
    content, calls = message.get("content"), message.get("tool_calls")
    return {
        "role": message["role"],
        "content": None if content is None else text_of(content),
        "name": message.get("name"),
        "tool_call_id": message.get("tool_call_id"),
        "tool_calls": None if calls is None else [_call(call) for call in calls],
    }


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    written = function.get("arguments")
    arguments = written if isinstance(written, str) else json.dumps(written, ensure_ascii=False)
    return {
        "id": call.get("id"),
        "type": call.get("type"),
        "function": {"name": function.get("name"), "arguments": arguments},
    }


def _parsed(row: dict[str, Any], path: Path, number: int, sha256: str) -> list[Record] | HpcError:
    where = f"{path}:{number}"
    try:
        for name in ("messages", "tools", "metadata"):
            value = row.get(name)
            row[name] = json.loads(value) if isinstance(value, str) and value else _present(value)
        return chat.records_of_row(
            row, Origin(format=FORMAT, file=str(path), sha256=sha256, entry=f"row {number}"), where
        )
    except ValueError as error:
        return TrajectoryLayoutError(f"{where} is not JSON: {error}", "mend the row")
    except HpcError as error:
        return error


def _present(value: Any) -> Any:
    """Without the nulls that structs need for what a message or a tool does not have."""
    if isinstance(value, list):
        return [_present(item) for item in value]
    if isinstance(value, dict):
        return {name: _present(item) for name, item in value.items() if item is not None}
    return value


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
