"""A log on the node's disk that is published to the run directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc.core.errors import HpcError
from hpc.core.framed import FramedLog, read_frames
from hpc.trajectories.check import check
from hpc.trajectories.published import PublishedLog
from hpc.trajectories.reader import Trajectory, follow
from hpc.trajectories.records import ActionTaken, Observed
from hpc.trajectories.writer import NodeLocal, TrajectoryWriter
from tests.unit.trajectories.samples import episode, run_dir


def test_steps_are_published_late_and_everything_else_at_once(tmp_path: Path) -> None:
    run, local = run_dir(tmp_path), NodeLocal(tmp_path / "node", publish_seconds=1e9)
    with TrajectoryWriter.open(run, 0, local=local) as writer:
        for record in episode(11)[:-1]:
            writer.append(record)
            on_node, shared = (len(read_frames(path)) for path in (local.folder / "log.frames", run.log(0)))
            assert on_node == len(writer.records)
            assert shared == on_node or isinstance(record, ActionTaken | Observed)
        assert shared < on_node  # the last step waits
        assert list((tmp_path / "node").glob("*live-1*")) or list((tmp_path / "node").glob("*live-2*"))
        assert not list(run.episode(0).glob("*live*"))
    assert read_frames(run.log(0)) == read_frames(local.folder / "log.frames")  # a writer that leaves publishes


def test_a_killed_process_loses_nothing_on_its_node_and_little_elsewhere(tmp_path: Path) -> None:
    run, local = run_dir(tmp_path), NodeLocal(tmp_path / "node", publish_seconds=1e9)
    log = PublishedLog(run.log(0), local.folder / "log.frames", publish_seconds=1e9)
    log.append(b"header", publish=True)
    log.append(b"step", publish=False)
    for half in (log._local, log._shared):  # as the end of a process leaves it
        half.close()
    elsewhere = PublishedLog(run.log(0), tmp_path / "other" / "log.frames", publish_seconds=1e9)
    assert elsewhere.frames == [b"header"]
    for half in (elsewhere._local, elsewhere._shared):
        half.close()
    again = PublishedLog(run.log(0), local.folder / "log.frames", publish_seconds=1e9)
    assert again.frames == [b"header", b"step"] == read_frames(run.log(0))
    again.close()


def test_an_episode_that_went_on_elsewhere_is_not_mixed_up(tmp_path: Path) -> None:
    first = PublishedLog(tmp_path / "log", tmp_path / "a" / "log", publish_seconds=1e9)
    first.append(b"header", publish=True)
    first.append(b"lost", publish=False)
    for half in (first._local, first._shared):
        half.close()
    with FramedLog(tmp_path / "log") as other:
        other.append(b"attempt 2", b"step")
    back = PublishedLog(tmp_path / "log", tmp_path / "a" / "log", publish_seconds=1e9)
    assert back.frames == [b"header", b"attempt 2", b"step"] == read_frames(tmp_path / "a" / "log")
    with pytest.raises(HpcError, match="another process"):
        PublishedLog(tmp_path / "log", tmp_path / "b" / "log", publish_seconds=1e9)
    back.close()


def test_time_publishes_and_a_refusing_run_directory_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    log = PublishedLog(tmp_path / "log", tmp_path / "a" / "log", publish_seconds=30, clock=lambda: now[0])
    log.append(b"1", publish=True)
    log.append(b"2", publish=False)
    assert read_frames(tmp_path / "log") == [b"1"]
    real = log._shared.append

    def full(*payloads: bytes) -> None:
        raise HpcError("cannot append: no space left")

    monkeypatch.setattr(log._shared, "append", full)
    now[0] = 31
    log.append(b"3", publish=False)
    with pytest.raises(HpcError, match="no space"):
        log.append(b"guidance", publish=True)
    assert read_frames(tmp_path / "a" / "log") == [b"1", b"2", b"3"]
    monkeypatch.setattr(log._shared, "append", real)
    log.append(b"4", publish=False)
    assert read_frames(tmp_path / "log") == [b"1", b"2", b"3", b"4"] == read_frames(tmp_path / "a" / "log")
    log.close()


def test_it_is_sealed_into_the_run_directory(tmp_path: Path) -> None:
    run, local = run_dir(tmp_path), NodeLocal(tmp_path / "node")
    with TrajectoryWriter.open(run, 0, local=local) as writer:
        for record in episode(8):
            writer.append(record)
        path = writer.seal()
    assert check(path).state == "whole" and list(follow(run, 0)) == episode(8)
    with Trajectory.open((run, 0)) as trajectory:
        assert trajectory.sealed
    assert not run.log(0).exists() and list(local.folder.iterdir()) == []
    with TrajectoryWriter.open(run, 0, local=local) as writer:  # again, as after a crash behind the seal
        assert writer.seal() == path
