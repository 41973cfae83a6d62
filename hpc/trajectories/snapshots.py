"""Workspaces by content: what an agent's files were after a step, each distinct piece stored once.

::

    snapshots/
      manifests/<id>.json.zst      what a workspace consists of; <id> is the SHA-256 of the JSON
      objects/ab/abcd….zst         a piece of a file (4 MiB, or the whole), named by its SHA-256

Pieces are written first, the manifest last, each whole or absent. A writer that is killed leaves pieces
that nothing names, which the next one uses or `prune` removes. See docs/snapshots.md.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from hpc.core import files
from hpc.core.errors import HpcError, SnapshotError

PIECE_BYTES = 4 << 20
LEVEL = 3
LEFTOVER_SECONDS = 3600.0
_RACY_SECONDS = 2.0  # a file changed so shortly before it was read may change again without a new time


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing in a workspace; ``path`` is relative, with slashes. ``mode`` are its permission bits.

    Of a file ``pieces`` are the SHA-256 of each `PIECE_BYTES` of its content, of a link ``target`` is
    where it leads.
    """

    path: str
    kind: str  # file, folder or link
    mode: int = 0
    size: int = 0
    pieces: list[str] = []
    target: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace. ``left_out`` names what is not in it: sockets, devices, what cannot be read or names
    that are not Unicode."""

    version: int = 1
    entries: list[Entry]
    left_out: list[str] = []

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(entry.size for entry in self.entries)

    @property
    def file_count(self) -> int:
        """How many files it has."""
        return sum(entry.kind == "file" for entry in self.entries)


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot: its id, and what it added to the store in bytes."""

    id: str
    manifest: Manifest
    stored: int


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot may hold. ``exclude`` are patterns, as in a shell, of relative paths left out."""

    max_bytes: int = 1 << 30
    max_files: int = 50_000
    exclude: tuple[str, ...] = ()


class SnapshotStore:
    """The snapshots of a run, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[tuple[int, int, int], list[str]]] = {}

    # ---- taking

    def take(self, workspace: Path, limits: Limits) -> Taken:
        """Store a workspace as it is now. Files that change meanwhile are stored as they were read.

        Raises:
            SnapshotError: it is larger than ``limits`` allow; nothing was stored.
            HpcError: it cannot be read, or the disk refuses.
        """
        found, left_out = _survey(workspace, limits)
        entries: list[Entry] = []
        stored = 0
        for path, status in found:
            name = path.relative_to(workspace).as_posix()
            mode = stat.S_IMODE(status.st_mode) & 0o777
            try:
                if stat.S_ISLNK(status.st_mode):
                    entries.append(Entry(path=name, kind="link", target=str(path.readlink())))
                elif stat.S_ISDIR(status.st_mode):
                    entries.append(Entry(path=name, kind="folder", mode=mode))
                else:
                    pieces, size, new = self._add_file(path, status)
                    stored += new
                    entries.append(Entry(path=name, kind="file", mode=mode, size=size, pieces=pieces))
            except OSError:  # removed meanwhile, or not ours to read
                left_out.append(name)
        manifest = Manifest(entries=entries, left_out=sorted(left_out))
        data = msgspec.json.encode(manifest)
        name = hashlib.sha256(data).hexdigest()
        if not self._manifest(name).exists():
            stored += self._write(self._manifest(name), data)
        return Taken(id=name, manifest=manifest, stored=stored)

    def _add_file(self, path: Path, status: os.stat_result) -> tuple[list[str], int, int]:
        """Pieces of a file, its size as read, and the bytes that were new."""
        mark = (status.st_size, status.st_mtime_ns, status.st_ino)
        known = self._known.get(str(path))
        if known is not None and known[0] == mark and all(self._object(piece).exists() for piece in known[1]):
            return known[1], status.st_size, 0
        pieces: list[str] = []
        size = stored = 0
        with path.open("rb") as file:
            while data := file.read(PIECE_BYTES):
                piece = hashlib.sha256(data).hexdigest()
                pieces.append(piece)
                size += len(data)
                if not self._object(piece).exists():
                    stored += self._write(self._object(piece), data)
                if size > status.st_size + PIECE_BYTES:  # it grows as fast as it is read
                    break
        if time.time() - status.st_mtime > _RACY_SECONDS:
            self._known[str(path)] = (mark, pieces)
        return pieces, size, stored

    def _write(self, path: Path, data: bytes) -> int:
        import zstandard

        packed = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(data)
        files.write_bytes(path, packed)
        return len(packed)

    # ---- reading

    def ids(self) -> list[str]:
        """All snapshots."""
        return sorted(path.name.removesuffix(".json.zst") for path in (self.folder / "manifests").glob("*.json.zst"))

    def find(self, beginning: str) -> str:
        """The id that begins so.

        Raises:
            SnapshotError: none does, or several do.
        """
        found = [name for name in self.ids() if name.startswith(beginning)]
        if len(found) != 1:
            what = "no snapshot" if not found else f"{len(found)} snapshots"
            raise SnapshotError(f"{what} of {self.folder} begin with {beginning!r}", "see `hpc traj snapshot ls`")
        return found[0]

    def read(self, name: str) -> Manifest:
        """What a snapshot consists of.

        Raises:
            SnapshotError: it is absent or damaged.
        """
        data = self._unpacked(self._manifest(name), name)
        try:
            return msgspec.json.decode(data, type=Manifest)
        except msgspec.DecodeError as error:
            raise SnapshotError(f"snapshot {name[:12]} is of another version: {error}", "upgrade apollo-hpc") from error

    def missing(self, name: str) -> list[str]:
        """What of a snapshot is not there, in words; every piece is read where ``name`` is whole.

        Raises:
            SnapshotError: its manifest is absent or damaged.
        """
        problems = []
        for entry in self.read(name).entries:
            for piece in entry.pieces:
                try:
                    self._unpacked(self._object(piece), piece)
                except SnapshotError as error:
                    problems.append(f"{entry.path}: {error.message}")
        return problems

    def restore(self, name: str, target: Path) -> Manifest:
        """Lay a snapshot out as the new folder ``target``; it appears whole.

        Raises:
            SnapshotError: the snapshot is absent or damaged, or ``target`` is there and not empty.
            HpcError: the disk refuses.
        """
        manifest = self.read(name)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise SnapshotError(f"{target} is there already", "name a folder that does not exist")
        draft = target.with_name(f".{target.name}.{os.getpid()}.restoring")
        try:
            draft.mkdir(parents=True)
            for entry in sorted(manifest.entries, key=lambda entry: entry.kind == "link"):  # nothing goes through one
                self._lay_out(entry, draft)
            for entry in reversed(manifest.entries):  # when nothing is to be written into them any more
                if entry.kind == "folder":
                    (draft / entry.path).chmod(entry.mode)
            if target.exists():
                target.rmdir()
            draft.replace(target)
        except OSError as error:
            raise HpcError(
                f"cannot restore into {target}: {error.strerror}", "free space or mend the folder"
            ) from error
        finally:
            _remove(draft)
        return manifest

    def _lay_out(self, entry: Entry, root: Path) -> None:
        pure = PurePosixPath(entry.path)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise SnapshotError(f"snapshot names {entry.path!r}, outside of its workspace", "do not use it")
        path = root / pure
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.kind == "folder":
            path.mkdir(exist_ok=True)
        elif entry.kind == "link":
            path.symlink_to(entry.target)
        else:
            with path.open("xb") as file:
                for piece in entry.pieces:
                    file.write(self._unpacked(self._object(piece), piece))
            path.chmod(entry.mode)

    def _unpacked(self, path: Path, name: str) -> bytes:
        import zstandard

        try:
            packed = path.read_bytes()
            data = zstandard.ZstdDecompressor().decompress(packed)
        except OSError as error:
            raise SnapshotError(f"{path} cannot be read: {error.strerror}", "restore it from a copy") from error
        except (zstandard.ZstdError, MemoryError) as error:
            raise SnapshotError(f"{path} is damaged: {error}", "restore it from a copy") from error
        if hashlib.sha256(data).hexdigest() != name:
            raise SnapshotError(f"{path} is damaged: not what its name says", "restore it from a copy")
        return data

    # ---- keeping

    def prune(self, keep: Sequence[str] | None = None, *, dry_run: bool = False) -> tuple[int, int]:
        """Remove what no snapshot names and killed writers left behind; (files, bytes) of it.

        Nothing younger than an hour goes, as a writer may be at work.

        Args:
            keep: also remove all snapshots but these.

        Raises:
            SnapshotError: a manifest is damaged, so that nothing can be said to be unused.
        """
        kept = [name for name in self.ids() if keep is None or name in set(keep)]
        used = {piece for name in kept for entry in self.read(name).entries for piece in entry.pieces}
        count = size = 0
        for path in self._files():
            name = path.name.split(".")[0]
            place = path.parent.name
            needed = not path.name.startswith(".") and name in (kept if place == "manifests" else used)
            status = path.stat()
            if needed or time.time() - status.st_mtime < LEFTOVER_SECONDS:
                continue
            count, size = count + 1, size + status.st_size
            if not dry_run:
                path.unlink(missing_ok=True)
        return count, size

    def _files(self) -> Iterator[Path]:
        yield from (path for path in sorted(self.folder.glob("manifests/*")) if path.is_file())
        yield from (path for path in sorted(self.folder.glob("objects/*/*")) if path.is_file())

    def _manifest(self, name: str) -> Path:
        return self.folder / "manifests" / f"{name}.json.zst"

    def _object(self, name: str) -> Path:
        return self.folder / "objects" / name[:2] / f"{name}.zst"


