from __future__ import annotations

import random
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from hpc.agent.state import EpisodeState
from hpc.cli import cli
from hpc.core.errors import UsageError
from hpc.rundir import RunDir
from hpc.trajectories.branch import branch, records_to
from hpc.trajectories.check import check
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import ActionTaken, ContextRewritten, Record, SnapshotTaken
from hpc.trajectories.snapshots import Limits, SnapshotStore
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories.samples import episode, run_dir, step_records


@pytest.fixture
def source(tmp_path: Path) -> RunDir:
    run, workspace = run_dir(tmp_path, "first"), tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "notes").write_text("after step 10")
    taken = SnapshotStore(run.snapshots).take(workspace, Limits())
    records: list[Record] = [replace(r, id=taken.id) if isinstance(r, SnapshotTaken) else r for r in episode(14)]
    with TrajectoryWriter.open(run, 3) as writer:
        writer.append(*records)
        writer.seal()
    return run


def test_a_branch_begins_where_it_left_the_other(source: RunDir, tmp_path: Path) -> None:
    run = run_dir(tmp_path, "second")
    point = branch((source, 3), 10, (run, 0)).branched_from
    assert point is not None
    assert (point.run, point.index, point.step, point.abandoned, point.episode_id) == ("first", 3, 10, 14, "demo-00000")
    assert (run.workspace(0) / "notes").read_text() == "after step 10"
    with TrajectoryWriter.open(run, 0) as writer:
        state = EpisodeState(writer.records)
        assert (state.step, len(state.guidance), state.outcome) == (10, 1, None)
        assert check(run.log(0)).findings == []
        writer.append(*step_records(11, list(state.context_ids), random.Random(1)))
    with Trajectory.open((run, 0)) as trajectory, Trajectory.open((source, 3)) as before:
        assert trajectory.summary()["branched_from"]["step"] == 10
        assert [trajectory.prompt_token_ids(n) for n in (1, 10)] == [before.prompt_token_ids(n) for n in (1, 10)]
        assert trajectory.steps[:10] == before.steps[:10]


def test_what_cannot_be_branched_is_refused(source: RunDir, tmp_path: Path) -> None:
    run = run_dir(tmp_path, "second")
    with pytest.raises(UsageError, match="no snapshot") as caught:
        branch((source, 3), 9, (run, 0))
    assert "step 10" in caught.value.hint
    with pytest.raises(UsageError, match="no step 15"):
        branch((source, 3), 15, (run, 0))
    branch((source, 3), 10, (run, 0))
    with pytest.raises(UsageError, match="has begun"):
        branch((source, 3), 10, (run, 0))


def test_the_command_says_what_follows(source: RunDir, tmp_path: Path) -> None:
    run_dir(tmp_path, "second")
    words = ["traj", "branch", "first/3", "--step", "10", "--into", "second/1", "--runs", str(tmp_path)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0 and "hpc episodes resume second" in done.output


def test_only_what_belongs_to_the_steps_is_kept() -> None:
    records = episode(14)
    kept = records_to(records, 10)
    assert [r.step for r in kept if isinstance(r, ActionTaken)] == list(range(1, 11))
    assert not any(isinstance(r, ContextRewritten) for r in kept)  # that of step 10 was made for step 11
    assert records_to(records, 14) == records[:-1]
