"""Steps as the drift detectors see them, made of records: live, on resume and in a replay alike."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from hpc.trajectories.records import VERDICTS, ActionTaken, Observed, Record, StepView, Verdict


def view_of(taken: ActionTaken, observed: Observed, *, score: float | None) -> StepView:
    """One finished step.

    Args:
        taken: the action.
        observed: what it led to.
        score: the evaluator's latest score after this step, in [0, 100], if there is one.
    """
    observation = observed.observation
    return StepView(
        step=observed.step,
        action=taken.action.name,
        arguments=json.dumps(taken.action.arguments, sort_keys=True, ensure_ascii=False),
        observation=observation.text,
        is_error=observation.is_error,
        is_malformed=bool(taken.action.problem),
        polling=observation.polling,
        job_progressed=observation.job_progressed,
        progress=observation.progress,
        score=score,
        tokens=len(taken.token_ids),
        working_seconds=observed.working_seconds,
        logprob=sum(taken.logprobs) / len(taken.logprobs) if taken.logprobs else None,
        verdicts=read_verdicts(observation.info.get(VERDICTS)),
    )


def views_of(records: Iterable[Record]) -> list[StepView]:
    """The finished steps of a trajectory, in order; one that was cut off is left out."""
    views: list[StepView] = []
    taken: ActionTaken | None = None
    score: float | None = None
    for record in records:
        if isinstance(record, ActionTaken):
            taken = record
        elif isinstance(record, Observed) and taken is not None:
            if record.observation.evaluation is not None:
                score = record.observation.evaluation.score
            views.append(view_of(taken, record, score=score))
    return views


def read_verdicts(stored: Any) -> tuple[Verdict, ...]:
    """Verdicts as stored; what is none (an environment may use the key for itself) counts for nothing."""
    if not stored:
        return ()
    try:
        return msgspec.convert(stored, tuple[Verdict, ...])
    except msgspec.ValidationError:
        return ()
