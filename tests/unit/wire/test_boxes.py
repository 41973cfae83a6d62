from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from hpc.core.errors import HpcError
from hpc.wire.boxes import GARBAGE, Inbox, Outbox
from hpc.wire.codec import decode
from hpc.wire.messages import Alert, Guidance


def alert(number: int, reason: str = "r") -> Alert:
    return Alert(
        id=f"e-a{number}", sent_at=1.0, episode="e", epoch=1, detector="d", score=0.5, step=number, reason=reason
    )


def guidance(number: int, text: str = "t") -> Guidance:
    return Guidance(id=f"g{number}", sent_at=1.0, episode="e", alert=None, annotator="ada", text=text)


@contextmanager
def full_disk(path: Path, spare: int) -> Iterator[None]:
    """No file of this process may grow beyond the size of ``path`` plus ``spare`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + spare, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_what_is_not_settled_comes_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "outbox.frames"
    with closing(Outbox(path)) as box:
        for number in range(4):
            box.add(alert(number))
        assert box.settle("e-a1")
        assert not box.settle("e-a1")
    with closing(Outbox(path)) as box:
        assert list(box.pending) == ["e-a0", "e-a2", "e-a3"]
        assert decode(box.pending["e-a2"]) == alert(2)
        assert "e-a1" in box


def test_a_message_is_taken_once_even_after_it_was_settled(tmp_path: Path) -> None:
    path = tmp_path / "outbox.frames"
    with closing(Outbox(path)) as box:
        box.add(alert(1, "first"))
        box.add(alert(1, "second"))
        assert decode(box.pending["e-a1"]) == alert(1, "first")
        box.settle("e-a1")
    with closing(Outbox(path)) as box:
        box.add(alert(1))
        assert len(box) == 0


def test_guidance_is_received_once_with_the_time_of_the_first_time(tmp_path: Path) -> None:
    path = tmp_path / "inbox.frames"
    with closing(Inbox(path)) as box:
        assert box.add(guidance(1), 5.0)
        assert box.add(guidance(2), 6.0)
        assert not box.add(guidance(1), 7.0)
    with closing(Inbox(path)) as box:
        assert box.received == [(guidance(1), 5.0), (guidance(2), 6.0)]
        assert not box.add(guidance(2), 8.0)


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_a_write_cut_short_by_a_crash_is_as_if_it_never_was(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "inbox.frames"
    with closing(Inbox(path)) as box:
        box.add(guidance(1), 5.0)
        box.add(guidance(2), 6.0)
    os.truncate(path, path.stat().st_size - cut)
    with closing(Inbox(path)) as box:
        assert [got.id for got, _ in box.received] == ["g1"]
        assert box.add(guidance(2), 7.0)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        closing(Outbox(tmp_path / "outbox.frames")),
        pytest.raises(HpcError, match="being written by another process"),
    ):
        Outbox(tmp_path / "outbox.frames")


def test_a_full_disk_is_an_error_and_takes_nothing(tmp_path: Path) -> None:
    out, inn = tmp_path / "outbox.frames", tmp_path / "inbox.frames"
    with closing(Outbox(out)) as outbox, closing(Inbox(inn)) as inbox:
        outbox.add(alert(1))
        inbox.add(guidance(1), 1.0)
        with full_disk(out, 40):
            with pytest.raises(HpcError, match="cannot append"):
                outbox.add(alert(2, "x" * 1000))
            with pytest.raises(HpcError, match="cannot append"):
                inbox.add(guidance(2, "x" * 1000), 2.0)
        assert list(outbox.pending) == ["e-a1"]
        assert len(inbox.received) == 1
        outbox.add(alert(2))
        assert inbox.add(guidance(2), 3.0)
    with closing(Outbox(out)) as outbox:
        assert list(outbox.pending) == ["e-a1", "e-a2"]


def test_files_stay_as_small_as_what_is_under_way(tmp_path: Path) -> None:
    out, inn = tmp_path / "outbox.frames", tmp_path / "inbox.frames"
    with closing(Outbox(out)) as outbox:
        for number in range(200):
            outbox.add(alert(number, "r" * 10_000))
            outbox.settle(f"e-a{number - 2}")
        assert out.stat().st_size < 3 * GARBAGE
        assert list(outbox.pending) == ["e-a198", "e-a199"]
    with closing(Outbox(out)) as outbox:
        assert list(outbox.pending) == ["e-a198", "e-a199"]
        outbox.add(alert(0))
        assert len(outbox) == 2, "what was settled long ago is still known"
    with closing(Inbox(inn)) as inbox:
        for number in range(40):
            inbox.add(guidance(number, "t" * 20_000), float(number))
        done = {f"g{number}" for number in range(39)}
        inbox.forget_texts(done)
        assert inn.stat().st_size < GARBAGE
        assert inbox.add(guidance(40), 9.0)
    with closing(Inbox(inn)) as inbox:
        assert [got.id for got, _ in inbox.received] == [f"g{number}" for number in range(41)]
        assert [got.text for got, _ in inbox.received][38:] == ["", "t" * 20_000, "t"]
        assert not inbox.add(guidance(3), 9.0)


def test_a_file_that_cannot_be_written_anew_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "outbox.frames"
    with closing(Outbox(path)) as outbox:
        for number in range(3):
            outbox.add(alert(number, "r" * 100_000))
        outbox.add(alert(3, "r" * 200_000))
        (tmp_path / ".outbox.frames.rewrite").mkdir()  # as good as a full disk: the draft cannot be made
        for number in range(3):
            assert outbox.settle(f"e-a{number}")
        assert list(outbox.pending) == ["e-a3"]
        outbox.add(alert(4))
    with closing(Outbox(path)) as outbox:
        assert list(outbox.pending) == ["e-a3", "e-a4"]


def test_a_kill_while_a_file_is_written_anew_leaves_one_of_the_two(tmp_path: Path) -> None:
    """Each try kills a process that does nothing else; afterwards nothing is missing or back."""
    context = multiprocessing.get_context("fork")
    path = tmp_path / "outbox.frames"

    def work(first: int) -> None:
        with closing(Outbox(path)) as box:
            for number in range(first, first + 1_000_000):
                box.add(alert(number, "r" * 60_000))
                box.settle(f"e-a{number - 1}")

    newest = 0
    for attempt in range(6):
        child = context.Process(target=work, args=(newest,))
        child.start()
        deadline = time.monotonic() + 30
        size = 0
        while time.monotonic() < deadline:
            before, size = size, path.stat().st_size if path.exists() else 0
            if size < before:  # it has just been written anew
                break
        time.sleep(0.002 * attempt)
        child.kill()
        child.join()
        with closing(Outbox(path)) as box:
            assert 1 <= len(box) <= 2
            newest = max(int(name.removeprefix("e-a")) for name in box.pending)
            assert all(f"e-a{number}" in box for number in range(newest))
