"""A full disk: a clear error, nothing half-written, and the episode goes on when there is space."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trajectories.samples import run_dir

ROOT = Path(__file__).resolve().parents[2]
SMALL = 64 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB, mostly taken by ballast."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(disk)], capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if made.returncode:
        pytest.skip("may not mount a small file system here")
    try:
        (disk / "ballast").write_bytes(b"x" * (SMALL - (900 << 10)))
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def write_until_full(root: Path, limit: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("full_disk_process.py")), str(root), str(limit)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    saw: dict[str, Any] = json.loads(done.stdout)
    return saw


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    saw = write_until_full(run_dir(tmp_path).root, 300_000)
    assert "cannot append" in saw["error"]
    assert "free space" in saw["error"]
    assert 0 < saw["acknowledged"] == saw["readable"]
    assert "free space" in saw["seal_error"]
    assert saw["readable_unsealed"][0] is False
    assert saw["whole"] is True
    assert saw["files"] == ["00000.h5"]


def test_a_disk_that_is_full(small_disk: Path) -> None:
    saw = write_until_full(run_dir(small_disk).root, 0)
    assert "No space left" in saw["error"]
    assert 0 < saw["acknowledged"] == saw["readable"]
    assert saw["whole"] is True
    assert saw["files"] == ["00000.h5"]
