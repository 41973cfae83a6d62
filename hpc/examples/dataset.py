"""Reading a dataset: examples by number, loaded when asked for."""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hpc.core import files
from hpc.core.errors import DatasetError
from hpc.examples.example import Example
from hpc.examples.manifest import Manifest, ShardEntry

MANIFEST = "manifest.json"
_HINT = "build the dataset again"
_DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError)


class Dataset:
    """The examples of one split (or of all, ``split=None``), numbered from 0 in the order of writing.

    Opening reads the manifest and the offsets only. Use it as a context manager, or `close` it. An
    open one must not be shared between processes: open it in each.

    Raises:
        DatasetError: no whole dataset, no such split, or (here or while reading) damage.
    """

    def __init__(self, folder: Path, *, split: str | None = "train") -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder / MANIFEST)
        self.shards = [entry for entry in self.manifest.shards if split in (None, entry.split)]
        if not self.shards:
            there = ", ".join(sorted({entry.split for entry in self.manifest.shards})) or "none"
            raise DatasetError(f"{folder} has no examples of the split {split!r}", f"it has: {there}")
        self._files: dict[int, h5py.File] = {}
        self._offsets = [self._read_offsets(number) for number in range(len(self.shards))]
        self._first = [0, *np.cumsum([len(offsets) - 1 for offsets in self._offsets]).tolist()]
        self.lengths: NDArray[np.int64] = np.concatenate([np.diff(offsets) for offsets in self._offsets])
        """Tokens of each example."""

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect.bisect_right(self._first, index) - 1
        return self._example(shard, index - self._first[shard])

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def check_files(self) -> None:
        """Compare every shard with its SHA-256.

        Raises:
            DatasetError: one differs; the message names it.
        """
        for entry in self.shards:
            if files.sha256(self.folder / entry.file) != entry.sha256:
                raise DatasetError(f"{self.folder / entry.file} is not the file that was built", _HINT)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}

    def __enter__(self) -> Dataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _file(self, number: int) -> h5py.File:
        file = self._files.get(number)
        if file is None:
            file = self._files[number] = h5py.File(self.folder / self.shards[number].file, "r", locking=False)
        return file

    def _read_offsets(self, number: int) -> NDArray[np.int64]:
        entry = self.shards[number]
        try:
            offsets: NDArray[np.int64] = self._file(number)["offsets"][:]
        except _DAMAGE as error:
            raise self._damaged(entry, error) from error
        if len(offsets) != entry.examples + 1 or offsets[-1] != entry.tokens or (np.diff(offsets) <= 0).any():
            raise self._damaged(entry, "its offsets do not match the manifest")
        return offsets

    def _example(self, number: int, row: int) -> Example:
        start, end = (int(value) for value in self._offsets[number][row : row + 2])
        try:
            file = self._file(number)
            meta_start, meta_end = (int(value) for value in file["meta_offsets"][row : row + 2])
            meta: dict[str, Any] = json.loads(file["meta"][meta_start:meta_end].tobytes())
            return Example(
                id=meta.pop("id"),
                tokens=file["tokens"][start:end],
                loss_mask=file["loss_mask"][start:end],
                logprobs=file["logprobs"][start:end] if "logprobs" in file else None,
                advantages=file["advantages"][start:end] if "advantages" in file else None,
                meta=meta,
            )
        except _DAMAGE as error:
            raise self._damaged(self.shards[number], error) from error

    def _damaged(self, entry: ShardEntry, why: object) -> DatasetError:
        return DatasetError(f"{self.folder / entry.file} is damaged: {why}", _HINT)
