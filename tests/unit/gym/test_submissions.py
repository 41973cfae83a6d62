"""The evaluation counter: no crash gives a submission away, none takes one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hpc.core.errors import ActionError, EvaluatorError, GymError
from hpc.gym.submissions import Submissions


class _Evaluator:
    """Scores 10, 20, 30, …"""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self) -> tuple[float, str]:
        self.calls += 1
        return 10.0 * self.calls, "ok"


def _open(path: Path, task_id: str = "t") -> Submissions:
    return Submissions(path / "task.json", task_id=task_id, limit=3)


async def _submit(submissions: Submissions, evaluate: _Evaluator) -> float:
    submissions.acting(evaluates=True)
    return (await submissions.submit(evaluate)).score


async def test_three_and_a_forced_one(tmp_path: Path) -> None:
    submissions, evaluate = _open(tmp_path), _Evaluator()
    left = []
    for _ in range(3):
        submissions.acting(evaluates=True)
        left.append((await submissions.submit(evaluate)).left)
    submissions.acting(evaluates=True)
    with pytest.raises(ActionError, match="no evaluations left"):
        await submissions.submit(evaluate)
    final = await submissions.final(evaluate)

    assert left == [2, 1, 0]
    assert (final.score, final.forced) == (40.0, True)
    assert await submissions.final(evaluate) == final
    assert await _open(tmp_path).final(evaluate) == final
    assert evaluate.calls == 4
    assert _open(tmp_path).best == 40.0


async def test_a_submission_is_counted_before_it_is_judged(tmp_path: Path) -> None:
    async def look() -> tuple[float, str]:
        assert _open(tmp_path).left == 2
        return 1.0, ""

    await _open(tmp_path).submit(look)


async def test_a_crash_while_judging_repeats_the_same_submission(tmp_path: Path) -> None:
    async def never() -> tuple[float, str]:
        await asyncio.Event().wait()
        return 0.0, ""

    dying = asyncio.ensure_future(_open(tmp_path).submit(never))
    await asyncio.sleep(0)
    dying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dying

    resumed, evaluate = _open(tmp_path), _Evaluator()
    assert resumed.left == 2
    assert await _submit(resumed, evaluate) == 10.0
    assert resumed.left == 2


async def test_a_verdict_that_died_with_its_process_is_given_again(tmp_path: Path) -> None:
    evaluate = _Evaluator()
    assert await _submit(_open(tmp_path), evaluate) == 10.0

    resumed = _open(tmp_path)
    assert await _submit(resumed, evaluate) == 10.0
    assert (evaluate.calls, resumed.left) == (1, 2)
    assert await _submit(resumed, evaluate) == 20.0
    assert resumed.left == 1


async def test_a_verdict_that_was_seen_is_not_given_again(tmp_path: Path) -> None:
    evaluate = _Evaluator()
    first = _open(tmp_path)
    await _submit(first, evaluate)
    first.acting(evaluates=False)

    assert await _submit(_open(tmp_path), evaluate) == 20.0


async def test_a_resumed_agent_that_does_something_else_has_seen_the_verdict(tmp_path: Path) -> None:
    evaluate = _Evaluator()
    await _submit(_open(tmp_path), evaluate)

    resumed = _open(tmp_path)
    resumed.acting(evaluates=False)

    assert await _submit(resumed, evaluate) == 20.0


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -1.0, 100.5])
async def test_a_broken_evaluator_costs_nothing_and_tells_nothing(tmp_path: Path, score: float) -> None:
    async def crash() -> tuple[float, str]:
        raise ValueError("the reference answer is 42")

    async def mad() -> tuple[float, str]:
        return score, ""

    submissions, evaluate = _open(tmp_path), _Evaluator()
    for broken in (crash, mad, crash):
        submissions.acting(evaluates=True)
        with pytest.raises(EvaluatorError) as caught:
            await submissions.submit(broken)
        assert "42" not in caught.value.message

    assert await _submit(submissions, evaluate) == 10.0
    assert submissions.left == 2


async def test_state_of_the_task_is_kept(tmp_path: Path) -> None:
    submissions = _open(tmp_path)
    submissions.state.task["runs_used"] = 5
    submissions.save()

    assert _open(tmp_path).state.task == {"runs_used": 5}


async def test_a_foreign_or_damaged_state_is_refused(tmp_path: Path) -> None:
    _open(tmp_path).save()
    with pytest.raises(GymError, match="belongs to task t, not u"):
        _open(tmp_path, "u")
    (tmp_path / "task.json").write_text('{"task_id": 5}')
    with pytest.raises(GymError, match="damaged"):
        _open(tmp_path)
    (tmp_path / "task.json").write_text("{")
    with pytest.raises(GymError, match="damaged"):
        _open(tmp_path)
