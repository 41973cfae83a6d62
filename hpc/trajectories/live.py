"""The live view: an HDF5 file in SWMR mode that readers may follow while the episode runs.

It is a convenience made from the log and never harms an episode: when it cannot be written it is
given up with a warning. A crashed view is never reopened; each attempt writes a new one that begins
with everything so far. SWMR needs a local or POSIX-complete file system (not NFS); readers on other
nodes follow the log instead (`hpc.trajectories.reader.follow`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py

from hpc.trajectories.layout import ARRAYS, TABLES, Tabulator
from hpc.trajectories.records import Record
from hpc.trajectories.sealed import LIBVER, memory_file, write_attributes

log = logging.getLogger(__name__)

BATCH_SECONDS = 1.0
"""The view's thread sleeps so long between batches: woken for each record it would take turns with the writer."""
ARRAY_CHUNK_BYTES = 64 * 1024
TABLE_CHUNK_ROWS = 64


class LiveView:
    """Mirrors records into ``path`` from a thread of its own, at most `BATCH_SECONDS` late.

    Args:
        path: the new file; it appears whole, with ``records`` in it, under this name.
        records: everything before the first `put`; the first one is the header.
        replaces: views of earlier attempts, removed once this one is there.
    """

    def __init__(self, path: Path, records: Sequence[Record], *, replaces: Sequence[Path] = ()) -> None:
        self.path = path
        self._waiting: deque[Record] = deque()
        self._closing = threading.Event()
        self._tabulator = Tabulator()
        self._file: Any = None
        self._datasets: dict[str, Any] = {}
        self._thread = threading.Thread(
            target=self._run, args=(list(records), list(replaces)), name=f"live view {path.name}", daemon=True
        )
        self._thread.start()

    def put(self, record: Record) -> None:
        """Mirror one more record, soon (unless the view was given up)."""
        if self._thread.is_alive():
            self._waiting.append(record)

    def close(self) -> None:
        """Write what is left and close the file."""
        self._closing.set()
        self._thread.join()

    def _run(self, records: list[Record], replaces: list[Path]) -> None:
        try:
            self._create(records)
            for path in replaces:
                path.unlink(missing_ok=True)
            while not self._closing.wait(BATCH_SECONDS):
                self._write(self._taken())
            self._write(self._taken())
        except Exception as error:  # a view must not harm its episode, whatever HDF5 says
            log.warning("live view %s given up: %s", self.path, " ".join(str(error).split())[:200])
            if self._file is not None:
                _divert(self._file)
            for path in (self.path, temporary_of(self.path)):  # a view that stands still would deceive
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
        finally:
            if self._file is not None:
                with contextlib.suppress(Exception):
                    self._file.close()

    def _taken(self) -> list[Record]:
        """What has come since the last batch."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]

    def _create(self, records: list[Record]) -> None:
        temporary = temporary_of(self.path)
        temporary.unlink(missing_ok=True)
        temporary.write_bytes(_empty_view(records))
        self._file = h5py.File(temporary, "r+", libver=LIBVER, locking=False)
        os.set_inheritable(self._file.id.get_vfd_handle(), False)  # not for the agent's shells
        self._datasets = {name: self._file[name] for name in (*TABLES, *ARRAYS)}  # kept open: closing one writes
        self._file.swmr_mode = True
        self._write(records)
        temporary.replace(self.path)

    def _write(self, records: Sequence[Record]) -> None:
        """Append a batch."""
        for record in records:
            self._tabulator.add(record)
        batch = self._tabulator.take()
        for data in (batch.arrays, batch.tables):  # a row must never point to what is not there yet
            for name, new in data.items():
                if len(new):
                    dataset = self._datasets[name]
                    start = len(dataset)
                    dataset.resize((start + len(new),))
                    dataset[start:] = new
                    dataset.flush()


def _empty_view(records: Sequence[Record]) -> bytes:
    """A view without rows, made in memory: HDF5 must not meet a full disk (see `_divert`)."""
    with memory_file() as file:
        write_attributes(file, records[:1])
        for name, dtype in {**TABLES, **ARRAYS}.items():
            chunk = TABLE_CHUNK_ROWS if name in TABLES else ARRAY_CHUNK_BYTES // dtype.itemsize
            file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(chunk,))
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _divert(file: Any) -> None:
    """Let what HDF5 still wants to write go nowhere.

    After a write that failed (a full disk) HDF5 cannot close the file, and crashes the process at
    its exit. With the null device in the file descriptor's place it closes in peace.
    """
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(nowhere, file.id.get_vfd_handle(), inheritable=False)
    os.close(nowhere)


def temporary_of(path: Path) -> Path:
    """Where the view ``path`` is made ready."""
    return path.with_name(f".{path.name}.tmp")


def views_in(folder: Path) -> list[Path]:
    """All views, and beginnings of views, in an episode's folder."""
    return [*folder.glob("live-*.h5"), *folder.glob(".live-*.h5.tmp")]
