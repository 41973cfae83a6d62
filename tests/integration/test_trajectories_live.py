"""Following an episode that another process writes: through the HDF5 view and through the log."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import pytest

from hpc.core.errors import TrajectoryIncomplete
from hpc.rundir import RunDir
from hpc.trajectories.reader import Trajectory, follow
from hpc.trajectories.records import ActionTaken, Observed, OutcomeReached, Record
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories.samples import attempt, episode, header, run_dir

ROOT = Path(__file__).resolve().parents[2]


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@contextlib.contextmanager
def written_elsewhere(run: RunDir, steps: int) -> Iterator[None]:
    """Another process writes episode 0, and seals it if it gets to its end."""
    script = Path(__file__).with_name("writer_process.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(run.root), "0", str(steps), "3000"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_a_plain_h5py_reader_follows_the_view(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    shown: list[str] = []
    with written_elsewhere(run, 10**6):
        until(run.live_view(0, 1).exists)
        with h5py.File(run.live_view(0, 1), "r", swmr=True, locking=False) as file:
            while len(shown) < 500:
                for name in ("steps", "text"):
                    file[name].refresh()
                for row in file["steps"][len(shown) :]:
                    start, length = row["observation_offset"], row["observation_length"]
                    shown.append(file["text"][start : start + length].tobytes().decode())
    with Trajectory.open((run, 0)) as trajectory:
        texts = [step.observed.observation.text for step in trajectory.steps if step.observed]
    assert shown == texts[: len(shown)]


def test_following_the_log_yields_every_record_once(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    with written_elsewhere(run, 300):
        records = list(follow(run, 0, poll_seconds=0.02))
        until(run.trajectory(0).exists)
    assert isinstance(records[-1], OutcomeReached)
    with Trajectory.open((run, 0)) as trajectory:
        assert records == list(trajectory.records())


def test_following_a_sealed_episode_yields_it_whole(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*episode(5))
        writer.seal()
    assert list(follow(run, 0)) == episode(5)


def test_following_goes_over_to_the_sealed_file(tmp_path: Path) -> None:
    run, records = run_dir(tmp_path), episode(5)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*records[:6])
        followed = follow(run, 0, poll_seconds=0.0)
        seen: list[Record] = [next(followed) for _ in range(6)]
        writer.append(*records[6:])
        writer.seal()
    assert [*seen, *followed] == records


def test_following_stops_at_damage(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*episode(5, finished=False))
    data = bytearray(run.log(0).read_bytes())
    data[len(data) // 2] ^= 4
    run.log(0).write_bytes(data)
    with pytest.raises(TrajectoryIncomplete, match="damaged"):
        list(follow(run, 0, poll_seconds=0.0))


def test_each_attempt_writes_a_new_view_with_everything_so_far(tmp_path: Path) -> None:
    run, records = run_dir(tmp_path), episode(8, finished=False)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*(record for record in records[:8]))
    assert [path.name for path in run.episode(0).glob("live-*")] == ["live-1.h5"]
    rest = [record for record in records[8:] if isinstance(record, ActionTaken | Observed)]
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(attempt(2, 3), *rest)
    assert [path.name for path in run.episode(0).glob("live-*")] == ["live-2.h5"]
    with h5py.File(run.live_view(0, 2), "r", swmr=True, locking=False) as file:
        assert list(file["steps"]["step"]) == list(range(1, 9))
        assert list(file["attempts"]["epoch"]) == [1, 2]


def test_records_appear_in_the_view_without_further_appends(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(header(), attempt(1))
        writer.append(*episode(1, finished=False)[-2:])
        until(run.live_view(0, 1).exists)

        def visible() -> bool:
            with h5py.File(run.live_view(0, 1), "r", swmr=True, locking=False) as file:
                return len(file["steps"]) == 1

        until(visible)


def test_a_view_that_cannot_be_written_does_not_harm_the_episode(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    run.live_view(0, 1).mkdir(parents=True)  # nothing can be renamed onto a folder
    (run.live_view(0, 1) / "file").touch()
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*episode(5, finished=False))
    with Trajectory.open((run, 0)) as trajectory:
        assert len(trajectory.steps) == 5
