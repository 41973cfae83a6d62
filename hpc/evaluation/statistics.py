"""The figures of one run's episodes, each with its interval. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from hpc.evaluation.bootstrap import Estimate, Floats, Level, estimate
from hpc.evaluation.results import SUCCESS_AT, Arm, Result
from hpc.evaluation.significance import Proportion, wilson

SCORES = (0.0, 100.0)
SHARES = (0.0, 1.0)
AMOUNTS = (0.0, float("inf"))

By = Literal["task", "domain"]


class PassAt(msgspec.Struct, frozen=True, kw_only=True):
    """pass@k over the ``tasks`` that have at least k episodes; ``too_few`` tasks have fewer."""

    k: int
    share: Estimate
    tasks: int
    too_few: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run, or of one task or domain (``group``) of it.

    ``score`` and ``best`` are in [0, 100]; ``success`` counts episodes and has Wilson's interval,
    ``success_over_tasks`` is the mean over tasks with the bootstrap's. Times are seconds, costs US dollars an
    episode; ``cost_known`` says of how many episodes. ``seeds`` is the (least, most) seeds of a task.
    """

    run: str
    group: str = ""
    episodes: int
    tasks: int
    seeds: tuple[int, int]
    statuses: dict[str, int]
    left_out: dict[str, int]
    score: Estimate
    best: Estimate
    success: Proportion
    success_over_tasks: Estimate
    pass_at: list[PassAt]
    steps: Estimate
    working_seconds: Estimate
    wall_seconds: Estimate
    read_tokens: Estimate
    answer_tokens: Estimate
    cost: Estimate
    cost_known: int


def selection(success_at: float = SUCCESS_AT) -> dict[str, str]:
    """By which rule an episode's score is taken from its submissions, for each figure."""
    return {
        "score": "last submission",
        "best": "best submission (the evaluator chose, so it is optimistic)",
        "success": f"last submission at {success_at:g} or more",
        "steps": "the whole episode",
    }


def summarize(
    arm: Arm,
    *,
    success_at: float = SUCCESS_AT,
    over: Level = "tasks",
    ks: Sequence[int] = (),
    seed: int = 0,
) -> Summary:
    """The figures of a run.

    Args:
        success_at: score from which an episode is a success.
        over: what the intervals speak of (`hpc.evaluation.bootstrap`).
        ks: of pass@k; none: powers of two up to the most seeds that all tasks have.
        seed: of the bootstrap.
    """

    def mean(of: Callable[[Result], float | None], bounds: tuple[float, float]) -> Estimate:
        known = [(result, value) for result in arm.results if (value := of(result)) is not None]
        columns = by_task((result, [value]) for result, value in known)
        return estimate(columns, over=over, bounds=bounds, seed=seed)

    counts = Counter((result.key.family, result.key.task) for result in arm.results)
    seeds = (min(counts.values(), default=0), max(counts.values(), default=0))
    passed = sum(result.score >= success_at for result in arm.results)
    return Summary(
        run=arm.name,
        episodes=len(arm.results),
        tasks=len(counts),
        seeds=seeds,
        statuses=dict(Counter(result.status for result in arm.results).most_common()),
        left_out=arm.reasons,
        score=mean(lambda result: result.score, SCORES),
        best=mean(lambda result: result.best, SCORES),
        success=wilson(passed, len(arm.results)),
        success_over_tasks=mean(lambda result: result.figure("success", success_at), SHARES),
        pass_at=[_pass_at(arm, k, success_at, seed) for k in ks or _powers(seeds[0])],
        steps=mean(lambda result: result.steps, AMOUNTS),
        working_seconds=mean(lambda result: result.working_seconds, AMOUNTS),
        wall_seconds=mean(lambda result: result.wall_seconds, AMOUNTS),
        read_tokens=mean(lambda result: result.read_tokens, AMOUNTS),
        answer_tokens=mean(lambda result: result.answer_tokens, AMOUNTS),
        cost=mean(lambda result: result.cost, AMOUNTS),
        cost_known=sum(result.cost is not None for result in arm.results),
    )


def parts(arm: Arm, by: By) -> Mapping[str, Arm]:
    """The run's episodes by task or by domain (the task's family), by name.

    What was left out comes along where it is known what it was.
    """

    def group(family: str, task: str) -> str:
        return f"{family}/{task}" if by == "task" else family

    results: dict[str, list[Result]] = defaultdict(list)
    for result in arm.results:
        results[group(result.key.family, result.key.task)].append(result)
    return {
        name: Arm(
            name=arm.name,
            results=results.get(name, []),
            left_out=[
                each for each in arm.left_out if each.key is not None and group(each.key.family, each.key.task) == name
            ],
        )
        for name in sorted(
            results.keys() | {group(each.key.family, each.key.task) for each in arm.left_out if each.key is not None}
        )
    }


def by_task(rows: Iterable[tuple[Result, Sequence[float]]]) -> list[Floats]:
    """For each task, in order of name, an array (episodes, columns) of its rows."""
    grouped: dict[tuple[str, str], list[Sequence[float]]] = defaultdict(list)
    for result, values in rows:
        grouped[result.key.family, result.key.task].append(values)
    return [np.asarray(grouped[task], dtype=np.float64) for task in sorted(grouped)]


def pass_at_k(episodes: int, successes: int, k: int) -> float:
    """The unbiased estimate of the chance that one of k episodes succeeds (Chen et al. 2021, arXiv
    2107.03374, equation 1): 1 - C(episodes - successes, k) / C(episodes, k), as a stable product.

    Raises:
        ValueError: k is not within 1 and ``episodes``.
    """
    if not 1 <= k <= episodes:
        raise ValueError(f"k is {k}, it must be within 1 and the {episodes} episodes")
    failures = episodes - successes
    if failures < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(failures + 1, episodes + 1)))


def _pass_at(arm: Arm, k: int, success_at: float, seed: int) -> PassAt:
    tasks = by_task((result, [result.figure("success", success_at)]) for result in arm.results)
    enough = [task for task in tasks if len(task) >= k]
    values = [np.array([[pass_at_k(len(task), int(task.sum()), k)]]) for task in enough]
    # over tasks alone: a draw of a task's seeds has seeds twice, of which pass@k would be biased
    share = estimate(values, over="tasks", bounds=SHARES, seed=seed)
    return PassAt(k=k, share=share, tasks=len(enough), too_few=len(tasks) - len(enough))


def _powers(most: int) -> list[int]:
    return [1 << power for power in range(most.bit_length())]
