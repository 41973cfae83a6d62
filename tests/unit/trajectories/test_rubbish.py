"""Bytes that are not as they were written: only TrajectoryError, and never a wrong record."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import h5py
import msgspec
import numpy as np
import pytest

from hpc.core.errors import TrajectoryError, TrajectoryIncomplete, TrajectoryLayoutError
from hpc.core.framed import FramedLog
from hpc.trajectories import codec, sealed
from hpc.trajectories.check import check
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import FORMAT_VERSION, Record
from hpc.trajectories.trailer import with_trailer
from tests.unit.trajectories.samples import episode, header

RECORDS = episode(12)


@pytest.fixture(scope="module")
def image() -> bytes:
    return sealed.build(RECORDS)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("log") / "log.frames"
    with FramedLog(path, durable=False) as log:
        log.append(*map(codec.encode, RECORDS))
    return path.read_bytes()


def read(path: Path) -> list[Record] | None:
    """Everything in the file, by every way of reading; None if it says that it is not whole."""
    report = check(path)
    try:
        with Trajectory.open(path) as trajectory:
            trajectory.summary()
            records = list(trajectory.records())
            for step in range(1, len(trajectory.steps) + 1):
                trajectory.prompt_token_ids(step)
            return records
    except TrajectoryError as error:
        assert str(path) in error.message
        assert error.hint
        assert report.state != "whole"
        return None


def bit_flips(data: bytes, count: int) -> Iterator[bytes]:
    rng = random.Random(count)
    for _ in range(count):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield bytes(changed)


def test_a_flipped_bit_in_a_sealed_file_is_never_a_wrong_record(image: bytes, tmp_path: Path) -> None:
    path, refused = tmp_path / "t.h5", 0
    for changed in bit_flips(image, 150):
        path.write_bytes(changed)
        records = read(path)
        assert records in (None, RECORDS)  # some bytes of a file mean nothing
        refused += records is None
    assert refused > 75


def test_a_flipped_bit_in_a_log_is_never_a_wrong_record(logged: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.frames"
    for changed in bit_flips(logged, 300):
        path.write_bytes(changed)
        records = read(path)
        assert records is None or records == RECORDS[: len(records)]
        if records is not None:  # only the very end may look like a write that was cut short
            assert len(records) >= len(RECORDS) - 1


def test_a_truncated_sealed_file_is_refused(image: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    for size in range(8, len(image), len(image) // 60):
        path.write_bytes(image[:size])
        assert read(path) is None


def test_a_truncated_log_is_its_beginning(logged: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.frames"
    for size in range(0, len(logged), len(logged) // 100):
        path.write_bytes(logged[:size])
        try:
            with Trajectory.open(path) as trajectory:
                records = list(trajectory.records())
        except TrajectoryIncomplete:
            records = []
        assert records == RECORDS[: len(records)]
        assert check(path).state != "damaged"


def test_holes_in_a_sealed_file_are_found(image: bytes, tmp_path: Path) -> None:
    path, rng = tmp_path / "t.h5", random.Random(1)
    for fill in (b"\0", b"\xff"):
        for _ in range(30):
            start = rng.randrange(600, len(image) - 300)
            path.write_bytes(image[:start] + fill * 256 + image[start + 256 :])
            assert read(path) in (None, RECORDS)


def test_rubbish_is_not_a_trajectory(tmp_path: Path) -> None:
    path, rng = tmp_path / "x", random.Random(2)
    rubbish = [rng.randbytes(rng.randrange(20, 3000)) for _ in range(60)]
    for data in [
        *rubbish,
        b"\0" * 4096,
        b'{"not": "a trajectory"}',
        b"\x89HDF\r\n\x1a\n",
        b"\x89HDF\r\n\x1a\n" + rng.randbytes(4000),
    ]:
        path.write_bytes(data)
        with pytest.raises(TrajectoryError):
            Trajectory.open(path)
        assert check(path).state == "unreadable"


@pytest.mark.parametrize(("data", "words"), [(b"", "is empty"), (b"\x89HDF\r\n", "is too short to be a trajectory")])
def test_a_cut_off_sealed_file_is_not_taken_for_a_young_log(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    path.write_bytes(data)
    with pytest.raises(TrajectoryLayoutError, match=words):
        Trajectory.open(path)
    report = check(path)
    assert report.state == "unreadable"
    assert words in report.findings[0].detail


def test_other_hdf5_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["steps"] = np.zeros(3)
    with pytest.raises(TrajectoryLayoutError, match="not a trajectory"):
        Trajectory.open(path)


def test_other_framed_logs_are_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "inbox.frames"
    with FramedLog(path) as log:
        log.append(b"\x81\xa1a\x01", b"more")
    with pytest.raises(TrajectoryLayoutError, match="not a trajectory"):
        Trajectory.open(path)


def test_a_newer_format_asks_for_an_upgrade(image: bytes, tmp_path: Path) -> None:
    newer = msgspec.structs.replace(header(), format_version=FORMAT_VERSION + 1)
    path = tmp_path / "log.frames"
    with FramedLog(path) as log:
        log.append(codec.encode(newer))
    with pytest.raises(TrajectoryLayoutError, match=f"format version {FORMAT_VERSION + 1}") as caught:
        Trajectory.open(path)
    assert "upgrade" in caught.value.hint
    path.write_bytes(image)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = FORMAT_VERSION + 1
    path.write_bytes(with_trailer(path.read_bytes()))
    with pytest.raises(TrajectoryLayoutError, match=f"format version {FORMAT_VERSION + 1}"):
        Trajectory.open(path)


def test_absent_and_unreadable_files_say_so(tmp_path: Path) -> None:
    with pytest.raises(TrajectoryIncomplete, match="no trajectory at"):
        Trajectory.open(tmp_path / "nothing.h5")
    with pytest.raises(TrajectoryIncomplete, match="cannot read"):
        Trajectory.open(tmp_path)


def test_zeros_at_the_end_of_a_log_are_not_records(logged: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.frames"
    path.write_bytes(logged + b"\0" * 1000)
    with Trajectory.open(path) as trajectory:
        assert list(trajectory.records()) == RECORDS


def test_a_live_view_is_not_taken_for_a_trajectory(tmp_path: Path) -> None:
    from hpc.trajectories.live import LiveView

    view = LiveView(tmp_path / "live-1.h5", RECORDS[:5])
    view.close()
    with pytest.raises(TrajectoryLayoutError, match="RUN/INDEX"):
        Trajectory.open(view.path)
    assert check(view.path).state == "unreadable"
