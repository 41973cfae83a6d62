from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path

import pytest
import zstandard

from hpc.core.errors import SnapshotError
from hpc.trajectories import snapshots
from hpc.trajectories.snapshots import Limits, SnapshotStore

LIMITS = Limits()


def workspace(root: Path) -> Path:
    folder = root / "workspace"
    (folder / "src" / "empty").mkdir(parents=True)
    (folder / "src" / "train.py").write_text("print('gold ✨')\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o750)
    (folder / "big.bin").write_bytes(os.urandom(1000) * 9000)  # two pieces and a bit
    (folder / "nothing").touch()
    (folder / "latest").symlink_to("src/train.py")
    (folder / "away").symlink_to("/etc")
    return folder


def tree(folder: Path) -> dict[str, tuple[str, int, bytes]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode & 0o777
        if path.is_symlink():
            found[name] = ("link", 0, str(path.readlink()).encode())
        else:
            found[name] = ("folder", mode, b"") if path.is_dir() else ("file", mode, path.read_bytes())
    return found


def age(folder: Path) -> None:
    """Make everything in the store old enough to be pruned."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 7200,) * 2)


def test_a_workspace_comes_back_as_it_was(tmp_path: Path) -> None:
    folder, store = workspace(tmp_path), SnapshotStore(tmp_path / "snapshots")
    taken = store.take(folder, LIMITS)
    restored = store.restore(taken.id, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(folder)
    assert restored == taken.manifest and restored.file_count == 4
    assert store.missing(taken.id) == []
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_equal_content_is_stored_once(tmp_path: Path) -> None:
    folder, store = workspace(tmp_path), SnapshotStore(tmp_path / "snapshots")
    first = store.take(folder, LIMITS)
    other = SnapshotStore(tmp_path / "snapshots").take(folder, LIMITS)
    assert (other.id, other.stored) == (first.id, 0)
    with (folder / "big.bin").open("ab") as file:
        file.write(b"one line more")
    (folder / "copy.py").write_bytes((folder / "src" / "train.py").read_bytes())
    second = store.take(folder, LIMITS)
    assert second.id != first.id
    pieces = list((tmp_path / "snapshots" / "objects").rglob("*.zst"))
    assert len(pieces) == 1 + 1 + 3 + 1  # a script, a shell script, three pieces, the longer last one
    assert store.ids() == sorted([first.id, second.id])


def test_the_files_are_what_the_page_says(tmp_path: Path) -> None:
    folder, store = workspace(tmp_path), SnapshotStore(tmp_path / "snapshots")
    taken = store.take(folder, LIMITS)
    packed = (tmp_path / "snapshots" / "manifests" / f"{taken.id}.json.zst").read_bytes()
    data = zstandard.ZstdDecompressor().decompress(packed)
    assert hashlib.sha256(data).hexdigest() == taken.id
    entries = {entry["path"]: entry for entry in json.loads(data)["entries"]}
    assert entries["latest"] == {"path": "latest", "kind": "link", "target": "src/train.py"}
    content = b"".join(
        zstandard.ZstdDecompressor().decompress(
            (tmp_path / "snapshots" / "objects" / piece[:2] / f"{piece}.zst").read_bytes()
        )
        for piece in entries["big.bin"]["pieces"]
    )
    assert content == (folder / "big.bin").read_bytes() and entries["run.sh"]["mode"] == 0o750


def test_too_much_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    folder, store = workspace(tmp_path), SnapshotStore(tmp_path / "snapshots")
    with pytest.raises(SnapshotError, match="a snapshot may have 50,000 of 5,000") as caught:
        store.take(folder, Limits(max_bytes=5000))
    assert "gym.snapshots.exclude" in caught.value.hint
    with pytest.raises(SnapshotError, match="4 files"):
        store.take(folder, Limits(max_files=3))
    assert not (tmp_path / "snapshots").exists()
    taken = store.take(folder, Limits(max_bytes=5000, exclude=("*.bin",)))
    assert taken.manifest.size < 5000


def test_what_cannot_be_stored_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, store = workspace(tmp_path), SnapshotStore(tmp_path / "snapshots")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(folder)  # a name of a socket is short
        server.bind("socket")
    os.mkfifo(folder / "pipe")
    assert store.take(folder, LIMITS).manifest.left_out == ["pipe", "socket"]


@pytest.mark.parametrize("where", ["objects", "manifests"])
def test_damage_is_an_error_never_another_workspace(tmp_path: Path, where: str) -> None:
    folder, store = workspace(tmp_path), SnapshotStore(tmp_path / "snapshots")
    taken = store.take(folder, LIMITS)
    for path in sorted((tmp_path / "snapshots" / where).rglob("*.zst")):
        whole = path.read_bytes()
        for at in {5, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            try:
                store.restore(taken.id, tmp_path / "again")
            except SnapshotError:
                assert not (tmp_path / "again").exists()
            else:  # a bit of the header that says nothing
                assert tree(tmp_path / "again") == tree(folder)
                snapshots._remove(tmp_path / "again")
        path.write_bytes(whole)
    path.unlink()
    with pytest.raises(SnapshotError, match="cannot be read"):
        store.restore(taken.id, tmp_path / "again")


def test_nothing_is_written_outside_or_over_what_is_there(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snapshots")
    for entry in (
        {"path": "../evil", "kind": "file"},
        {"path": "/evil", "kind": "file"},
        {"path": "", "kind": "file"},
    ):
        data = json.dumps({"version": 1, "entries": [entry], "left_out": []}).encode()
        name = hashlib.sha256(data).hexdigest()
        store._write(store._manifest(name), data)
        with pytest.raises(SnapshotError, match="outside of its workspace"):
            store.restore(name, tmp_path / "again")
    through = [{"path": "a/b", "kind": "file"}, {"path": "a", "kind": "link", "target": str(tmp_path)}]
    data = json.dumps({"version": 1, "entries": through, "left_out": []}).encode()
    store._write(store._manifest(hashlib.sha256(data).hexdigest()), data)
    with pytest.raises(Exception, match="cannot restore"):
        store.restore(hashlib.sha256(data).hexdigest(), tmp_path / "again")
    assert not (tmp_path / "b").exists() and not (tmp_path / "again").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    taken = store.take(workspace(tmp_path), LIMITS)
    with pytest.raises(SnapshotError, match="is there already"):
        store.restore(taken.id, tmp_path / "full")


def _take_for_ever(folder: Path, target: Path) -> None:
    number = 0
    while True:
        (folder / "big.bin").write_bytes(os.urandom(200_000))
        (folder / f"file-{number % 20}").write_bytes(os.urandom(5000))
        SnapshotStore(target).take(folder, LIMITS)
        number += 1


def test_a_killed_writer_leaves_only_whole_snapshots(tmp_path: Path) -> None:
    folder, store = workspace(tmp_path), SnapshotStore(tmp_path / "snapshots")
    context = multiprocessing.get_context("fork")
    for round_ in range(8):
        writer = context.Process(target=_take_for_ever, args=(folder, store.folder))
        writer.start()
        goal = len(store.ids()) + 2
        while len(store.ids()) < goal and writer.is_alive():
            pass
        time.sleep(0.003 * round_)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    ids = store.ids()
    assert len(ids) >= 16
    assert [problem for name in ids for problem in store.missing(name)] == []
    store.restore(ids[0], tmp_path / "again")


def test_pruning_keeps_what_is_named_and_what_is_young(tmp_path: Path) -> None:
    folder, store = workspace(tmp_path), SnapshotStore(tmp_path / "snapshots")
    first = store.take(folder, LIMITS)
    (folder / "src" / "train.py").write_text("changed\n")
    second = store.take(folder, LIMITS)
    orphan = store.folder / "objects" / "ab" / f"ab{'0' * 62}.zst"
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"x" * 10)
    draft = orphan.with_name(f".{orphan.name}.1.tmp")
    draft.write_bytes(b"y")
    assert store.prune() == (0, 0)  # all of it is young
    age(store.folder)
    assert store.prune(dry_run=True) == (2, 11) and orphan.exists()
    assert store.prune() == (2, 11) and not orphan.exists() and not draft.exists()
    assert store.missing(first.id) == store.missing(second.id) == []
    count, _ = store.prune([second.id])
    assert count == 2 and store.ids() == [second.id] and store.missing(second.id) == []  # a manifest, the old script


def test_an_id_is_found_by_its_beginning(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snapshots")
    taken = store.take(workspace(tmp_path), LIMITS)
    assert store.find(taken.id[:6]) == taken.id
    with pytest.raises(SnapshotError, match="no snapshot"):
        store.find("zz")
