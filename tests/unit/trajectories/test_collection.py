"""Sets of trajectories, their filters, tables and figures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from hpc.core.errors import MissingExtra, UsageError
from hpc.rundir import RunDir
from hpc.trajectories import sealed
from hpc.trajectories.collection import TrajectorySet
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.statistics import statistics_of
from hpc.trajectories.views import VIEWS, columns, to_arrow, to_pandas
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories.samples import episode, run_dir


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunDir]:
    """Two runs: three episodes (one runs, one is damaged), and one more."""
    root = tmp_path_factory.mktemp("runs")
    made = [run_dir(root, "one"), run_dir(root, "two")]
    for run, index, steps, finished in ((0, 0, 12, True), (0, 1, 5, False), (0, 2, 6, True), (1, 0, 30, True)):
        records = episode(steps, index=index, finished=finished)
        if finished:
            made[run].trajectory(index).write_bytes(sealed.build(records))
            continue
        with TrajectoryWriter.open(made[run], index) as writer:
            writer.append(*records)
    made[0].trajectory(2).write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    return made


def places(found: TrajectorySet) -> list[tuple[str, int]]:
    return [(entry.run, entry.index) for entry in found.entries]


ALL = [("one", 0), ("one", 1), ("one", 2), ("two", 0)]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, ALL),
        ({"statuses": ["finished"]}, [ALL[0], ALL[3]]),
        ({"statuses": ["running", "damaged"]}, ALL[1:3]),
        ({"task": "minilab/*"}, [ALL[0], ALL[1], ALL[3]]),
        ({"task": "minilab/1"}, [ALL[1]]),
        ({"detectors": ["rep*"]}, [ALL[0], ALL[3]]),
        ({"detectors": ["stall"]}, []),
        ({"annotators": ["ada", "grace"]}, [ALL[0], ALL[3]]),
        ({"score": (40.0, None)}, [ALL[0], ALL[3]]),
        ({"score": (None, 39.9)}, []),
        ({"best": (50.0, 50.0)}, [ALL[1]]),
        ({"steps": (6, 12)}, [ALL[0]]),
        ({"guidance": (3, None)}, [ALL[3]]),
        ({"guidance": (None, 0)}, ALL[1:3]),
        ({"alerts": (2, 2)}, [ALL[0]]),
        ({"attempts": (2, None), "statuses": ["finished"], "steps": (20, None)}, [ALL[3]]),
    ],
)
def test_conditions_choose(runs: list[RunDir], conditions: dict[str, Any], expected: list[tuple[str, int]]) -> None:
    found = TrajectorySet.open(*runs).where(**conditions)
    assert places(found) == expected
    assert len(found) == len(expected)


def test_iterating_opens_one_after_the_other(runs: list[RunDir]) -> None:
    seen: list[Trajectory] = []
    for trajectory in TrajectorySet.open(*runs):
        assert trajectory.step(1).action.step == 1
        seen.append(trajectory)
    assert [len(trajectory.header.task_id) > 0 for trajectory in seen] == [True] * 3  # the damaged one is left out
    with pytest.raises(Exception):  # noqa: B017  whatever h5py says of a closed file
        seen[0].step(3)


def test_a_run_is_named_by_its_folder(runs: list[RunDir], tmp_path: Path) -> None:
    assert places(TrajectorySet.open(str(runs[1].root))) == [ALL[3]]
    with pytest.raises(UsageError, match="no run directory"):
        TrajectorySet.open(tmp_path)


def test_every_view_has_rows_of_one_length(runs: list[RunDir]) -> None:
    found = TrajectorySet.open(*runs)
    for view, (names, _) in VIEWS.items():
        table = columns(found, view)
        assert tuple(table) == names
        assert len({len(values) for values in table.values()}) == 1
    assert len(columns(found, "episodes")["index"]) == 4
    assert len(columns(found, "steps")["index"]) == 12 + 5 + 30
    assert columns(found, "guidance")["annotator"] == ["ada"] * 7


def test_steps_are_what_was_written(runs: list[RunDir]) -> None:
    with Trajectory.open((runs[0], 0)) as trajectory:
        table = columns(trajectory, "steps", texts=True)
        for row, step in enumerate(trajectory.steps):
            assert step.observed is not None
            observation = step.observed.observation
            assert table["action"][row] == step.action.action.name
            assert table["observation"][row] == observation.text
            assert table["answer"][row] == step.action.text
            assert table["boundary"][row] == observation.boundary
            assert table["score"][row] == (observation.evaluation.score if observation.evaluation else None)
            assert table["prompt_tokens"][row] == len(trajectory.prompt_token_ids(row + 1))
    assert "observation" not in columns(trajectory_of(runs[0]), "steps")


def trajectory_of(run: RunDir) -> TrajectorySet:
    return TrajectorySet.open(run).where(statuses=["finished"])


def test_a_live_trajectory_has_the_same_columns(runs: list[RunDir]) -> None:
    with Trajectory.open((runs[0], 1)) as trajectory:
        assert columns(trajectory, "steps")["score"] == [None] * 4 + [50.0]


def test_an_unknown_view_names_the_known_ones(runs: list[RunDir]) -> None:
    with pytest.raises(UsageError, match="no view turns") as caught:
        columns(TrajectorySet.open(*runs), "turns")
    assert "guidance" in caught.value.hint


def test_arrow_tables_keep_types_and_absence(runs: list[RunDir]) -> None:
    found = TrajectorySet.open(*runs)
    table = to_arrow(found, "steps")
    assert (str(table.schema.field("step").type), str(table.schema.field("is_error").type)) == ("int64", "bool")
    assert table.column("score").null_count == table.num_rows - 2 - 1 - 6
    assert to_arrow(found, "alerts").column("evidence").to_pylist()[0] == [5, 6]


@pytest.mark.parametrize(("package", "convert"), [("pyarrow", to_arrow), ("pandas", to_pandas)])
def test_a_missing_package_is_named_with_its_fix(
    runs: list[RunDir], monkeypatch: pytest.MonkeyPatch, package: str, convert: Any
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # its import fails
    with pytest.raises(MissingExtra, match=package) as caught:
        convert(TrajectorySet.open(*runs), "steps")
    assert "pip install" in caught.value.hint


def test_figures_add_up(runs: list[RunDir]) -> None:
    figures = statistics_of(TrajectorySet.open(*runs).entries)
    assert (figures.runs, figures.trajectories, figures.steps) == (2, 4, 47)
    assert figures.statuses == {"damaged": 1, "finished": 2, "running": 1}
    assert (figures.alerts, figures.guidance) == (7, 7)
    assert figures.alerts_per_100_steps == pytest.approx(100 * 7 / 47)
    assert figures.errors == {"tool": 3 + 1 + 7}
    assert (figures.final_score.count, figures.final_score.mean) == (2, 40.0)
    assert (figures.best_score.count, figures.best_score.low) == (3, 50.0)
    assert list(figures.actions) == ["eval", "think", "run_command", "null"]
    assert sum(figures.actions.values()) == 47


def test_figures_of_nothing_are_no_error() -> None:
    figures = statistics_of([])
    assert (figures.trajectories, figures.alerts_per_100_steps, figures.final_score.mean) == (0, None, None)
