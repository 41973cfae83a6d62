"""Records as HDF5 tables and back (docs/trajectory-format.md is authoritative). No I/O here.

Variable-length data never goes into a variable-length HDF5 type (filters do not reach it and readers
of a growing file get rubbish): texts lie end to end in one byte array, token ids and log-probabilities
in two others, and each row says where its part is and carries a CRC-32 over itself and its parts.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, get_args

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from hpc.trajectories.codec import to_json
from hpc.trajectories.records import (
    ActionTaken,
    AlertRaised,
    AttemptStarted,
    Boundary,
    ContextRewritten,
    EpisodeHeader,
    GuidanceApplied,
    Observed,
    OutcomeReached,
    Record,
    SnapshotTaken,
    Status,
    Usage,
)

FORMAT = "apollo-hpc trajectory"
NAME_BYTES = 64
TEXT, TOKENS, LOGPROBS = "text", "tokens", "logprobs"
ARRAYS: dict[str, np.dtype[Any]] = {TEXT: np.dtype("u1"), TOKENS: np.dtype("<i8"), LOGPROBS: np.dtype("<f8")}
ANSWER, TAKEN, OBSERVATION, OBSERVED = STEP_TEXTS = ("answer", "taken", "observation", "observed")
"""The four texts of a step: what the model wrote, the rest of `ActionTaken` as JSON, what the
environment wrote, the rest of `Observed` as JSON."""
UNOBSERVED = -1  # ``observed_order`` of a step whose observation is missing


def _enum(names: tuple[str, ...]) -> Any:
    return h5py.enum_dtype({name: number for number, name in enumerate(names)}, basetype="u1")


_NAME = h5py.string_dtype("utf-8", NAME_BYTES)
_BOUNDARIES = ("none", *get_args(Boundary))
_STATUSES = get_args(Status)
_PRIORITIES = ("ask", "drift", "milestone")
_KINDS, _REASONS = ("summary",), ("interval", "end", "request")
_BOUNDARY, _STATUS, _PRIORITY = _enum(_BOUNDARIES), _enum(_STATUSES), _enum(_PRIORITIES)
_KIND, _REASON = _enum(_KINDS), _enum(_REASONS)
USAGE = ("used_prompt_tokens", "used_answer_tokens", "used_cached_tokens", "cost", "gpu_seconds")
"""Columns of a step that repeat `Usage`, in the order of its fields."""
_ROW = [("order", "<i8"), ("crc", "<u4"), ("offset", "<i8"), ("length", "<i8")]

TABLES: dict[str, np.dtype[Any]] = {
    "header": np.dtype(_ROW),
    "attempts": np.dtype(
        [*_ROW, ("epoch", "<i8"), ("at", "<f8"), ("resumed_at_step", "<i8"), ("host", _NAME), ("job_id", _NAME)]
    ),
    "steps": np.dtype(
        [
            ("order", "<i8"),
            ("observed_order", "<i8"),
            ("crc", "<u4"),
            ("step", "<i8"),
            ("at", "<f8"),
            ("observed_at", "<f8"),
            ("working_seconds", "<f8"),
            ("model_seconds", "<f8"),
            ("action", _NAME),
            ("is_error", "?"),
            ("is_malformed", "?"),
            ("polling", "?"),
            ("terminated", "?"),
            ("boundary", _BOUNDARY),
            ("progress", "<f8"),
            ("score", "<f8"),
            *((f"{text}_{part}", "<i8") for text in STEP_TEXTS for part in ("offset", "length")),
            ("shared_tokens", "<i8"),
            ("token_offset", "<i8"),
            ("prompt_tokens", "<i8"),
            ("answer_tokens", "<i8"),
            ("logprob_offset", "<i8"),
            ("logprob_length", "<i8"),
            *((name, "<f8") for name in USAGE),
            ("duplicate_tokens", "<i8"),
        ]
    ),
    "evaluations": np.dtype(
        [*_ROW, ("step", "<i8"), ("at", "<f8"), ("score", "<f8"), ("left", "<i8"), ("forced", "?")]
    ),
    "alerts": np.dtype(
        [
            *_ROW,
            ("id", _NAME),
            ("detector", _NAME),
            ("score", "<f8"),
            ("step", "<i8"),
            ("priority", _PRIORITY),
            ("sent_at", "<f8"),
        ]
    ),
    "guidance": np.dtype(
        [
            *_ROW,
            ("id", _NAME),
            ("alert_id", _NAME),
            ("annotator", _NAME),
            ("kind", _NAME),
            ("sent_at", "<f8"),
            ("delivered_at", "<f8"),
            ("applied_at", "<f8"),
            ("applied_step", "<i8"),
        ]
    ),
    "contexts": np.dtype(
        [
            *_ROW,
            ("number", "<i8"),
            ("at", "<f8"),
            ("after_step", "<i8"),
            ("last_step", "<i8"),
            ("kind", _KIND),
            ("written_by", _NAME),
            ("model_seconds", "<f8"),
            *((name, "<f8") for name in USAGE),
        ]
    ),
    "snapshots": np.dtype(
        [
            *_ROW,
            ("id", _NAME),
            ("step", "<i8"),
            ("at", "<f8"),
            ("reason", _REASON),
            ("files", "<i8"),
            ("size", "<i8"),
            ("stored", "<i8"),
            ("seconds", "<f8"),
        ]
    ),
    "outcome": np.dtype(
        [
            *_ROW,
            ("status", _STATUS),
            ("at", "<f8"),
            ("steps", "<i8"),
            ("working_seconds", "<f8"),
            ("final_score", "<f8"),
            ("best_score", "<f8"),
            ("boundary", _BOUNDARY),
        ]
    ),
}
"""Every table of a file with its columns. ``evaluations`` repeats what steps hold, for convenience."""

SINCE_2 = {
    "contexts": tuple(TABLES["contexts"].names or ()),
    "snapshots": tuple(TABLES["snapshots"].names or ()),
    "steps": (*USAGE, "duplicate_tokens"),
}
"""Tables and columns that files of version 1 do not have."""

TAKEN_ELSEWHERE = ("text", "new_prompt_ids", "token_ids", "logprobs")
"""Fields of `ActionTaken` that a step keeps outside its ``taken`` text."""


class Batch(NamedTuple):
    """New rows of each table, and what is to be appended to each array."""

    tables: dict[str, NDArray[Any]]
    arrays: dict[str, NDArray[Any]]


class Tabulator:
    """Turns records into rows. Offsets count from the first record ever added."""

    def __init__(self) -> None:
        self.order = 0
        self._pending: tuple[int, ActionTaken] | None = None
        self._ends = dict.fromkeys(ARRAYS, 0)
        self._clear()

    def _clear(self) -> None:
        self._rows: dict[str, list[bytes]] = {name: [] for name in TABLES}
        self._parts: dict[str, list[bytes]] = {name: [] for name in ARRAYS}

    def add(self, record: Record) -> None:
        """Take one more record in. A step becomes a row once it is observed, or at the outcome."""
        order, self.order = self.order, self.order + 1
        match record:
            case ActionTaken():
                self._pending = (order, record)
            case Observed():
                self._step(record, order)
            case EpisodeHeader():
                self._json("header", order, record, {})
            case AttemptStarted():
                columns = {"epoch": record.epoch, "at": record.at, "resumed_at_step": record.resumed_at_step}
                self._json("attempts", order, record, {**columns, "host": record.host, "job_id": record.job_id})
            case AlertRaised():
                self._json("alerts", order, record, {**_fields(record), "priority": _PRIORITIES.index(record.priority)})
            case GuidanceApplied():
                self._json("guidance", order, record, {**_fields(record), "alert_id": record.alert_id or ""})
            case ContextRewritten():
                columns = {**_fields(record), **_usage_columns(record.usage), "kind": _KINDS.index(record.kind)}
                self._json("contexts", order, record, columns)
            case SnapshotTaken():
                columns = {**_fields(record), "reason": _REASONS.index(record.reason)}
                self._json("snapshots", order, record, columns)
            case OutcomeReached():
                if self._pending is not None:
                    self._step(None, UNOBSERVED)
                scores = {"final_score": _score(record.final_score), "best_score": _score(record.best_score)}
                numbers = {"status": _STATUSES.index(record.status), "boundary": _boundary(record.boundary)}
                self._json("outcome", order, record, {**_fields(record), **scores, **numbers})

    def finish(self) -> None:
        """Write out an action that has no observation, at the end of an unfinished trajectory."""
        if self._pending is not None:
            self._step(None, UNOBSERVED)

    def take(self) -> Batch:
        """Everything that was added since the last call."""
        tables = {name: np.frombuffer(b"".join(rows), TABLES[name]) for name, rows in self._rows.items()}
        arrays = {name: np.frombuffer(b"".join(parts), ARRAYS[name]) for name, parts in self._parts.items()}
        self._clear()
        return Batch(tables, arrays)

    def _json(self, table: str, order: int, record: Record, columns: dict[str, Any]) -> None:
        self._text_row(table, order, to_json(record), columns)

    def _text_row(self, table: str, order: int, text: bytes, columns: dict[str, Any]) -> None:
        span = {"offset": self._append(TEXT, text, len(text)), "length": len(text)}
        self._row(table, {"order": order, **span, **columns}, [text])

    def _step(self, observed: Observed | None, observed_order: int) -> None:
        if self._pending is None:
            raise ValueError("an observation without its action")
        order, taken = self._pending
        self._pending = None
        texts = {
            ANSWER: taken.text.encode(),
            TAKEN: to_json(taken, without=TAKEN_ELSEWHERE),
            OBSERVATION: observed.observation.text.encode() if observed else b"",
            OBSERVED: observed_json(observed) if observed else b"",
        }
        columns: dict[str, Any] = {}
        for name, text in texts.items():
            columns[f"{name}_offset"] = self._append(TEXT, text, len(text))
            columns[f"{name}_length"] = len(text)
        tokens = np.array([*taken.new_prompt_ids, *taken.token_ids], ARRAYS[TOKENS])
        logprobs = np.array(taken.logprobs, ARRAYS[LOGPROBS])
        columns |= {
            "order": order,
            "observed_order": observed_order,
            "step": taken.step,
            "at": taken.at,
            "model_seconds": taken.model_seconds,
            "action": taken.action.name,
            "is_malformed": bool(taken.action.problem),
            "shared_tokens": taken.shared_tokens,
            "token_offset": self._append(TOKENS, tokens.tobytes(), len(tokens)),
            "prompt_tokens": len(taken.new_prompt_ids),
            "answer_tokens": len(taken.token_ids),
            "logprob_offset": self._append(LOGPROBS, logprobs.tobytes(), len(logprobs)),
            "logprob_length": len(logprobs),
            "duplicate_tokens": sum(stop - start for start, stop in taken.duplicate_spans),
            **_usage_columns(taken.usage),
            **_observed_columns(observed),
        }
        self._row("steps", columns, [*texts.values(), tokens.tobytes(), logprobs.tobytes()])
        evaluation = observed.observation.evaluation if observed else None
        if observed is not None and evaluation is not None:
            numbers = {"score": evaluation.score, "left": evaluation.left, "forced": evaluation.forced}
            numbers |= {"step": observed.step, "at": observed.at}
            self._text_row("evaluations", observed_order, evaluation.message.encode(), numbers)

    def _append(self, array: str, part: bytes, length: int) -> int:
        start = self._ends[array]
        self._ends[array] = start + length
        self._parts[array].append(part)
        return start

    def _row(self, table: str, columns: dict[str, Any], parts: Sequence[bytes]) -> None:
        dtype = TABLES[table]
        values = (0 if name == "crc" else columns[name] for name in dtype.names or ())
        row = np.array([tuple(_cut(value) if isinstance(value, str) else value for value in values)], dtype)
        row["crc"] = _crc(row.tobytes(), parts)
        self._rows[table].append(row.tobytes())


def row_crc(row: NDArray[Any], parts: Sequence[NDArray[Any]]) -> int:
    """CRC-32 of a table's row (a one-row array, its ``crc`` taken as 0) and of its parts."""
    blank = row.copy()
    blank["crc"] = 0
    return _crc(blank.tobytes(), (part.tobytes() for part in parts))


