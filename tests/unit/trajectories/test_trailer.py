"""The checksums behind a sealed file: others do not see them, and HDF5 sees nothing that they deny."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from msgspec.structs import replace

from hpc.core.errors import TrajectoryIncomplete
from hpc.trajectories import sealed
from hpc.trajectories.check import check
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import ActionTaken, Record
from hpc.trajectories.repair import repair_file
from hpc.trajectories.trailer import BLOCK_BYTES, Extent, Image, extent_of, with_trailer
from tests.unit.trajectories.samples import episode


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """200 steps, of which some blocks are left when they are compressed."""
    rng = random.Random(1)
    return [
        replace(record, text=rng.randbytes(1_500).hex()) if isinstance(record, ActionTaken) else record
        for record in episode(200)
    ]


@pytest.fixture(scope="module")
def image(records: list[Record]) -> bytes:
    return sealed.build(records)


def test_hdf5_reads_a_file_with_checksums_as_if_they_were_not_there(
    image: bytes, records: list[Record], tmp_path: Path
) -> None:
    import hdf5plugin  # noqa: F401  lets h5py read zstd

    path = tmp_path / "t.h5"
    path.write_bytes(image)
    extent = extent_of(path)
    assert extent.sums is not None
    assert extent.length < len(image)
    bare = tmp_path / "bare.h5"
    bare.write_bytes(image[: extent.length])
    with h5py.File(path, "r") as file, h5py.File(bare, "r") as other:
        assert file.attrs["records"] == len(records)
        assert len(file["steps"]) == 200
        assert set(file) == set(other)
        for name in file:
            assert file[name][:].tobytes() == other[name][:].tobytes()
    dump = shutil.which("h5dump")
    if dump:  # HDF5's own tool, where it is installed
        said = subprocess.run([dump, "-H", str(path)], capture_output=True, text=True, check=True).stdout
        assert 'DATASET "steps"' in said


def test_a_file_without_checksums_opens_and_check_says_what_that_means(
    image: bytes, records: list[Record], tmp_path: Path
) -> None:
    path = tmp_path / "t.h5"
    path.write_bytes(image)
    path.write_bytes(image[: extent_of(path).length])
    assert extent_of(path).sums is None
    with Trajectory.open(path) as trajectory:
        assert list(trajectory.records()) == records
    report = check(path)
    assert report.state == "whole"
    assert "no checksums" in report.notes[0]
    before = path.read_bytes()
    assert repair_file(path).state == "whole"
    assert path.read_bytes() == before


def test_a_damaged_block_is_refused_when_it_is_touched_and_found_by_check(
    image: bytes, records: list[Record], tmp_path: Path
) -> None:
    path = tmp_path / "t.h5"
    path.write_bytes(image)
    blocks = extent_of(path).length // BLOCK_BYTES
    assert blocks >= 3
    refused = 0
    for number in range(blocks):
        changed = bytearray(image)
        changed[number * BLOCK_BYTES + 999] ^= 1
        path.write_bytes(changed)
        assert check(path).state != "whole"
        try:
            with Trajectory.open(path) as trajectory:
                for step in range(1, 201, 50):
                    assert trajectory.step(step).action == records_of_step(records, step)
                list(trajectory.records())
        except TrajectoryIncomplete as error:
            assert "damaged" in error.message
            refused += 1
    assert refused > 0


def records_of_step(records: list[Record], step: int) -> Record:
    return next(record for record in records if getattr(record, "step", None) == step)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-1], "its checksums are missing or changed"),
        (lambda data: data + b"\0", "its checksums are missing or changed"),
        (lambda data: data[: len(data) // 2], "bytes are missing"),
        (lambda data: data[:1000] + data[1001:], "bytes were added or are missing"),
        (lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:], "its checksums were changed"),
    ],
)
def test_a_file_of_another_length_or_with_other_checksums_is_refused(
    image: bytes, tmp_path: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    path = tmp_path / "t.h5"
    path.write_bytes(change(image))
    with pytest.raises(TrajectoryIncomplete, match=words):
        Trajectory.open(path)


def test_an_image_is_read_like_a_file_and_only_where_it_matches(tmp_path: Path) -> None:
    data = bytes(range(256)) * (BLOCK_BYTES // 64) + b"the end"
    path = tmp_path / "data"
    path.write_bytes(with_trailer(data))
    with path.open("rb") as file:  # not HDF5: the trailer alone tells its extent
        assert file.read(3) == data[:3]
    with Image(path, extent_of(path)) as image:
        image.verify()
        assert io.BufferedReader(image).read() == data
    changed = bytearray(path.read_bytes())
    changed[BLOCK_BYTES + 5] ^= 8
    path.write_bytes(changed)
    with Image(path, extent_of(path)) as image:
        assert image.read(BLOCK_BYTES) == data[:BLOCK_BYTES]
        with pytest.raises(OSError, match=f"bytes {BLOCK_BYTES} to {2 * BLOCK_BYTES - 1}"):
            image.read(1)
    with Image(path, Extent(len(changed) + 100, None)) as image:  # unverified, and longer than there is
        assert image.read() == bytes(changed) + b"\0" * 100
