"""What is worth a human's look though nothing went astray: requests and milestones."""

from __future__ import annotations

from hpc.config.drift import AskConfig, MilestoneConfig
from hpc.drift.history import THINK, History, said, shorten
from hpc.trajectories.records import DriftSignal, StepView

ASK = "ask_human"
"""The action by which an agent asks for a human; a thought that begins with ``ask_human:`` as well."""

_LONGEST_QUESTION = 600


def ask(history: History, config: AskConfig) -> DriftSignal | None:
    """The agent asks for a human by itself.

    Criterion: the last step is the action ``ask_human``, or a thought that begins with
    ``ask_human:``, and none of the ``every`` - 1 steps before it asked too.

    Source: the human input of Apollo (arXiv 2510.27630), here at the agent's request.
    """
    if not history:
        return None
    last = history[-1]
    question = _question(last)
    if question is None or any(_question(view) is not None for view in history.last_steps(config.every)[1:]):
        return None
    return DriftSignal(
        detector="ask",
        score=1.0,
        step=last.step,
        reason=f"the agent asks: {shorten(question, _LONGEST_QUESTION) or '(nothing in particular)'}",
        evidence=[last.step],
        priority="ask",
    )


def milestone(history: History, config: MilestoneConfig) -> DriftSignal | None:
    """The best progress or score passed a mark.

    Criterion: some mark is reached; the evidence is the step that reached the highest of them.

    Source: the score scale of InnovatorBench (arXiv 2510.27598): baseline 0, reference 80.
    """
    passed = [mark for mark in config.marks if mark <= history.best]
    if not passed:
        return None
    highest = max(passed)
    position = next(position for position, best in history.bests if best >= highest)
    return DriftSignal(
        detector="milestone",
        score=1.0,
        step=history[-1].step,
        reason=f"passed {100 * highest:.0f} % of the way (now {100 * history.best:.0f} %)",
        evidence=[history[position].step],
        priority="milestone",
    )


def _question(view: StepView) -> str | None:
    if view.is_malformed:
        return None
    if view.action == ASK:
        return said(view.arguments)
    if view.action == THINK:
        thought = said(view.arguments)
        if thought.lower().startswith(f"{ASK}:"):
            return thought[len(ASK) + 1 :].strip()
    return None
