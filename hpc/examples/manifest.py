"""What a dataset's manifest.json says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from hpc.core import files
from hpc.core.errors import DatasetError

FORMAT = "apollo-hpc dataset"
FORMAT_VERSION = 1


class ShardEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One shard: its file name, the split it belongs to, the SHA-256 of its bytes, and its counts."""

    file: str
    split: str
    sha256: str
    examples: int
    tokens: int
    trained_tokens: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole dataset.

    ``content`` is a SHA-256 over the shards in order: two datasets with the same examples have the same.
    ``about`` is the builder's: arm, sources with their hashes, tokenizer, policy versions, git state.
    """

    shards: list[ShardEntry]
    content: str
    created_at: float
    about: dict[str, Any] = {}
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    @staticmethod
    def content_of(shards: list[ShardEntry]) -> str:
        """What `content` is for these shards."""
        lines = "".join(f"{entry.split} {entry.sha256}\n" for entry in shards)
        return hashlib.sha256(lines.encode()).hexdigest()

    def write(self, path: Path) -> None:
        files.write_bytes(path, msgspec.json.format(msgspec.json.encode(self), indent=2))

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """The manifest at ``path``.

        Raises:
            DatasetError: there is none, it is damaged, or of a later version.
        """
        hint = "name the folder of a whole dataset, or build it again: hpc dataset build"
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            raise DatasetError(f"{path.parent} is no whole dataset: it has no {path.name}", hint) from None
        except (OSError, msgspec.MsgspecError) as error:
            raise DatasetError(f"cannot read {path}: {error}", hint) from error
        if manifest.format != FORMAT:
            raise DatasetError(f"{path} is the manifest of something else: {manifest.format!r}", hint)
        if manifest.format_version > FORMAT_VERSION:
            raise DatasetError(
                f"{path} has format version {manifest.format_version}, this program knows {FORMAT_VERSION}",
                "update apollo-hpc",
            )
        return manifest
