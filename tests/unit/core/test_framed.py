from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.core.errors import HpcError
from hpc.core.framed import FramedLog, read_frames, scan


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    with FramedLog(tmp_path / "a" / "log") as log:
        log.append(b"one", b"two")
        log.append(b"x" * 100_000)
    assert read_frames(tmp_path / "a" / "log") == [b"one", b"two", b"x" * 100_000]
    with FramedLog(tmp_path / "a" / "log") as again:
        assert again.frames[0] == b"one"
        again.append(b"last")
    assert read_frames(tmp_path / "a" / "log")[-1] == b"last"


def test_an_absent_log_is_empty(tmp_path: Path) -> None:
    assert read_frames(tmp_path / "none") == []


@given(
    payloads=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6),
    cut=st.integers(min_value=0, max_value=400),
)
def test_a_torn_tail_never_costs_a_whole_frame(
    payloads: list[bytes], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    with FramedLog(path, durable=False) as log:
        log.append(*payloads)
    data = path.read_bytes()
    torn = data[: min(cut, len(data))]
    path.write_bytes(torn)
    whole = [payload for _, payload in scan(torn)]
    assert payloads[: len(whole)] == whole
    with FramedLog(path, durable=False) as log:  # opening for writing cuts the tail off
        assert log.frames == whole
        log.append(b"after")
    assert read_frames(path) == [*whole, b"after"]


@given(position=st.integers(min_value=0), bit=st.integers(min_value=0, max_value=7))
def test_a_flipped_bit_is_never_returned_as_right(
    position: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    payloads = [b"alpha", b"beta", b"gamma"]
    with FramedLog(path, durable=False) as log:
        log.append(*payloads)
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << bit
    read = [payload for _, payload in scan(bytes(data))]
    assert read == payloads[: len(read)] and len(read) < 3


def test_a_zeroed_tail_is_no_frame(tmp_path: Path) -> None:
    with FramedLog(tmp_path / "log") as log:
        log.append(b"kept")
        with pytest.raises(ValueError, match="empty payload"):
            log.append(b"x", b"")
    with (tmp_path / "log").open("ab") as file:
        file.write(bytes(4096))  # what a file system may leave after a power loss
    assert read_frames(tmp_path / "log") == [b"kept"]


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with FramedLog(tmp_path / "log"), pytest.raises(HpcError, match="another process"):
        FramedLog(tmp_path / "log")


def test_a_failed_append_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    program = f"""
import resource, signal
from pathlib import Path
from hpc.core.errors import HpcError
from hpc.core.framed import FramedLog
log = FramedLog(Path({str(tmp_path / "log")!r}))
log.append(b"kept")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    log.append(b"x" * 5000)
except HpcError as error:
    print(error.hint)
log.append(b"small")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "free space" in done.stdout
    assert read_frames(tmp_path / "log") == [b"kept", b"small"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000  # only the child was limited


def test_acknowledged_frames_survive_kill_9(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from hpc.core.framed import FramedLog
log = FramedLog(Path({str(tmp_path / "log")!r}))
number = 0
while True:
    log.append(str(number).encode())
    print(number, flush=True)
    number += 1
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(50)][-1]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    frames = [int(frame) for frame in read_frames(tmp_path / "log")]
    assert frames == list(range(len(frames))) and len(frames) > acknowledged
