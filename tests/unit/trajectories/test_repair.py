"""Repair: everything whole is saved, nothing is thrown away, what is lost is said."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import h5py
import pytest
from click.testing import CliRunner

from hpc.cli.traj import traj
from hpc.core.errors import HpcError, TrajectoryError, TrajectoryIncomplete
from hpc.core.framed import FramedLog
from hpc.rundir import RunDir
from hpc.trajectories import codec, sealed
from hpc.trajectories.check import check
from hpc.trajectories.live import LiveView
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import OutcomeReached, Record
from hpc.trajectories.repair import repair, repair_file
from hpc.trajectories.salvage import salvage
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories.samples import episode, run_dir

DAMAGES = int(os.environ.get("HPC_TEST_DAMAGES", "24"))  # damaged files of the fuzz


def records_of(run: RunDir, index: int = 0) -> list[Record]:
    with Trajectory.open((run, index)) as trajectory:
        return list(trajectory.records())


def log_of(run: RunDir, records: list[Record]) -> list[int]:
    """Write the log of episode 0; returns where each frame ends."""
    ends = []
    with FramedLog(run.log(0), durable=False) as log:
        for record in records:
            log.append(codec.encode(record))
            ends.append(log.size)
    return ends


def damage(path: Path, at: int) -> bytes:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)
    return bytes(data)


def test_what_is_whole_is_left_alone(tmp_path: Path) -> None:
    run, records = run_dir(tmp_path), episode(6)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*records)
        path = writer.seal()
    before = path.read_bytes()
    assert repair(run, 0).state == "whole"
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_log_with_a_hole_comes_back_from_the_live_view(tmp_path: Path) -> None:
    run, records = run_dir(tmp_path), episode(9, finished=False)
    ends = log_of(run, records)
    LiveView(run.live_view(0, 1), records[:12]).close()
    changed = damage(run.log(0), ends[6] + 20)
    done = repair(run, 0)
    assert (done.state, done.lost, done.records) == ("repaired", [], len(records))
    assert records_of(run) == records
    assert Path(done.kept).read_bytes() == changed
    assert repair(run, 0).state == "whole"
    with TrajectoryWriter.open(run, 0) as writer:  # and the episode goes on
        assert writer.records == records


def test_a_hole_that_nothing_fills_keeps_the_rest_aside(tmp_path: Path) -> None:
    run, records = run_dir(tmp_path), episode(9)
    ends = log_of(run, records)
    damage(run.log(0), ends[6] + 20)
    done = repair(run, 0, dry_run=True)
    assert done.dry_run
    assert check(run.log(0)).state == "damaged"
    assert not list(run.log(0).parent.glob("*.damaged"))
    done = repair(run, 0)
    assert records_of(run) == records[:7]
    assert "kept as JSON" in done.lost[0]
    lines = Path(done.aside).read_text().splitlines()
    assert [codec.from_json(line.encode()) for line in lines] == records[8:]


def test_a_repair_that_died_is_repeated_and_a_second_damage_keeps_its_own_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, records = run_dir(tmp_path), episode(9)
    ends = log_of(run, records)
    changed = damage(run.log(0), ends[8] + 20)

    class Died(BaseException):
        pass

    def die(path: Path, data: bytes) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr("hpc.trajectories.repair.files.write_bytes", die)
        with pytest.raises(Died):
            repair(run, 0)
    assert run.log(0).read_bytes() == changed
    first = repair(run, 0)
    assert records_of(run) == records[:9]
    damage(run.log(0), ends[4] + 20)
    second = repair(run, 0)
    assert records_of(run) == records[:5]
    assert Path(first.kept).read_bytes() == changed
    assert [len(Path(done.aside).read_text().splitlines()) for done in (first, second)] == [len(records) - 10, 3]
    assert sorted(path.name for path in run.episode(0).iterdir()) == [
        "log.frames",
        "log.frames.damaged",
        "log.frames.damaged-2",
        "log.frames.salvaged-2.jsonl",
        "log.frames.salvaged.jsonl",
    ]


def test_an_ended_log_is_sealed_and_an_abandoned_one_on_request(tmp_path: Path) -> None:
    run, records = run_dir(tmp_path), episode(5)
    log_of(run, records)
    assert repair(run, 0).state == "sealed"
    assert records_of(run) == records
    assert run.trajectory(0).exists()
    other = run_dir(tmp_path, "other")
    log_of(other, records[:-3])
    assert repair(other, 0).state == "whole"
    assert repair(other, 0, end=True).state == "sealed"
    *kept, last = records_of(other)
    assert kept == records[:-3]
    assert isinstance(last, OutcomeReached)
    assert (last.status, last.boundary) == ("failed", "infrastructure")


def test_changed_bytes_that_hold_no_record_cost_nothing(tmp_path: Path) -> None:
    path, records = tmp_path / "t.h5", episode(8)
    path.write_bytes(sealed.build(records))
    damage(path, path.stat().st_size - 1)
    with pytest.raises(TrajectoryIncomplete, match="its checksums are missing or changed"):
        Trajectory.open(path)
    done = repair_file(path)
    assert (done.state, done.lost, done.records) == ("repaired", [], len(records))
    assert path.read_bytes() == sealed.build(records)


def test_a_sealed_file_with_a_lost_row_says_what_was_lost(tmp_path: Path) -> None:
    path, records = tmp_path / "t.h5", episode(8)
    path.write_bytes(sealed.build(records))
    with h5py.File(path, "r+") as file:
        rows = file["steps"][:]
        rows["progress"][4] = 0.9
        file["steps"][:] = rows
    done = repair_file(path)
    assert (done.state, done.steps) == ("repaired", 4)
    assert "what followed step 4" in done.lost[0]
    with Trajectory.open(path) as trajectory:
        *kept, last = trajectory.records()
    assert kept == records[: len(kept)]
    assert isinstance(last, OutcomeReached)
    assert last.status == "failed"
    assert "finished after 8 steps" in last.reason
    assert check(path).state == "whole"
    saved = [codec.from_json(line.encode()) for line in Path(done.aside).read_text().splitlines()]
    assert saved == [*records[len(kept) + 2 :]]
    assert repair_file(path).state == "whole"


def test_a_lost_header_cannot_be_repaired_and_nothing_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    path.write_bytes(sealed.build(episode(3))[:900])
    before = path.read_bytes()
    with pytest.raises(TrajectoryIncomplete, match="header is lost"):
        repair_file(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_being_written_is_not_repaired(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*episode(3, finished=False))
        with pytest.raises(HpcError, match="written by another process"):
            repair(run, 0)


def test_salvage_outlives_a_reader_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, records = tmp_path / "t.h5", episode(3)
    path.write_bytes(sealed.build(records))
    from hpc.trajectories import salvage as module

    salvage(path)
    module._workers[0].kill()
    assert "ended with" in salvage(path).problems[0]
    assert [record for _, record in salvage(path).records()] == records


@pytest.mark.timeout(120 + DAMAGES)
def test_damaged_files_never_come_back_wrong(tmp_path: Path) -> None:
    path, records, rng = tmp_path / "t.h5", episode(8), random.Random(3)
    image = sealed.build(records)
    restored = 0
    for number in range(DAMAGES):
        for old in tmp_path.iterdir():
            old.unlink()
        path.write_bytes(_damaged(image, number, rng))
        _read_everything(path, records)
        try:
            done = repair_file(path)
        except TrajectoryIncomplete as error:
            assert "header is lost" in error.message
            assert list(tmp_path.iterdir()) == [path]
            continue
        with Trajectory.open(path) as trajectory:
            back = list(trajectory.records())
        assert back == records if not done.lost else back[:-1] == records[: len(back) - 1]
        assert done.state == "whole" or Path(done.kept).exists()
        assert repair_file(path).state == "whole"
        restored += 1
    assert restored > DAMAGES // 3


def _damaged(image: bytes, number: int, rng: random.Random) -> bytes:
    """One bit, a hole, rubbish, or the end gone."""
    changed = bytearray(image)
    start = rng.randrange(8, len(image))
    if number % 4 == 0:
        changed[start] ^= 1 << rng.randrange(8)
    elif number % 4 == 1:
        changed[start : start + 64] = bytes(len(changed[start : start + 64]))
    elif number % 4 == 2:
        changed[start : start + 64] = rng.randbytes(len(changed[start : start + 64]))
    else:
        del changed[start:]
    return bytes(changed)


def _read_everything(path: Path, records: list[Record]) -> None:
    try:
        with Trajectory.open(path) as trajectory:
            assert list(trajectory.records()) == records
    except TrajectoryError:
        assert check(path).state != "whole"


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    ends = log_of(run, episode(4))
    damage(run.log(0), ends[4] + 20)
    runner = CliRunner()
    result = runner.invoke(traj, ["repair", "demo/0", "--runs", str(tmp_path), "--dry-run"])
    assert result.exit_code == 3
    assert "would be repaired" in result.output
    result = runner.invoke(traj, ["repair", "demo/0", "--runs", str(tmp_path), "--json"])
    assert result.exit_code == 3
    (said,) = json.loads(result.output)
    assert said["kept"].endswith("log.frames.damaged")
    assert runner.invoke(traj, ["repair", "demo/0", "--runs", str(tmp_path)]).exit_code == 0
    assert runner.invoke(traj, ["repair", "demo/3", "--runs", str(tmp_path)]).exit_code == 1
