from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from hpc.core import files, ids
from hpc.core.errors import ConfigError, HpcError, UsageError
from hpc.rundir import RunDir


def test_a_secret_is_never_wider_than_its_mode(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        files.write_text(tmp_path / "deep" / "secret", "s", mode=0o600)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "deep" / "secret").stat().st_mode) == 0o600


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    files.write_json(path, {"n": 1})

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HpcError, match=r"cannot write .*state.json: No space left on device"):
        files.write_json(path, {"n": 2})
    assert files.read_json(path) == {"n": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_rubbish_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(HpcError, match=r"x.json is not JSON"):
        files.read_json(tmp_path / "x.json")
    with pytest.raises(HpcError, match="no such file"):
        files.read_json(tmp_path / "y.json")


def test_ids_sort_by_time_and_differ() -> None:
    made = [ids.new_id("al") for _ in range(1000)]
    assert len(set(made)) == 1000
    assert [name[:12] for name in made] == sorted(name[:12] for name in made)


def test_a_run_directory_is_never_reused_for_another_configuration(tmp_path: Path) -> None:
    first = RunDir.create(tmp_path / "r", manifest={"a": 1}, config={"x": 1, "names": ("a",)}, config_hash="h1")
    assert RunDir.create(tmp_path / "r", manifest={"a": 2}, config={"x": 1}, config_hash="h1").read_manifest()["a"] == 1
    with pytest.raises(ConfigError, match=r"another configuration \(x differ\)"):
        RunDir.create(tmp_path / "r", manifest={}, config={"x": 2, "names": ("a",)}, config_hash="h2")
    assert RunDir.open(first.root).read_config() == {"x": 1, "names": ["a"]}
    with pytest.raises(UsageError, match="no run directory"):
        RunDir.open(tmp_path / "other")
