"""Reading on demand: parts of a trajectory without the rest of it."""

from __future__ import annotations

import random
from pathlib import Path

import h5py
import pytest
from msgspec.structs import replace

from hpc.core.errors import TrajectoryIncomplete, UsageError
from hpc.rundir import RunDir
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import ActionTaken, Record
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories.samples import episode, run_dir

STEPS = 12


@pytest.fixture(params=[True, False], ids=["sealed", "log"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunDir:
    made = run_dir(tmp_path)
    with TrajectoryWriter.open(made, 3) as writer:
        writer.append(*episode(STEPS, index=3))
        if request.param:
            writer.seal()
    return made


def actions() -> list[ActionTaken]:
    return [record for record in episode(STEPS, index=3) if isinstance(record, ActionTaken)]


def test_an_episode_is_named_by_run_and_index(run: RunDir) -> None:
    with Trajectory.open(f"{run.root}/3") as trajectory, Trajectory.open((run, 3)) as same:
        assert trajectory.path == same.path
        assert list(trajectory.records()) == episode(STEPS, index=3)
    with pytest.raises(TrajectoryIncomplete, match="no trajectory yet"):
        Trajectory.open(f"{run.root}/4")
    with pytest.raises(TrajectoryIncomplete, match="no trajectory at"):
        Trajectory.open(f"{run.root.parent}/nowhere/3")


def test_slices_and_single_steps(run: RunDir) -> None:
    with Trajectory.open((run, 3)) as trajectory:
        numbers = [step.action.step for step in trajectory.steps[3:6]]
        assert numbers == [4, 5, 6]
        assert [step.action.step for step in trajectory.steps[::-5]] == [12, 7, 2]
        assert trajectory.steps[-1] == trajectory.step(12)
        assert trajectory.steps[20:30] == []
        for number in (0, 13, -1):
            with pytest.raises(UsageError, match=f"no step {number}"):
                trajectory.step(number)
        with pytest.raises(IndexError):
            _ = trajectory.steps[12]


def test_tokens_of_every_step_come_back(run: RunDir) -> None:
    context: list[int] = []
    with Trajectory.open((run, 3)) as trajectory:
        for action in actions():
            prompt = context[: action.shared_tokens] + action.new_prompt_ids
            assert trajectory.tokens(action.step) == (prompt, action.token_ids, action.logprobs)
            context = prompt + action.token_ids


def test_tables_are_numbers_of_all_steps(run: RunDir) -> None:
    with Trajectory.open((run, 3)) as trajectory:
        steps = trajectory.table("steps")
        assert steps["step"].tolist() == list(range(1, STEPS + 1))
        assert steps["is_malformed"].tolist() == [bool(action.action.problem) for action in actions()]
        assert trajectory.table("alerts")["step"].tolist() == [6, 12]
        with pytest.raises(UsageError, match="no table turns"):
            trajectory.table("turns")


def _long(record: Record) -> Record:
    """The last step with a text that stays long when it is compressed: several blocks of checksums."""
    if isinstance(record, ActionTaken) and record.step == STEPS:
        return replace(record, text=random.Random(1).randbytes(300_000).hex())
    return record


def test_one_step_is_read_without_the_others(tmp_path: Path) -> None:
    """Only what is asked for is read: damage elsewhere does not matter until it is met."""
    run = run_dir(tmp_path)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*map(_long, episode(STEPS, size=200_000)))
        path = writer.seal()
    with h5py.File(path) as file:
        chunks = file["text"].id
        last = chunks.get_chunk_info(chunks.get_num_chunks() - 1)
        assert chunks.get_num_chunks() > 3
    data = bytearray(path.read_bytes())
    data[last.byte_offset + last.size // 2] ^= 1
    path.write_bytes(data)
    with Trajectory.open(path) as trajectory:
        assert trajectory.header.task_id == "minilab/0"
        assert trajectory.prompt_token_ids(STEPS)
        assert [step.action.step for step in trajectory.steps[:3]] == [1, 2, 3]
        with pytest.raises(TrajectoryIncomplete, match="is damaged"):
            trajectory.step(STEPS)
