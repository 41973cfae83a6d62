"""Writing a dataset: shard after shard in constant memory, the manifest last."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from hpc.core import files
from hpc.core.errors import DatasetError
from hpc.examples.example import Example
from hpc.examples.manifest import Manifest, ShardEntry

CHUNK = 1 << 16
SHARD_TOKENS = 1 << 24
"""A shard is closed when it has so many tokens."""
ARRAYS = {"tokens": np.int32, "loss_mask": np.uint8, "logprobs": np.float32, "advantages": np.float32}
OPTIONAL = ("logprobs", "advantages")


class DatasetWriter:
    """Writes the folder ``folder``, which must not hold a dataset; left by an exception it removes its shards.

    ::

        with DatasetWriter(folder, about={...}) as writer:
            writer.add(example, split="train")

    Raises:
        DatasetError: there is a dataset already, an example is not valid, or the disk is full.
    """

    def __init__(self, folder: Path, *, about: dict[str, Any], shard_tokens: int = SHARD_TOKENS) -> None:
        self.folder = folder
        self.about = about
        self.manifest: Manifest | None = None
        self._shard_tokens = shard_tokens
        self._open: dict[str, _Shard] = {}
        self._closed: list[ShardEntry] = []
        self._count = 0
        if (folder / "manifest.json").exists():
            raise DatasetError(f"{folder} holds a dataset already", "choose another name, or remove it")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatasetError(
                f"cannot make {folder}: {error.strerror}", "free space or mend the permissions"
            ) from error
        for left in folder.glob("shard-*.h5*"):  # of a build that was interrupted
            left.unlink()

    def __enter__(self) -> DatasetWriter:
        return self

    def add(self, example: Example, *, split: str = "train") -> None:
        """Append one example to a split."""
        example.check()
        shard = self._open.get(split)
        if shard is None:
            shard = self._open[split] = _Shard(self.folder / f"shard-{self._count:05d}.h5", split)
            self._count += 1
        try:
            shard.add(example)
        except OSError as error:
            raise DatasetError(f"cannot write {shard.path}: {error}", "free space") from error
        if shard.tokens >= self._shard_tokens:
            self._closed.append(self._open.pop(split).close())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._finish()
            except BaseException:
                self._abandon()
                raise
        else:
            self._abandon()

    def _finish(self) -> None:
        try:
            self._closed += [shard.close() for shard in self._open.values()]
        except OSError as error:
            raise DatasetError(f"cannot write {self.folder}: {error}", "free space") from error
        self._open = {}
        self._closed.sort(key=lambda entry: entry.file)
        self.manifest = Manifest(
            shards=self._closed, content=Manifest.content_of(self._closed), created_at=time.time(), about=self.about
        )
        self.manifest.write(self.folder / "manifest.json")

    def _abandon(self) -> None:
        for shard in self._open.values():
            shard.abandon()
        for entry in self._closed:
            (self.folder / entry.file).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


class _Shard:
    def __init__(self, path: Path, split: str) -> None:
        self.path, self.split = path, split
        self.examples = self.tokens = self.trained = 0
        self._temporary = path.with_suffix(".h5.tmp")
        self._file = h5py.File(self._temporary, "w", libver=("v110", "v110"))
        self._offsets = [0]
        self._metas: list[bytes] = []
        self._has: dict[str, bool] | None = None
        self._pending: dict[str, list[Any]] = {}
        self._waiting = 0

    def add(self, example: Example) -> None:
        has = {name: getattr(example, name) is not None for name in ARRAYS}
        if self._has is None:
            self._has = has
            for name in (name for name, there in has.items() if there):
                self._pending[name] = []
                self._file.create_dataset(
                    name, (0,), ARRAYS[name], maxshape=(None,), chunks=(CHUNK,), shuffle=True,
                    compression="gzip", compression_opts=1, fletcher32=True,
                )  # fmt: skip
        elif has != self._has:
            differing = ", ".join(name for name in OPTIONAL if has[name] != self._has[name])
            raise DatasetError(f"example {example.id} and those before it differ in {differing}", "give all or none")
        for name, parts in self._pending.items():
            parts.append(np.asarray(getattr(example, name), ARRAYS[name]))
        self._metas.append(json.dumps({"id": example.id, **example.meta}, ensure_ascii=False, sort_keys=True).encode())
        self.examples += 1
        self.tokens += len(example.tokens)
        self.trained += example.trained
        self._offsets.append(self.tokens)
        self._waiting += len(example.tokens)
        if self._waiting >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        for name, parts in self._pending.items():
            data = np.concatenate(parts) if parts else np.zeros(0, ARRAYS[name])
            dataset = self._file[name]
            start = len(dataset)
            dataset.resize((start + len(data),))
            dataset[start:] = data
            parts.clear()
        self._waiting = 0

    def close(self) -> ShardEntry:
        self._flush()
        self._file.create_dataset("offsets", data=np.asarray(self._offsets, np.int64), fletcher32=True)
        ends = np.cumsum([0, *map(len, self._metas)], dtype=np.int64)
        self._file.create_dataset("meta_offsets", data=ends, fletcher32=True)
        self._file.create_dataset(
            "meta", data=np.frombuffer(b"".join(self._metas), np.uint8), compression="gzip", fletcher32=True
        )
        self._file.attrs["split"] = self.split
        self._file.close()
        digest = files.sha256(self._temporary)
        with self._temporary.open("rb") as file:
            os.fsync(file.fileno())
        self._temporary.rename(self.path)
        files.fsync_dir(self.path.parent)
        return ShardEntry(
            file=self.path.name, split=self.split, sha256=digest,
            examples=self.examples, tokens=self.tokens, trained_tokens=self.trained,
        )  # fmt: skip

    def abandon(self) -> None:
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
