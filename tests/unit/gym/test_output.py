"""The output buffer: bytes in, the newest lines out."""

from __future__ import annotations

import random

from hpc.gym.output import MAX_LINE, OutputBuffer
from hpc.gym.render import plain_lines


def test_lines_arrive_however_the_bytes_are_cut() -> None:
    data = "één\r\ntwo ✓\r\nthree".encode()
    rng = random.Random(7)
    for _ in range(50):
        buffer = OutputBuffer(10)
        rest = data
        while rest:
            size = rng.randint(1, 4)
            buffer.feed(rest[:size], 1.0)
            rest = rest[size:]

        assert plain_lines(buffer.latest()) == ["één", "two ✓", "three"]


def test_old_lines_are_dropped() -> None:
    buffer = OutputBuffer(3)
    buffer.feed(b"".join(b"%d\n" % n for n in range(10)), 1.0)

    assert buffer.latest() == "7\n8\n9"


def test_latest_begins_at_the_mark() -> None:
    buffer = OutputBuffer(100)
    buffer.feed(b"before, unfinished", 1.0)
    buffer.end_line(1.0)
    buffer.mark()
    assert buffer.latest() == ""
    buffer.feed(b"a\nb\nc\nd", 2.0)

    assert buffer.latest() == "a\nb\nc\nd"
    assert buffer.latest(2) == "c\nd"
    assert buffer.latest(3, 1) == "b\nc"
    assert buffer.latest(3, 9) == ""


def test_a_mark_that_was_dropped_leaves_what_is_kept() -> None:
    buffer = OutputBuffer(2)
    buffer.mark()
    buffer.feed(b"1\n2\n3\n4\n", 1.0)

    assert buffer.latest() == "3\n4"


def test_since_reaches_across_commands() -> None:
    buffer = OutputBuffer(100)
    buffer.feed(b"first\n", 1.0)
    buffer.mark()
    buffer.feed(b"second\n", 2.0)
    buffer.feed(b"> ", 3.0)

    assert buffer.since(0.0) == "first\nsecond\n> "
    assert buffer.since(1.0) == "second\n> "


def test_a_line_without_end_is_cut() -> None:
    buffer = OutputBuffer(10)
    for _ in range(100):
        buffer.feed(b"x" * 1000, 1.0)
    buffer.feed(b"\nnext\n", 1.0)

    first, second = buffer.latest().split("\n")
    assert len(first) <= MAX_LINE
    assert second == "next"


def test_a_progress_bar_shows_its_last_state() -> None:
    buffer = OutputBuffer(10)
    for percent in range(101):
        buffer.feed(b"\r%d%%" % percent + b" " * 100, 1.0)
    assert buffer.latest().strip() == "100%"
    buffer.feed(b"\r\ndone\r\n", 1.0)

    assert plain_lines(buffer.latest()) == ["100%", "done"]


def test_rubbish_is_survived() -> None:
    buffer = OutputBuffer(10)
    data = random.Random(1).randbytes(100_000)
    buffer.feed(data, 1.0)
    buffer.end_line(1.0)
    buffer.mark()
    buffer.feed("fine ✓\n".encode(), 2.0)

    assert buffer.latest() == "fine ✓"
    assert buffer.produced == len(data) + len("fine ✓\n".encode())
