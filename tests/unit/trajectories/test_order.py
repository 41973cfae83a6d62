from __future__ import annotations

from collections.abc import Callable

import pytest

from hpc.trajectories.order import RecordOrder
from hpc.trajectories.records import Record
from tests.unit.trajectories.samples import attempt, episode, header, outcome


def problems(records: list[Record]) -> list[str]:
    order, found = RecordOrder(), []
    for record in records:
        problem = order.problem(record)
        if problem:
            found.append(problem)
        order.take(record)
    return found


def test_an_episode_is_in_order() -> None:
    assert problems(episode(12)) == []
    assert problems(episode(12, finished=False)[:-1]) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r: r[1:], "before the header"),
        (lambda r: [header(), *r], "a second header"),
        (lambda r: [*r, attempt(3)], "attempt after the outcome"),
        (lambda r: [*r, outcome(5)], "outcome after the outcome"),
        (lambda r: [*r[:2], *r[4:]], "action of step 2 after step 0"),
        (lambda r: [*r[:4], *r[2:]], "action of step 1 after step 1"),
        (lambda r: [*r[:3], *r[4:]], "action of step 2 while step 1 has no observation"),
        (lambda r: [*r[:4], *r[3:]], "observation of step 1 without its action"),
        (lambda r: [*r[:5], r[3], *r[6:]], "observation of step 1 for the action of step 2"),
    ],
)
def test_what_is_out_of_order_is_named(spoil: Callable[[list[Record]], list[Record]], said: str) -> None:
    assert any(said in problem for problem in problems(spoil(episode(5))))
