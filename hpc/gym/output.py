"""What a terminal printed: bytes in, the newest lines out. Pure."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable
from itertools import islice

MAX_LINE = 4000
"""Characters kept of one line; a program may print gigabytes without a newline."""


class OutputBuffer:
    """Keeps the last ``limit`` lines, each with the time of its end (Unix seconds).

    Lines are kept as printed, escape sequences included, without their newline; of a line that is
    overwritten with carriage returns only the last state is kept.
    """

    def __init__(self, limit: int) -> None:
        self._lines: deque[tuple[float, str]] = deque(maxlen=limit)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._open = ""  # the line that has no newline yet
        self._total = 0  # lines ever ended
        self._mark = 0  # value of _total when the latest command began
        self.produced = 0
        """Bytes ever printed; grows whenever there is something new to see."""

    def feed(self, data: bytes, at: float) -> None:
        """Take in what was printed at the time ``at``."""
        self.produced += len(data)
        *ended, self._open = (self._open + self._decoder.decode(data)).split("\n")
        self._end_lines(ended, at)
        if "\r" in self._open[:-1]:
            self._open = self._open[self._open.rindex("\r", 0, len(self._open) - 1) + 1 :]
        self._open = self._open[:MAX_LINE]

    def end_line(self, at: float) -> None:
        """Close a line that was left open, so that the next command begins on its own line."""
        rest = self._open + self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._open = ""
        if rest:
            self._end_lines([rest], at)

    def mark(self) -> None:
        """A command begins: `latest` shows what is printed from here on."""
        self._mark = self._total

    def latest(self, start_lines: int | None = None, end_lines: int | None = None) -> str:
        """Output since the mark: from the ``start_lines``-th line from the end up to, and without,
        the last ``end_lines`` lines; by default all of it that is kept."""
        available = min(self._total - self._mark, len(self._lines))
        lines = [text for _, text in islice(self._lines, len(self._lines) - available, None)]
        if self._open:
            lines.append(self._open)
        while lines and not lines[-1].strip():
            lines.pop()
        first = 0 if start_lines is None else max(len(lines) - start_lines, 0)
        last = len(lines) - (end_lines or 0)
        return "\n".join(lines[first : max(last, 0)])

    def since(self, timestamp: float) -> str:
        """Everything kept that was printed after ``timestamp``, whichever command printed it."""
        lines = [text for at, text in self._lines if at > timestamp]
        return "\n".join([*lines, self._open] if self._open else lines)

    def _end_lines(self, lines: Iterable[str], at: float) -> None:
        for line in lines:
            self._lines.append((at, line.rstrip("\r").rpartition("\r")[2][:MAX_LINE]))
            self._total += 1
