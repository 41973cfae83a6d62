"""The index of a run: right, incremental, made anew when it cannot be trusted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from hpc.rundir import RunDir
from hpc.trajectories import sealed
from hpc.trajectories.index import Entry, read_index
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories.samples import episode, outcome, run_dir

ROOT = Path(__file__).resolve().parents[3]


def write(run: RunDir, index: int, steps: int = 12, *, finished: bool = True) -> None:
    if finished:
        run.trajectory(index).write_bytes(sealed.build(episode(steps, index=index)))
        return
    with TrajectoryWriter.open(run, index) as writer:
        writer.append(*episode(steps, index=index, finished=False))


def opened(run: RunDir) -> tuple[list[Entry], int]:
    """The entries, and how many files were opened for them."""
    calls: list[int] = []
    entries = read_index(run, on_open=lambda done, count: calls.append(done))
    return entries, len(calls)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Finished, running, damaged."""
    made = run_dir(tmp_path)
    for index in range(3):
        write(made, index, finished=index != 1)
    data = made.trajectory(2).read_bytes()
    made.trajectory(2).write_bytes(data[: len(data) // 2])
    return made


def test_an_entry_tells_what_is_in_the_file(run: RunDir) -> None:
    first, second, third = read_index(run)
    assert [entry.status for entry in (first, second, third)] == ["finished", "running", "damaged"]
    assert (first.steps, first.attempts, first.alerts, first.guidance, first.evaluations) == (12, 2, 2, 2, 2)
    assert (first.final_score, first.best_score, second.final_score, second.best_score) == (40.0, 53.3, None, 100.0)
    assert first.detectors == {"repeat": 2} and first.annotators == {"ada": 2}
    assert first.boundaries == {"tool": 3} and first.malformed == 1
    assert first.actions == {"eval": 4, "think": 4, "run_command": 3, "null": 1}
    assert first.answer_tokens == 12 * 4
    assert third.note


def test_tokens_are_counted_as_the_engine_saw_them(run: RunDir) -> None:
    from hpc.trajectories.reader import Trajectory

    with Trajectory.open((run, 0)) as trajectory:
        prompts = [len(trajectory.prompt_token_ids(step)) for step in range(1, 13)]
    assert read_index(run)[0].prompt_tokens == sum(prompts)


def test_a_log_and_its_sealed_file_have_the_same_entry(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*episode(12))
        (before,) = read_index(run)
        writer.seal()
    (after,) = read_index(run)
    assert (before.sealed, after.sealed) == (False, True)
    assert replace(before, sealed=True, path=after.path) == after


def test_only_what_is_new_or_changed_is_opened(run: RunDir) -> None:
    entries, count = opened(run)
    assert count == 3
    assert opened(run) == (entries, 0)
    write(run, 3)
    with TrajectoryWriter.open(run, 1) as writer:
        writer.append(outcome(12, "stopped"))
    changed, count = opened(run)
    assert count == 2
    assert [entry.status for entry in changed] == ["finished", "stopped", "damaged", "finished"]
    run.trajectory(3).unlink()
    assert len(opened(run)[0]) == 3
    assert opened(run)[1] == 0


def damage_version(data: bytes) -> bytes:
    return data.replace(b'"version":2', b'"version":9')


def damage_value(data: bytes) -> bytes:
    return data.replace(b'"steps":12', b'"steps":13', 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-20],
        lambda data: b"\x00" * len(data),
        lambda data: b"[" * 100_000,
        lambda data: b'{"version":2,"crc":0,"entries":{}}',
        damage_version,
        damage_value,
    ],
    ids=["empty", "torn", "zeros", "deep", "crc", "version", "value"],
)
def test_an_index_that_cannot_be_trusted_is_made_anew(run: RunDir, damage: object) -> None:
    entries = read_index(run)
    path = run.trajectory_index
    assert callable(damage)
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    assert opened(run) == (entries, 3)
    assert opened(run) == (entries, 0)


def test_an_index_that_cannot_be_written_is_done_without(run: RunDir) -> None:
    run.trajectory_index.mkdir()
    assert [entry.steps for entry in read_index(run)] == [12, 12, 0]
    assert opened(run)[1] == 3


def test_a_moved_run_is_called_by_its_new_name(run: RunDir, tmp_path: Path) -> None:
    read_index(run)
    moved = RunDir(run.root.rename(tmp_path / "elsewhere"))
    entries, count = opened(moved)
    assert count == 0
    assert {entry.run for entry in entries} == {"elsewhere"}
    assert entries[0].path == str(moved.trajectory(0))


def test_what_a_killed_reader_left_is_removed_and_no_trajectory_is_mistaken(run: RunDir) -> None:
    import os

    leftover = run.trajectory_index.with_name(".index.json.abc.tmp")
    leftover.write_bytes(b"half")
    os.utime(leftover, (1, 1))
    assert len(read_index(run)) == 3
    assert not leftover.exists()


READER = """
import json, sys
from pathlib import Path
import msgspec
from hpc.rundir import RunDir
from hpc.trajectories.index import read_index
run = RunDir(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(2):
    entries = read_index(run)
    run.trajectory_index.unlink(missing_ok=True)
print(json.dumps(msgspec.to_builtins(entries)))
"""


def test_several_readers_build_it_at_once(run: RunDir) -> None:
    expected = json.loads(json.dumps(msgspec.to_builtins(read_index(run))))
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(run.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(3)
    ]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    results = []
    for reader in readers:
        assert reader.stdin is not None
        reader.stdin.write("go\n")
        reader.stdin.flush()
    for reader in readers:
        out, _ = reader.communicate(timeout=60)
        assert reader.returncode == 0
        results.append(json.loads(out))
    assert results == [expected] * 3
    assert json.loads(json.dumps(msgspec.to_builtins(read_index(run)))) == expected
    assert [path.name for path in run.trajectory_index.parent.glob(".*")] == []
