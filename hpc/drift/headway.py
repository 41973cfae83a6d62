"""Detectors of missing headway: nothing new, failing at the same place, budget ahead of progress.

Sources as in `hpc.drift.loops`.
"""

from __future__ import annotations

import re

import msgspec

from hpc.config.drift import BudgetBurnConfig, FailureStreakConfig, NoProgressConfig
from hpc.drift.history import THINK, History, exit_code, mask, output_lines, shorten, strength
from hpc.trajectories.records import DriftSignal, StepView

PLACE_LINES = 3
"""A failure's place is told by so many last lines of its observation."""
COMPARED = 1000
"""Characters of arguments and of a place that are compared; whole files may be arguments."""


class Budget(msgspec.Struct, frozen=True):
    """What an episode may use: steps, and seconds of working time; both positive."""

    max_steps: int
    max_working_seconds: float

    def used(self, view: StepView) -> float:
        """Share used after ``view``: of steps or of working time, whichever is larger."""
        return max(view.step / self.max_steps, view.working_seconds / self.max_working_seconds)


def no_progress(history: History, config: NoProgressConfig) -> DriftSignal | None:
    """Nothing new for long.

    Criterion: ``steps`` steps since the newest best progress or score (since the start when
    nothing was measured). Looks at a job that moves are not counted.

    Source: the judge's "effective": new information, a known issue fixed or a plan carried out.
    """
    start = history.since_best()
    since = [view.step for view in history[start:] if not (view.polling and view.job_progressed)]
    if not since:
        return None
    what = f"nothing beyond {100 * history.best:.0f} %" if history.best else "no measured progress"
    return DriftSignal(
        detector="no_progress",
        score=strength(len(since), config.steps),
        step=history[-1].step,
        reason=f"{len(since)} steps (since step {since[0]}) brought {what}",
        evidence=since if len(since) == 1 else [since[0], since[-1]],
    )


def failure_streak(history: History, config: FailureStreakConfig) -> DriftSignal | None:
    """Attempt after attempt fails at the same place.

    Criterion: ``attempts`` failed attempts among the ``window`` last steps: the same action name,
    with whatever arguments, whose observations say the same apart from numbers. A new best, a
    success of the same attempt or its failing at another place begins a new streak; other actions
    in between change nothing. An attempt failed when it is an error, exits with another code than
    0 or matches ``pattern``; looking at one failed job twice is one attempt.

    Source: the judge's "fails undiagnosed" and "retries without new information"; the fragile
    algorithm-related work that InnovatorBench reports.
    """
    streaks: dict[tuple[str, str], list[StepView]] = {}
    stuck_at: dict[tuple[str, str], tuple[str, str]] = {}  # attempt -> where it failed last
    looked_at: tuple[str, str] | None = None  # the failed job that the polls since are about
    window = min(config.window, len(history) - history.since_best() + 1)  # with the step of the best itself
    for view in reversed(history.last_steps(window)):
        if view.is_malformed or view.action == THINK:
            continue
        failure = _failure(view, config.pattern)
        if not view.polling:
            looked_at = None
        if failure is None:
            if not view.polling:
                streaks.pop(stuck_at.pop(_attempt(view), ("", "")), None)
            continue
        place = (view.action, mask(failure[-COMPARED:]))
        if (before := stuck_at.get(_attempt(view))) not in (None, place):
            streaks.pop(before, None)
        stuck_at[_attempt(view)] = place
        if looked_at != place:
            streaks.setdefault(place, []).append(view)
        looked_at = place if view.polling else None
    if not streaks:
        return None
    failed = max(streaks.values(), key=lambda streak: (len(streak), streak[-1].step))
    steps = [view.step for view in failed]
    count = "1 attempt" if len(steps) == 1 else f"{len(steps)} attempts in a row"
    where = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    words = shorten(_failure(failed[-1], config.pattern) or "")
    return DriftSignal(
        detector="failure_streak",
        score=strength(len(failed), config.attempts),
        step=history[-1].step,
        reason=f"{count} failed at the same place ({failed[0].action}, {where}); last: {words}",
        evidence=steps,
    )


def budget_burn(history: History, config: BudgetBurnConfig, budget: Budget) -> DriftSignal | None:
    """The budget runs ahead of the progress.

    Criterion: the used share of the budget exceeds the best progress (or score / 100) by ``lead``.
    What was never measured counts as 0: half a budget without any result is worth a look.

    Source: "impatience" and "poor resource management" in InnovatorBench, whose tasks have a
    working time of 6 to 48 hours and at most 4,000 steps.
    """
    if not history:
        return None
    used = budget.used(history[-1])
    if not used > history.best:
        return None
    return DriftSignal(
        detector="budget_burn",
        score=strength(used - history.best, config.lead),
        step=history[-1].step,
        reason=f"{100 * used:.0f} % of the budget is used, the best result so far is at {100 * history.best:.0f} %",
        evidence=[history[-1].step],
    )


def _attempt(view: StepView) -> tuple[str, str]:
    """What counts as the same attempt: the action and its arguments apart from numbers."""
    return view.action, mask(view.arguments[:COMPARED])


def _failure(view: StepView, pattern: str) -> str | None:
    """What a failed attempt says of where it failed; None when it did not fail.

    A failure without any output is told apart by the arguments.
    """
    if pattern and re.search(pattern, view.observation, re.MULTILINE):
        return "\n".join(line for line in output_lines(view.observation) if re.search(pattern, line))
    if view.is_error or exit_code(view.observation) not in (None, 0):
        return "\n".join(output_lines(view.observation)[-PLACE_LINES:]) or view.arguments
    return None
