from __future__ import annotations

import math
from pathlib import Path

import pytest

from hpc.evaluation.results import Key, read_arm
from tests.unit.evaluation.runs import Played, write_run

EPISODES = [
    Played("t", 0, 40.0, best=60.0),
    Played("t", 1, None, status="failed"),
    Played("t", 2, math.nan),
    Played("t", 3, 10.0, status=""),
    Played("t", 0, 99.0),
    Played("u", 0, 99.0, branched=True),
    Played("w", 0, 20.0, status="truncated"),
]


def test_episodes_count_or_are_named_with_the_reason(tmp_path: Path) -> None:
    run = write_run(tmp_path, "first", EPISODES, launched=9)
    (run.root / "trajectories" / "00006.h5").unlink(missing_ok=True)
    run.log(6).write_bytes(b"rubbish")
    for _ in range(2):  # from the files, then from the index that was made of them
        arm = read_arm(run)
        (only,) = arm.results
        assert (only.key, only.score, only.best, only.steps) == (Key("minilab", "t", 0), 40.0, 60.0, 2)
        assert {each.episode: each.reason for each in arm.left_out} == {
            "first/1": "no score (failed)",
            "first/2": "no score (finished)",
            "first/3": "not over",
            "first/4": "the same task and seed once more",
            "first/5": "branched off another episode",
            "first/6": "damaged",
            "first/7": "not started",
            "first/8": "not started",
        }
        assert arm.reasons["not started"] == 2


def test_no_score_can_count_as_zero(tmp_path: Path) -> None:
    arm = read_arm(write_run(tmp_path, "first", EPISODES), unscored="zero")
    assert [(each.key.task, each.key.seed, each.score) for each in arm.results] == [
        ("t", 0, 40.0),
        ("t", 1, 0.0),
        ("t", 2, 0.0),
        ("w", 0, 20.0),
    ]


@pytest.mark.parametrize(("name", "value"), [("score", 40.0), ("best", 60.0), ("success", 0.0), ("steps", 2.0)])
def test_figures_by_name(tmp_path: Path, name: str, value: float) -> None:
    (only,) = read_arm(write_run(tmp_path, "first", EPISODES[:1])).results
    assert only.figure(name) == value  # type: ignore[arg-type]
    assert only.figure("success", success_at=40.0) == 1.0