def _crc(row: bytes, parts: Iterable[bytes]) -> int:
    crc = zlib.crc32(row)
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc


def observed_json(record: Observed) -> bytes:
    """The ``observed`` text of a step: the record with an empty ``observation.text``."""
    emptied = msgspec.structs.replace(record.observation, text="")
    return to_json(msgspec.structs.replace(record, observation=emptied))


def _observed_columns(observed: Observed | None) -> dict[str, Any]:
    observation = observed.observation if observed else None
    evaluation = observation.evaluation if observation else None
    return {
        "observed_at": observed.at if observed else np.nan,
        "working_seconds": observed.working_seconds if observed else np.nan,
        "is_error": bool(observation and observation.is_error),
        "polling": bool(observation and observation.polling),
        "terminated": bool(observation and observation.terminated),
        "boundary": _boundary(observation.boundary if observation else None),
        "progress": _score(observation.progress if observation else None),
        "score": _score(evaluation.score if evaluation else None),
    }


def _usage_columns(usage: Usage | None) -> dict[str, float]:
    values = msgspec.structs.astuple(usage or Usage())
    return {name: _score(value) for name, value in zip(USAGE, values, strict=True)}


def upgraded(table: str, rows: NDArray[Any]) -> NDArray[Any]:
    """Rows of a table as this version has them: columns of a file of version 1 that it lacks are absent
    (NaN, or 0 for counts).

    Raises:
        ValueError: other columns are missing.
    """
    wanted = TABLES[table]
    missing = set(wanted.names or ()) - set(rows.dtype.names or ())
    if not missing:
        return rows
    if not missing <= set(SINCE_2.get(table, ())):
        raise ValueError(f"no column {', '.join(sorted(missing))}")
    full = np.zeros(len(rows), wanted)
    for name in wanted.names or ():
        full[name] = np.nan if name in USAGE and name in missing else 0 if name in missing else rows[name]
    return full


def _fields(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def _boundary(boundary: Boundary | None) -> int:
    return _BOUNDARIES.index(boundary or "none")


def _score(value: float | None) -> float:
    return np.nan if value is None else value


def _cut(text: str) -> bytes:
    """At most `NAME_BYTES` of UTF-8, cut between characters."""
    return text.encode()[:NAME_BYTES].decode(errors="ignore").encode()
