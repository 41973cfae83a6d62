from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from msgspec.structs import replace

from hpc.evaluation.timeline import LEGEND, Mark, StepMark, Timeline, describe, draw, ticks, timeline_of
from hpc.trajectories.records import ActionTaken, Observed
from tests.unit.trajectories.samples import episode


def shapes(timeline: Timeline, tag: str, css: str) -> list[ET.Element]:
    root = ET.fromstring(draw(timeline))
    return [found for found in root.iter(tag) if css in (found.get("class") or "").split()]


def test_a_trajectory_becomes_marks() -> None:
    timeline = timeline_of(episode(12))
    assert [mark.step for mark in timeline.steps] == list(range(1, 13))
    assert timeline.steps[8].kind == "malformed"
    assert timeline.steps[3].kind == timeline.steps[7].kind == "error"
    assert [mark.score for mark in timeline.steps if mark.score is not None] == [50.0, 100.0]
    assert [mark.step for mark in timeline.alerts] == [mark.step for mark in timeline.guidance] == [6, 12]
    assert [(mark.step, mark.text) for mark in timeline.attempts] == [
        (6, "attempt 2 on node2, resumed after step 6"),
    ]


def test_every_kind_is_in_the_legend() -> None:
    assert {mark.kind for mark in timeline_of(episode(40)).steps} <= set(LEGEND)


def test_a_step_without_observation_is_drawn() -> None:
    assert len(timeline_of(episode(3, finished=False)[:-1]).steps) == 3


def test_an_unknown_action_is_work() -> None:
    records = episode(1)
    at = next(i for i, record in enumerate(records) if isinstance(record, ActionTaken))
    taken, seen = records[at], records[at + 1]
    assert isinstance(taken, ActionTaken)
    assert isinstance(seen, Observed)
    strange = replace(taken, action=replace(taken.action, name="teleport"))
    assert timeline_of([*records[:at], strange, seen]).steps[0].kind == "run"


def test_steps_fill_the_band_without_gaps() -> None:
    steps = [StepMark(step=n, kind="run" if n < 5 else "error") for n in range(1, 11)]
    run, error = (shapes(Timeline(steps=steps), "rect", kind)[0] for kind in ("run", "error"))
    end = float(run.get("x", 0)) + float(run.get("width", 0))
    assert end == pytest.approx(float(error.get("x", 0)), abs=0.02)
    assert float(error.get("width", 0)) == pytest.approx(1.5 * float(run.get("width", 0)), abs=0.05)


def test_neighbours_of_one_kind_are_one_shape() -> None:
    steps = [StepMark(step=n, kind="run") for n in range(1, 5001)]
    assert len(shapes(Timeline(steps=steps), "rect", "step")) == 1


def test_marks_are_in_the_order_of_their_steps_and_inside_the_picture() -> None:
    timeline = timeline_of(episode(30))
    for tag, css in (("circle", "guidance"), ("circle", "score"), ("circle", "attempt")):
        xs = [float(found.get("cx", 0)) for found in shapes(timeline, tag, css)]
        assert xs == sorted(xs)
        assert all(0 < x < 1000 for x in xs)
    assert len(shapes(timeline, "polygon", "alert")) == 5


def test_a_higher_score_is_higher_up() -> None:
    steps = [StepMark(step=1, kind="evaluate", score=10.0), StepMark(step=2, kind="evaluate", score=90.0)]
    low, high = (float(found.get("cy", 0)) for found in shapes(Timeline(steps=steps), "circle", "score"))
    assert high < low


def test_an_episode_that_has_not_begun_has_a_picture() -> None:
    assert ET.fromstring(draw(Timeline())).tag == "svg"


def test_texts_are_escaped_and_cut() -> None:
    hostile = '</title></svg><script>alert("x")</script>' + "x" * 5000
    picture = draw(
        Timeline(steps=[StepMark(step=1, kind="run")], alerts=[Mark(1, hostile)], guidance=[Mark(1, hostile)])
    )
    assert "<script" not in picture
    assert len(picture) < 4000
    ET.fromstring(picture)


def test_the_picture_is_described_in_words() -> None:
    assert (
        describe(timeline_of(episode(12)))
        == "12 steps, 3 errors, 2 alerts, 2 times guided, 2 attempts, best score 100.0"
    )


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, [1]), (5, [1, 2, 3, 4, 5]), (13, [1, 2, 4, 6, 8, 10, 12]), (30, [1, 5, 10, 15, 20, 25, 30])],
)
def test_ticks_are_few_and_round(count: int, expected: list[int]) -> None:
    assert ticks(count) == expected
    assert len(ticks(count * 997)) <= 13