def _survey(workspace: Path, limits: Limits) -> tuple[list[tuple[Path, os.stat_result]], list[str]]:
    """Everything to store, in order of paths, and what cannot be."""
    found: list[tuple[Path, os.stat_result]] = []
    left_out: list[str] = []
    count = size = 0
    waiting = [workspace]
    while waiting:
        folder = waiting.pop()
        try:
            inside = sorted(os.scandir(folder), key=lambda item: item.name)
        except OSError as error:
            if folder == workspace:
                raise HpcError(f"cannot read {workspace}: {error.strerror}", "mend its permissions") from error
            left_out.append(folder.relative_to(workspace).as_posix())
            continue
        for item in inside:
            path = Path(item.path)
            name = path.relative_to(workspace).as_posix()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in limits.exclude):
                continue
            status = item.stat(follow_symlinks=False)
            is_link, is_folder = stat.S_ISLNK(status.st_mode), stat.S_ISDIR(status.st_mode)
            if not (is_link or is_folder or stat.S_ISREG(status.st_mode)) or not _is_text(name):
                left_out.append(name.encode(errors="replace").decode(errors="replace"))
                continue
            found.append((path, status))
            if is_folder:
                waiting.append(path)
            elif not is_link:
                count, size = count + 1, size + status.st_size
        if count > limits.max_files or size > limits.max_bytes:
            raise SnapshotError(
                f"the workspace has {count:,} files of {size:,} bytes or more, a snapshot may have "
                f"{limits.max_files:,} of {limits.max_bytes:,}",
                "raise gym.snapshots.max_bytes or max_files, or name what need not be kept in gym.snapshots.exclude",
            )
    return sorted(found, key=lambda item: item[0].relative_to(workspace).parts), left_out


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _remove(folder: Path) -> None:
    """Remove what is left of a restore that failed."""
    if not folder.exists():
        return
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    folder.rmdir()
