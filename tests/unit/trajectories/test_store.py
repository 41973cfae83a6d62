"""Writer and reader through their public face, in one process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from hpc.core.errors import HpcError, TrajectoryIncomplete, UsageError
from hpc.trajectories import codec, sealed
from hpc.trajectories.reader import Trajectory, stored_episodes
from hpc.trajectories.records import ActionTaken, Record
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories.samples import attempt, episode, header, outcome, run_dir


def contexts(records: list[Record]) -> list[list[int]]:
    """The prompt of each step, rolled forward from the first."""
    context: list[int] = []
    prompts = []
    for record in records:
        if isinstance(record, ActionTaken):
            prompts.append(context[: record.shared_tokens] + record.new_prompt_ids)
            context = prompts[-1] + record.token_ids
    return prompts


@pytest.mark.parametrize("seal", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 20])
def test_log_and_sealed_file_read_alike(tmp_path: Path, steps: int, seal: bool) -> None:
    run, records = run_dir(tmp_path), episode(steps)
    with TrajectoryWriter.open(run, 0) as writer:
        for record in records:
            writer.append(record)
        if seal:
            assert writer.seal() == run.trajectory(0)
    with Trajectory.open((run, 0)) as trajectory:
        assert trajectory.sealed is seal
        assert list(trajectory.records()) == records
        assert trajectory.header == header()
        assert trajectory.outcome == outcome(steps)
        assert [item.epoch for item in trajectory.attempts] == ([1, 2] if steps else [1])
        assert len(trajectory.alerts) == len(trajectory.guidance) == steps // 6
        assert [step.action.step for step in trajectory.steps] == list(range(1, steps + 1))
        assert all(step.observed and step.observed.step == step.action.step for step in trajectory.steps)
        assert [trajectory.prompt_token_ids(n) for n in range(1, steps + 1)] == contexts(records)
        assert trajectory.steps[-1:] == list(trajectory.steps)[-1:]


def test_summaries_of_log_and_sealed_file_agree(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*episode(12))
        before = Trajectory.open((run, 0)).summary()
        writer.seal()
    with Trajectory.open((run, 0)) as trajectory:
        assert trajectory.summary() == {**before, "sealed": True}
    assert (before["attempts"], before["steps"], before["status"]) == (2, 12, "finished")
    assert before["outcome"]["final_score"] == 40.0
    assert before["guidance"][0]["applied_step"] == 6


def test_a_running_episode_says_so(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*episode(7, finished=False)[:-1])
        with Trajectory.open((run, 0)) as trajectory:
            assert trajectory.outcome is None
            assert trajectory.summary()["status"] == "running"
            assert trajectory.summary()["best_score"] == 50.0
            assert trajectory.steps[-1].observed is None
            with pytest.raises(UsageError, match="no step 8"):
                trajectory.prompt_token_ids(8)


def test_an_action_without_observation_survives_sealing(tmp_path: Path) -> None:
    records = [*episode(7, finished=False)[:-1], outcome(7, "failed")]
    run = run_dir(tmp_path)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*records)
        writer.seal()
    with Trajectory.open((run, 0)) as trajectory:
        assert trajectory.steps[6].observed is None
        assert list(trajectory.records()) == records


def test_an_episode_goes_on_where_its_log_ends(tmp_path: Path) -> None:
    run, records = run_dir(tmp_path), episode(9)
    for start in range(0, len(records), 3):
        with TrajectoryWriter.open(run, 0) as writer:
            assert writer.records == records[:start]
            writer.append(*records[start : start + 3])
            assert writer.records == records[: start + 3]
    with TrajectoryWriter.open(run, 0) as writer:
        writer.seal()
    with Trajectory.open((run, 0)) as trajectory:
        assert list(trajectory.records()) == records


def test_a_torn_record_is_cut_off_and_written_again(tmp_path: Path) -> None:
    run, records = run_dir(tmp_path), episode(5)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*records[:5])
    run.log(0).write_bytes(run.log(0).read_bytes()[:-3])
    with TrajectoryWriter.open(run, 0) as writer:
        assert writer.records == records[:4]
        writer.append(*records[4:])
    with Trajectory.open((run, 0)) as trajectory:
        assert list(trajectory.records()) == records


def test_episodes_of_one_process_are_sealed_at_the_same_time() -> None:
    wanted = [sealed.build(episode(40, index=index)) for index in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(lambda index: sealed.build(episode(40, index=index)), range(4))) == wanted


def test_a_torn_header_begins_again(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(header())
    run.log(0).write_bytes(run.log(0).read_bytes()[:-1])
    with pytest.raises(TrajectoryIncomplete, match="no records yet"):
        Trajectory.open((run, 0))
    with TrajectoryWriter.open(run, 0) as writer:
        assert writer.records == []
        writer.append(header())


def test_a_refused_batch_leaves_nothing(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(header())
        with pytest.raises(ValueError, match="step 2 after step 0"):
            writer.append(attempt(1), *episode(3)[4:6])
        assert writer.records == [header()]
        writer.append(attempt(1))
    with Trajectory.open((run, 0)) as trajectory:
        assert list(trajectory.records()) == [header(), attempt(1)]


def test_nothing_is_appended_after_sealing_or_closing(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    writer = TrajectoryWriter.open(run, 0)
    writer.append(*episode(2))
    writer.seal()
    with pytest.raises(ValueError, match="sealed"):
        writer.append(attempt(3))
    writer.seal()  # again: nothing to do
    writer.close()
    with TrajectoryWriter.open(run, 0) as again:
        assert again.records == episode(2)
        with pytest.raises(ValueError, match="sealed"):
            again.append(attempt(3))


def test_an_unfinished_episode_is_not_sealed(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*episode(2, finished=False))
        with pytest.raises(ValueError, match="no outcome"):
            writer.seal()
    assert not run.trajectory(0).exists()
    with pytest.raises(ValueError, match="closed"):
        writer.seal()


def test_a_record_too_large_for_the_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpc.trajectories.writer.MAX_FRAME", 10_000)
    with TrajectoryWriter.open(run_dir(tmp_path), 0) as writer:
        writer.append(header(), attempt(1))
        with pytest.raises(HpcError, match="too large"):
            writer.append(*episode(1, size=20_000)[2:4])
        assert len(writer.records) == 2


def test_a_log_that_cannot_be_opened_is_a_clear_error(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    run.episode(0).parent.mkdir(exist_ok=True)
    run.episode(0).write_text("a file where a folder should be")
    with pytest.raises(HpcError) as caught:
        TrajectoryWriter.open(run, 0)
    assert caught.value.hint


def test_an_episode_without_trajectory_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrajectoryIncomplete, match="no trajectory yet"):
        Trajectory.open((run_dir(tmp_path), 3))


def test_the_same_records_give_the_same_file() -> None:
    assert sealed.build(episode(8)) == sealed.build(episode(8))


def test_without_zstd_files_are_gzip_and_still_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    import h5py

    monkeypatch.setitem(sys.modules, "hdf5plugin", None)  # its import fails
    path = tmp_path / "t.h5"
    path.write_bytes(sealed.build(episode(8)))
    with h5py.File(path) as file:
        assert file["steps"].compression == "gzip"
    with Trajectory.open(path) as trajectory:
        assert list(trajectory.records()) == episode(8)


def test_stored_episodes_are_found_sealed_or_not(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    for index, seal in ((0, True), (2, False)):
        with TrajectoryWriter.open(run, index) as writer:
            writer.append(*episode(2, index=index))
            if seal:
                writer.seal()
    run.episode(3).mkdir()
    assert stored_episodes(run) == [0, 2]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(max_size=50),
    ids=st.lists(st.integers(-(2**62), 2**62), max_size=5),
    logprobs=st.lists(st.floats(allow_nan=False), max_size=5),
    name=st.text(st.characters(), max_size=90),
)
def test_any_content_survives_sealing(text: str, ids: list[int], logprobs: list[float], name: str) -> None:
    records = episode(3)
    action = next(record for record in records if isinstance(record, ActionTaken))
    odd = replace(action, text=text, token_ids=ids, logprobs=logprobs, action=replace(action.action, name=name))
    at = records.index(action)
    stored = codec.decode(codec.encode(odd))
    sealed.build([*records[:at], stored, *records[at + 1 :]])  # raises unless everything comes back the same
