"""The sealed file of a trajectory: building its bytes, and reading them with nothing taken on trust.

Every chunk carries a checksum (fletcher32), HDF5's own metadata too, and every row a CRC over itself
and its texts, tokens and log-probabilities: a changed bit is an error, never a wrong value. HDF5 is
shown only what matches the checksums behind it (`hpc.trajectories.trailer`), where a file has them.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hpc.core.errors import TrajectoryIncomplete, TrajectoryLayoutError
from hpc.trajectories.codec import from_json, to_json
from hpc.trajectories.layout import (
    ANSWER,
    ARRAYS,
    FORMAT,
    LOGPROBS,
    OBSERVATION,
    OBSERVED,
    SINCE_2,
    STEP_TEXTS,
    TABLES,
    TAKEN,
    TEXT,
    TOKENS,
    UNOBSERVED,
    Tabulator,
    row_crc,
    upgraded,
)
from hpc.trajectories.log import check_hint, require_version
from hpc.trajectories.records import FORMAT_VERSION, ActionTaken, EpisodeHeader, Observed, OutcomeReached, Record
from hpc.trajectories.trailer import (
    MAGIC,
    CutOffError,
    Extent,
    Image,
    contains,
    extent_of,
    probable_extent,
    with_trailer,
)

LIBVER = ("v110", "v110")  # metadata with checksums; readable by HDF5 1.10 and later
CHUNK_BYTES = 1 << 20
CACHE_BYTES = 16 << 20
ZSTD_LEVEL = 3
RECORD_TABLES = ("header", "attempts", "alerts", "guidance", "contexts", "snapshots", "outcome")
"""Tables whose rows are whole records."""
_DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError, IndexError, OverflowError, MemoryError, EOFError)
"""What HDF5 and the decoders raise on bytes that are not as they were written."""


def build(records: Sequence[Record]) -> bytes:
    """The sealed file of these records, as bytes. The same records give the same bytes.

    Raises:
        ValueError: the records do not come back as they went in.
    """
    tabulator = Tabulator()
    for record in records:
        tabulator.add(record)
    tabulator.finish()
    batch = tabulator.take()
    with memory_file() as file:
        write_attributes(file, records)
        for name, data in [*batch.tables.items(), *batch.arrays.items()]:
            _write(file, name, data)
        file.flush()
        image: bytes = file.id.get_file_image()
    with h5py.File(io.BytesIO(image), "r") as file:
        back = StoredFile(Path("sealed"), file).records()
        if any(to_json(new) != to_json(old) for new, old in zip(back, records, strict=True)):
            raise ValueError("a record does not come back as it went in")
    return with_trailer(image)


_numbers = itertools.count()


def memory_file() -> Any:
    """A new HDF5 file in memory, under a name of its own: HDF5 takes two open ones of a name for the same
    file, and episodes of one process may be sealed at the same time."""
    return h5py.File(f"memory-{next(_numbers)}", "w", driver="core", backing_store=False, libver=LIBVER)


def write_attributes(file: Any, records: Sequence[Record]) -> None:
    """The root attributes, for readers who look no further. Texts are fixed-length UTF-8."""
    header, outcome = records[0], records[-1]
    if not isinstance(header, EpisodeHeader):
        raise ValueError("a trajectory begins with its header")
    values: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, **_described(header)}
    if isinstance(outcome, OutcomeReached):
        values |= {"records": len(records), "status": outcome.status, "ended_at": outcome.at}
    for name, value in values.items():
        if isinstance(value, str):
            data = value.encode()
            file.attrs.create(name, data, dtype=h5py.string_dtype("utf-8", max(1, len(data))))
        else:
            file.attrs[name] = value


def _described(header: EpisodeHeader) -> dict[str, Any]:
    """The fields of the header that attributes repeat. The file's version is that of its writer, who may
    have gone on with an episode that an earlier version began."""
    left_out = ("messages", "tools", "origin", "environment", "branched_from", "format_version")
    return {name: getattr(header, name) for name in header.__struct_fields__ if name not in left_out}


def _write(file: Any, name: str, data: NDArray[Any]) -> None:
    if not len(data):
        file.create_dataset(name, data=data)
        return
    chunk = min(len(data), max(1, CHUNK_BYTES // data.dtype.itemsize))
    file.create_dataset(name, data=data, chunks=(chunk,), shuffle=True, fletcher32=True, **_compression())


def _compression() -> dict[str, Any]:
    try:
        import hdf5plugin
    except ImportError:
        return {"compression": "gzip", "compression_opts": 4}
    return dict(hdf5plugin.Zstd(clevel=ZSTD_LEVEL))


def require_untouched(path: Path) -> bool:
    """Compare every byte of a sealed file with the checksums behind it.

    Returns:
        Whether it has any; a file without (of an earlier version) has its true length.

    Raises:
        TrajectoryLayoutError: it never was a sealed trajectory.
        TrajectoryIncomplete: damaged.
    """
    extent = _extent(path)
    with guarded(path, "file"), Image(path, extent) as image:
        if extent.sums is not None:
            image.verify()
    return extent.sums is not None


def _extent(path: Path) -> Extent:
    with guarded(path, "file"):
        try:
            return extent_of(path)
        except ValueError as error:
            problem, cut_off = str(error), isinstance(error, CutOffError)
        ours = cut_off or contains(path, FORMAT.encode(), MAGIC)
    if not ours:
        raise TrajectoryLayoutError(f"{path} is an HDF5 file but not a trajectory", "name another file")
    if _is_view(path):
        raise TrajectoryLayoutError(f"{path} is a live view", "name its episode as RUN/INDEX")
    raise TrajectoryIncomplete(f"{path} is damaged: {problem}", check_hint(path))


def _is_view(path: Path) -> bool:
    return path.name.removeprefix(".").startswith("live-")


def _register_zstd() -> None:
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401  registers the filter


@contextlib.contextmanager
def guarded(path: Path, what: str) -> Iterator[None]:
    """Turn whatever HDF5 or a decoder raises into TrajectoryIncomplete for ``what`` of ``path``."""
    try:
        yield
    except _DAMAGE as error:
        said = error.args[0] if isinstance(error, KeyError) and error.args else error  # str() would quote it
        reason = " ".join(str(said).split())[:200]
        raise TrajectoryIncomplete(f"{path} is damaged: {what}: {reason}", check_hint(path)) from error


class StoredFile:
    """An open trajectory file in HDF5, verified piece by piece as it is read.

    Raises (all methods):
        TrajectoryIncomplete: a piece is damaged or missing.
    """

    def __init__(self, path: Path, file: Any, image: Image | None = None) -> None:
        self.path = path
        self._file = file
        self._image = image
        self._tables: dict[str, NDArray[Any]] = {}
        self._stored: dict[str, NDArray[Any]] = {}  # the same as it is in the file, for the checksums
        self._datasets: dict[str, Any] = {}
        with guarded(path, "attributes"):
            if _text(file.attrs.get("format", b"")) != FORMAT:
                raise TrajectoryLayoutError(f"{path} is an HDF5 file but not a trajectory", "name another file")
            self.version = int(file.attrs["format_version"])
            require_version(path, self.version)

    @classmethod
    def open(cls, path: Path) -> StoredFile:
        """Open a sealed file (its signature has been looked at), of which HDF5 sees what matches its checksums.

        Raises:
            TrajectoryLayoutError: HDF5, but not a sealed trajectory, or of a newer format.
            TrajectoryIncomplete: damaged.
        """
        return cls._open_image(path, _extent(path))

    @classmethod
    def open_damaged(cls, path: Path) -> StoredFile:
        """Open a sealed file or a live view in whatever state it is: HDF5 may crash this process.

        Raises:
            TrajectoryLayoutError: HDF5, but not a trajectory, or of a newer format.
            TrajectoryIncomplete: nothing of it can be read.
        """
        if not _is_view(path):
            with guarded(path, "file"):
                extent = probable_extent(path)
            return cls._open_image(path, extent)
        _register_zstd()
        with guarded(path, "file"):
            try:
                file = h5py.File(path, "r", locking=False)
            except OSError:  # a crash left it open for writing
                file = h5py.File(path, "r", swmr=True, locking=False)
        return cls._over(path, file)

    @classmethod
    def _open_image(cls, path: Path, extent: Extent) -> StoredFile:
        _register_zstd()
        with guarded(path, "file"):
            image = Image(path, extent)
            try:
                file = h5py.File(image, "r", rdcc_nbytes=CACHE_BYTES)
            except BaseException:
                image.close()
                raise
        return cls._over(path, file, image)

    @classmethod
    def _over(cls, path: Path, file: Any, image: Image | None = None) -> StoredFile:
        try:
            return cls(path, file, image)
        except BaseException:
            file.close()
            if image is not None:
                image.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._image is not None:
            self._image.close()

    def __enter__(self) -> StoredFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def table(self, name: str) -> NDArray[Any]:
        """All rows of a table."""
        if name not in self._tables:
            with guarded(self.path, f"table {name}"):
                if self.version == 1 and name in SINCE_2 and name not in self._file:
                    rows = np.zeros(0, TABLES[name])
                else:
                    rows = self._file[name][:]
                if self.version > 1 and not set(TABLES[name].names or ()) <= set(rows.dtype.names or ()):
                    raise ValueError("columns are missing")
                self._stored[name] = rows
                self._tables[name] = upgraded(name, rows)
        return self._tables[name]

    def _row(self, name: str, row: int) -> NDArray[Any]:
        """One row as it is stored."""
        self.table(name)
        stored: NDArray[Any] = self._stored[name][row : row + 1]
        return stored

    def is_sealed(self) -> bool:
        """Whether the file is a finished one, not a live view."""
        return "records" in self._file.attrs

    def verify(self) -> None:
        """Check what can be checked without reading texts: counts, order, numbering, attributes."""
        with guarded(self.path, "attributes"):
            header = self.record("header", 0)
            if not isinstance(header, EpisodeHeader):
                raise ValueError("the header is another record")
            for name, value in _described(header).items():
                if self.version == 1 and not value and name not in self._file.attrs:
                    continue
                stored = self._file.attrs[name]
                if (_text(stored) if isinstance(value, str) else stored) != value:
                    raise ValueError(f"attribute {name} is not what the header says")
            expected = int(self._file.attrs["records"])
        with guarded(self.path, "order of records"):
            if [order for order, _, _ in self.places()] != list(range(expected)):
                raise ValueError(f"not the {expected} records that were sealed")
        with guarded(self.path, "steps"):
            if not np.array_equal(self.table("steps")["step"], np.arange(1, len(self.table("steps")) + 1)):
                raise ValueError("not numbered 1, 2, 3 …")

    def places(self) -> list[tuple[int, str, int]]:
        """``(order, table, row)`` of every record, by order; an observation is in ``observed``."""
        found = [(int(order), name, i) for name in RECORD_TABLES for i, order in enumerate(self.table(name)["order"])]
        for i, row in enumerate(self.table("steps")):
            found.append((int(row["order"]), TAKEN, i))
            if row["observed_order"] != UNOBSERVED:
                found.append((int(row["observed_order"]), OBSERVED, i))
        return sorted(found)

    def records(self) -> Iterator[Record]:
        """All records in the order in which they were written."""
        step: tuple[int, ActionTaken, Observed | None] | None = None
        for _, name, row in self.places():
            if name not in (TAKEN, OBSERVED):
                yield self.record(name, row)
                continue
            if step is None or step[0] != row:
                step = (row, *self.step(row))
            record = step[1] if name == TAKEN else step[2]
            if record is not None:
                yield record

    def record(self, table: str, row: int) -> Record:
        """One record of a table of whole records."""
        with guarded(self.path, f"{table}[{row}]"):
            rows = self._row(table, row)
            text = self._part(TEXT, rows["offset"][0], rows["length"][0])
            self._check(rows, [text])
            return from_json(text.tobytes())

    def evaluation_message(self, row: int) -> str:
        """The message of a row of ``evaluations``."""
        with guarded(self.path, f"evaluations[{row}]"):
            rows = self._row("evaluations", row)
            text = self._part(TEXT, rows["offset"][0], rows["length"][0])
            self._check(rows, [text])
            return text.tobytes().decode()

    def step(self, row: int) -> tuple[ActionTaken, Observed | None]:
        """The step in a row of ``steps``."""
        with guarded(self.path, f"steps[{row}]"):
            rows = self._row("steps", row)
            at = rows[0]
            parts = [self._part(TEXT, at[f"{name}_offset"], at[f"{name}_length"]) for name in STEP_TEXTS]
            shown = int(at["prompt_tokens"])
            tokens = self._part(TOKENS, at["token_offset"], shown + int(at["answer_tokens"]))
            logprobs = self._part(LOGPROBS, at["logprob_offset"], at["logprob_length"])
            self._check(rows, [*parts, tokens, logprobs])
            text = dict(zip(STEP_TEXTS, (part.tobytes() for part in parts), strict=True))
            taken = from_json(
                text[TAKEN],
                text=text[ANSWER].decode(),
                new_prompt_ids=tokens[:shown].tolist(),
                token_ids=tokens[shown:].tolist(),
                logprobs=logprobs.tolist(),
            )
            if not isinstance(taken, ActionTaken):
                raise ValueError("not an action")
            if at["observed_order"] == UNOBSERVED:
                return taken, None
            empty = from_json(text[OBSERVED])
            if not isinstance(empty, Observed):
                raise ValueError("not an observation")
            return taken, _with_text(empty, text[OBSERVATION].decode())

    def token_parts(self, row: int) -> tuple[int, list[int], list[int]]:
        """Shared count, new prompt ids and answer ids of a step, without reading its texts."""
        with guarded(self.path, f"tokens of steps[{row}]"):
            at = self.table("steps")[row]
            shown = int(at["prompt_tokens"])
            tokens = self._part(TOKENS, at["token_offset"], shown + int(at["answer_tokens"]))
            return int(at["shared_tokens"]), tokens[:shown].tolist(), tokens[shown:].tolist()

    def _part(self, array: str, offset: int, length: int) -> NDArray[Any]:
        start, size = int(offset), int(length)
        if array not in self._datasets:
            self._datasets[array] = self._file[array]
        data = self._datasets[array]
        if start < 0 or size < 0 or start + size > len(data) or data.dtype != ARRAYS[array]:
            raise ValueError(f"{array} does not reach to {start + size}")
        part: NDArray[Any] = data[start : start + size]
        return part

    def _check(self, row: NDArray[Any], parts: list[NDArray[Any]]) -> None:
        if row_crc(row, parts) != int(row["crc"][0]):
            raise ValueError("checksum does not match")


def _with_text(record: Observed, text: str) -> Observed:
    from msgspec.structs import replace

    return replace(record, observation=replace(record.observation, text=text))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
