"""kill -9 of real writers, at any moment: nothing acknowledged is lost, everything stays readable."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import pytest

from hpc.core.errors import HpcError, TrajectoryIncomplete
from hpc.rundir import RunDir
from hpc.trajectories import writer as writer_module
from hpc.trajectories.check import check
from hpc.trajectories.reader import Trajectory, path_of
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories.samples import episode, run_dir

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("HPC_TEST_KILLS", "40"))
SIZES = (8, 2_000, 200_000)  # characters of text in a step


def start(run: RunDir, index: int, steps: int, size: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            str(Path(__file__).with_name("writer_process.py")),
            str(run.root),
            str(index),
            str(steps),
            str(size),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def acknowledged(process: subprocess.Popen[str]) -> int:
    """The last count that the writer has printed, read to the end of its output."""
    assert process.stdout is not None
    last = 0
    with process.stdout as lines:
        for line in lines:
            words = line.split()
            if len(words) == 2 and line.endswith("\n"):
                last = int(words[1])
    return last


@pytest.mark.parametrize("size", SIZES)
def test_kill_9_at_random_moments_loses_nothing_acknowledged(tmp_path: Path, size: int) -> None:
    run, rng = run_dir(tmp_path), random.Random(size)
    steps, index, kills, before = 100_000, 0, 0, []
    while kills < KILLS // len(SIZES) + 1:
        process = start(run, index, steps, size)
        assert process.stdout is not None
        process.stdout.readline()  # it writes now
        timer = threading.Timer(rng.uniform(0.0, 0.15), process.send_signal, [signal.SIGKILL])
        timer.start()
        count = acknowledged(process)
        timer.join()
        assert process.wait() == -signal.SIGKILL
        kills += 1
        with Trajectory.open((run, index)) as trajectory:
            records = list(trajectory.records())
        assert len(records) >= count
        assert records[: len(before)] == before
        assert check(path_of(run, index)).state == "whole"
        _read_view_if_there(run, index)
        before = records
    assert len(before) > KILLS // len(SIZES)  # it really wrote


def _read_view_if_there(run: RunDir, index: int) -> None:
    """The view of a killed writer opens for SWMR readers and shows a beginning of the truth."""
    with Trajectory.open((run, index)) as trajectory:
        for path in run.episode(index).glob("live-*.h5"):
            with h5py.File(path, "r", swmr=True, locking=False) as file:
                for shown, step in zip(file["steps"], trajectory.steps, strict=False):
                    start, length = shown["observation_offset"], shown["observation_length"]
                    text = file["text"][start : start + length].tobytes().decode()
                    assert step.observed is not None
                    assert text == step.observed.observation.text


def test_a_killed_episode_goes_on_and_ends_whole(tmp_path: Path) -> None:
    run, rng = run_dir(tmp_path), random.Random(5)
    for _ in range(50):
        process = start(run, 0, 60, 400)
        timer = threading.Timer(rng.uniform(0.3, 0.6), process.send_signal, [signal.SIGKILL])
        timer.start()
        count = acknowledged(process)
        timer.cancel()
        code = process.wait()
        if path_of(run, 0).exists():
            with Trajectory.open((run, 0)) as trajectory:
                assert len(list(trajectory.records())) >= count
        if code == 0:
            break
    with Trajectory.open((run, 0)) as trajectory:
        assert trajectory.sealed
        assert [step.action.step for step in trajectory.steps] == list(range(1, 61))
    report = check(run.trajectory(0))
    assert (report.state, report.steps) == ("whole", 60)
    assert not list(run.episode(0).iterdir())


class _Crash(BaseException):
    """Stands for a death at one point: nothing catches it."""


STAGES = ["build", "write", "views", "log"]


@pytest.mark.parametrize("stage", STAGES)
def test_seal_can_be_repeated_after_a_crash_at_any_stage(
    tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, records = run_dir(tmp_path), episode(12)
    writer = TrajectoryWriter.open(run, 0)
    writer.append(*records)
    real_write = writer_module.files.write_bytes

    def crash(*_: object, **__: object) -> None:
        raise _Crash

    def write_then_crash(path: Path, data: bytes) -> None:
        real_write(path, data)
        raise _Crash

    with monkeypatch.context() as patch:
        if stage == "build":
            patch.setattr(writer_module.sealed, "build", crash)
        elif stage == "write":
            patch.setattr(writer_module.files, "write_bytes", write_then_crash)
        elif stage == "views":
            patch.setattr(writer_module, "views_in", crash)
        else:
            patch.setattr(writer_module.files, "fsync_dir", crash)
        with pytest.raises(_Crash):
            writer.seal()
    with Trajectory.open((run, 0)) as trajectory:
        assert list(trajectory.records()) == records
    writer.close()  # what the kernel does for a dead process

    with TrajectoryWriter.open(run, 0) as again:
        assert again.records == records
        again.seal()
    with Trajectory.open((run, 0)) as trajectory:
        assert trajectory.sealed
        assert list(trajectory.records()) == records
    assert not list(run.episode(0).iterdir())
    assert [path.name for path in run.trajectory(0).parent.iterdir()] == ["00000.h5"]


def test_what_a_killed_seal_left_behind_is_removed(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*episode(3))
        leftover = run.trajectory(0).with_name(".00000.h5.abc.tmp")
        leftover.write_bytes(b"half")
        writer.seal()
    assert not leftover.exists()


def test_two_writers_are_refused(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    process = start(run, 0, 10**9, 8)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(HpcError, match="being written by another process"):
            TrajectoryWriter.open(run, 0)
    finally:
        process.kill()
        process.communicate()
    with TrajectoryWriter.open(run, 0) as writer:  # the lock dies with its holder
        assert writer.records


def test_a_log_damaged_in_the_middle_is_not_cut(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    with TrajectoryWriter.open(run, 0) as writer:
        for record in episode(6, finished=False):
            writer.append(record)
    path = run.log(0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrajectoryIncomplete, match="whole records follow"):
        TrajectoryWriter.open(run, 0)
    with pytest.raises(TrajectoryIncomplete):
        Trajectory.open((run, 0))
    assert path.read_bytes() == data
    assert check(path).state == "damaged"
