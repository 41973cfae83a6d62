"""kill -9 of real writers, then rot in what they left: repair saves all that anyone was promised.

HPC_TEST_REPAIRS: how many kills (6).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import h5py
import pytest

from hpc.core.errors import TrajectoryIncomplete
from hpc.rundir import RunDir
from hpc.trajectories.check import check
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import OutcomeReached, Record
from hpc.trajectories.repair import repair
from tests.integration.test_trajectories_crash import acknowledged, start
from tests.unit.trajectories.samples import run_dir

REPAIRS = int(os.environ.get("HPC_TEST_REPAIRS", "6"))
SIZES = (8, 4_000, 64_000)  # characters of text in a step


def records_of(run: RunDir, index: int) -> list[Record]:
    with Trajectory.open((run, index)) as trajectory:
        return list(trajectory.records())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.timeout(120 + 2 * REPAIRS)
def test_what_a_killed_writer_acknowledged_is_repaired_sealed_and_readable(tmp_path: Path, size: int) -> None:
    run, rng = run_dir(tmp_path), random.Random(size)
    for index in range(max(1, REPAIRS // len(SIZES))):
        process = start(run, index, 100_000, size)
        assert process.stdout is not None
        process.stdout.readline()  # it writes now
        timer = threading.Timer(rng.uniform(0.0, 0.2), process.send_signal, [signal.SIGKILL])
        timer.start()
        count = acknowledged(process)
        timer.join()
        assert process.wait() == -signal.SIGKILL
        written = records_of(run, index)
        assert len(written) >= count
        _rot(run, index, written, rng)
        done = repair(run, index, end=True)
        assert not done.lost
        *back, last = records_of(run, index)
        assert back == written
        assert isinstance(last, OutcomeReached)
        assert check(run.trajectory(index)).state == "whole"
        assert not list(run.episode(index).glob("log.frames"))
        _read_by_others(run.trajectory(index), len(written) + 1)
        run.trajectory(index).unlink()


def _rot(run: RunDir, index: int, written: list[Record], rng: random.Random) -> None:
    """Damage one acknowledged record in the log; what repair makes of it without the view, and with it."""
    view = run.live_view(index, 1)
    shown = _shown(view) if view.exists() else 0
    log = run.log(index)
    whole = log.read_bytes()
    changed = bytearray(whole)
    changed[rng.randrange(8, len(changed))] ^= 1 << rng.randrange(8)
    copy = RunDir(run.root.with_name(f"copy-{index}"))
    shutil.copytree(run.root, copy.root)
    copy.log(index).write_bytes(changed)
    if check(copy.log(index)).state == "whole":  # the last frame looks torn, so never acknowledged
        shutil.rmtree(copy.root)
        return
    try:
        done = repair(copy, index)
    except TrajectoryIncomplete as error:
        assert "header is lost" in error.message
        assert not shown
    else:
        back = records_of(copy, index)
        assert back == written[: len(back)]
        assert bool(done.lost) == (len(back) < len(written) and bool(done.damage))
        assert Path(done.kept).read_bytes() == bytes(changed)
        assert len(back) >= min(shown, len(written))
    shutil.rmtree(copy.root)


def _shown(view: Path) -> int:
    """How many records, from the first on, a live view shows."""
    with h5py.File(view, "r", swmr=True, locking=False) as file:
        places = {int(place) for name in ("header", "attempts", "outcome") for place in file[name]["order"]}
        for name in ("order", "observed_order"):
            places |= {int(place) for place in file["steps"][name]}
    return next(count for count in range(len(places) + 1) if count not in places)


def _read_by_others(path: Path, records: int) -> None:
    """Plain h5py, and HDF5's own tool where it is installed."""
    import hdf5plugin

    with h5py.File(path, "r") as file:
        assert file.attrs["records"] == records
        for name in file:
            assert len(file[name][:]) == len(file[name])
    dump = shutil.which("h5dump")
    if dump:
        environment = {**os.environ, "HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH}
        said = subprocess.run([dump, "-d", "steps", str(path)], capture_output=True, text=True, env=environment)
        assert said.returncode == 0, said.stderr
