"""Looking at and editing files of the workspace, and of nothing else.

Paths are relative to the workspace or begin with ``/workspace``, as in ResearchGym; the workspace's
real path works too, because shells print it. A path that leads outside, by ``..`` or a symbolic
link, is refused. Every refusal is an ActionError whose message the agent reads.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from hpc.core import files
from hpc.core.errors import ActionError, HpcError
from hpc.gym import render

VIRTUAL_ROOT = PurePosixPath("/workspace")
WINDOW = 100
"""Lines that `Files.show` shows by default."""

_LISTED = 1000
_FOUND = 100
_SHOWN_LINE = 2000


class Files:
    """The file actions of one workspace; each returns the observation text.

    Args:
        max_bytes: larger files are refused.
        shown_characters: what is shown of a file ends about there.
    """

    def __init__(self, workspace: Path, *, max_bytes: int, shown_characters: int) -> None:
        self._root = workspace.resolve()
        self._max_bytes = max_bytes
        self._shown_characters = shown_characters

    def listing(self, path: str, *, show_hidden: bool = False) -> str:
        """The entries of a folder."""
        folder = self._locate(path)
        if not folder.is_dir():
            raise ActionError(f"{path} is not a folder" if folder.exists() else f"no such folder: {path}")
        try:
            entries = [entry for entry in folder.iterdir() if show_hidden or not entry.name.startswith(".")]
            names = [render.plain_line(_shown(entry.name)) + ("/" if entry.is_dir() else "") for entry in entries]
        except OSError as error:
            raise ActionError(f"cannot list {path}: {error.strerror}") from error
        if len(names) > _LISTED:
            raise ActionError(f"{path} has {len(names)} entries, more than {_LISTED}: use a session to look at it")
        return render.file_listing(names)

    def show(self, path: str, line_number: int = 1, context_lines: int | None = None) -> str:
        """Numbered lines of a text file around ``line_number``."""
        lines = self._lines(path)
        total = len(lines)
        if line_number > max(total, 1):
            raise ActionError(f"{path} has {total} lines, there is no line {line_number}")
        window = context_lines or WINDOW
        last = min(max(line_number - window // 2, 1) + window - 1, total)
        first = max(last - window + 1, 1)
        shown = [_shown(line) for line in lines[first - 1 : last]]
        room = self._shown_characters
        for count, line in enumerate(shown):
            room -= len(line) + 1
            if room < 0:
                shown = shown[: max(count, 1)]
                break
        return render.file_opened(path, shown, first, total)

    def search(self, path: str, term: str) -> str:
        """The lines that hold ``term``, the first hundred of them."""
        lines = self._lines(path)
        matches = [(number, _shown(line)) for number, line in enumerate(lines, start=1) if term in line]
        return render.file_searched(path, matches[:_FOUND])

    def edit(self, path: str, start: int, end: int, content: str) -> str:
        """Replace lines ``start`` to ``end`` inclusive; end -1 is the last line, start -1 appends.

        A file that does not exist is an empty one, and is made.
        """
        target = self._locate(path)
        lines = self._lines(path) if target.exists() else []
        total = len(lines)
        if start == -1:
            start = end = total + 1
        if start == 0 or start > total + 1:
            raise ActionError(f"{path} has {total} lines, start is {start}: it must be from 1 to {total + 1}, or -1")
        if end == -1:
            end = max(total, start)
        if end < start or end > max(total, start):
            raise ActionError(f"{path} has {total} lines, end is {end}: it must be from {start} to {total}, or -1")
        new = content.removesuffix("\n").split("\n") if content else []
        lines[start - 1 : end] = new
        self._write(target, path, lines)
        return render.file_edited(path, start, start + len(new) - 1, len(lines))

    def create(self, path: str, content: str) -> str:
        """Write a whole file, whatever was there."""
        target = self._locate(path)
        lines = content.removesuffix("\n").split("\n") if content else []
        self._write(target, path, lines)
        return render.file_created(path, len(lines))

    def _locate(self, path: str) -> Path:
        if "\0" in path:
            raise ActionError("a path cannot hold a NUL character")
        pure = PurePosixPath(path)
        if pure.is_relative_to(VIRTUAL_ROOT):
            pure = pure.relative_to(VIRTUAL_ROOT)
        try:
            resolved = (self._root / pure).resolve()
            resolved.exists()
        except (OSError, RuntimeError, UnicodeEncodeError) as error:  # too long, a loop of links, no text
            raise ActionError(f"{path[:200]!r} is not a usable path") from error
        if not resolved.is_relative_to(self._root):
            raise ActionError(f"{path} is outside the workspace")
        return resolved

    def _lines(self, path: str) -> list[str]:
        """The lines without their newlines. Bytes that are not UTF-8 come as surrogates, so that
        writing the lines back does not change them."""
        target = self._locate(path)
        try:
            # a FIFO would block and a device never end: look before opening, and do not wait
            if not stat.S_ISREG(target.stat().st_mode):
                raise ActionError(f"{path} is not a file")
            with os.fdopen(os.open(target, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                data = file.read(self._max_bytes + 1)
        except FileNotFoundError:
            raise ActionError(f"no such file: {path}") from None
        except OSError as error:
            raise ActionError(f"cannot read {path}: {error.strerror}") from error
        if len(data) > self._max_bytes:
            raise ActionError(f"{path} has more than {self._max_bytes} bytes: use a session to look at parts of it")
        if b"\0" in data:
            raise ActionError(f"{path} is a binary file")
        return data.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n") if data else []

    def _write(self, target: Path, path: str, lines: list[str]) -> None:
        if target.exists() and not target.is_file():
            raise ActionError(f"{path} is not a file")
        try:
            data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise ActionError("the content is not valid Unicode") from error
        if len(data) > self._max_bytes:
            raise ActionError(f"{path} would have {len(data)} bytes, at most {self._max_bytes} are allowed")
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o644
        try:
            files.write_bytes(target, data, mode=mode)
        except (HpcError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.message
            raise ActionError(f"cannot write {path}: {reason}") from error


def _shown(text: str) -> str:
    """Text for the agent: bytes that are not UTF-8 as U+FFFD, overlong lines cut."""
    readable = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").removesuffix("\r")
    return readable if len(readable) <= _SHOWN_LINE else f"{readable[:_SHOWN_LINE]}…"
