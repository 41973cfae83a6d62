"""Detectors of loops: the same thing again, errors, empty polling, malformed answers.

Sources: the rules by which the action judge of the InnovatorBench evaluation reports calls an action
ineffective, the criteria of LIMI (arXiv 2509.17567) and Apollo (arXiv 2510.27630) made mechanical;
and what InnovatorBench (arXiv 2510.27598) reports of failing agents.
"""

from __future__ import annotations

from hpc.config.drift import ErrorStreakConfig, MalformedConfig, MonitoringConfig, RepetitionConfig
from hpc.drift.history import THINK, History, shorten, strength
from hpc.trajectories.records import DriftSignal, StepView


def repetition(history: History, config: RepetitionConfig) -> DriftSignal | None:
    """The same action with the same arguments brought the same observation.

    Criterion: the last step equals ``times`` - 1 others among the ``window`` last steps, with no
    new best since. Polling, thoughts and malformed answers have detectors of their own or none.

    Source: the judge's "blind retry", three or more equal failed observations.
    """
    if not history:
        return None
    last = history[-1]
    if last.polling or last.is_malformed or last.action == THINK:
        return None
    since = len(history) - history.since_best()
    same = [
        view.step
        for view in history.last_steps(min(config.window, since))
        if (view.action, view.arguments, view.observation) == (last.action, last.arguments, last.observation)
    ]
    if len(same) < 2:
        return None
    return DriftSignal(
        detector="repetition",
        score=strength(len(same) - 1, config.times - 1),
        step=last.step,
        reason=f"{len(same)} times {_act(last)} with the same result: {shorten(last.observation)}",
        evidence=same[::-1],
    )


def error_streak(history: History, config: ErrorStreakConfig) -> DriftSignal | None:
    """Errors in a row.

    Criterion: the last ``errors`` steps all failed. Thoughts and polls that did not fail neither
    count nor end the streak; malformed answers belong to `malformed`.

    Source: the judge's "retries without new information" and "fails undiagnosed".
    """
    failed: list[StepView] = []
    for view in reversed(history):
        if view.is_malformed:
            continue
        if view.is_error:
            failed.append(view)
        elif not (view.polling or view.action == THINK):
            break
    if not failed:
        return None
    return DriftSignal(
        detector="error_streak",
        score=strength(len(failed), config.errors),
        step=history[-1].step,
        reason=f"{_count(failed, 'error')} in a row; last: {_act(failed[0])}: {shorten(failed[0].observation)}",
        evidence=[view.step for view in reversed(failed)],
    )


def monitoring(history: History, config: MonitoringConfig) -> DriftSignal | None:
    """A monitoring deadlock: the agent only looks at running work, and the work does not move.

    Criterion: ``polls`` polling actions in a row, thoughts between them aside, none of which saw
    the job move. Waiting for a job that moves is no drift: half of all actions in research
    episodes are polls.

    Source: the judge's "monitoring deadlock", ten or more of sleep, check_session_idle,
    list_sessions and get_session_output in a row, genuine training waits exempt; "poor resource
    management" in InnovatorBench.
    """
    polls: list[StepView] = []
    for view in reversed(history):
        if view.action == THINK:
            continue
        if not view.polling or view.job_progressed:
            break
        polls.append(view)
    if not polls:
        return None
    waited = polls[0].working_seconds - polls[-1].working_seconds
    return DriftSignal(
        detector="monitoring",
        score=strength(len(polls), config.polls),
        step=history[-1].step,
        reason=(
            f"{_count(polls, 'look')} in a row at work that does not move ({waited:.0f} s); "
            f"last: {_act(polls[0])}: {shorten(polls[0].observation)}"
        ),
        evidence=[view.step for view in reversed(polls)],
    )


def malformed(history: History, config: MalformedConfig) -> DriftSignal | None:
    """Answers that are no action.

    Criterion: the last ``answers`` answers could not be read as an action.

    Source: the "null action" of ResearchGym (InnovatorBench), which the judge counts as ineffective.
    """
    answers: list[StepView] = []
    for view in reversed(history):
        if not view.is_malformed:
            break
        answers.append(view)
    if not answers:
        return None
    return DriftSignal(
        detector="malformed",
        score=strength(len(answers), config.answers),
        step=history[-1].step,
        reason=f"{_count(answers, 'malformed answer')} in a row; last: {shorten(answers[0].observation)}",
        evidence=[view.step for view in reversed(answers)],
    )


def _act(view: StepView) -> str:
    return f"{view.action}({shorten(view.arguments, 80)})"


def _count(views: list[StepView], noun: str) -> str:
    return f"{len(views)} {noun}" if len(views) == 1 else f"{len(views)} {noun}s"
