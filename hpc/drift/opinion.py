"""Detectors that go by what models say: the agent's own log-probabilities, and a judge's verdicts.

Both are off unless a configuration switches them on. Pure, like all detectors: verdicts are part of
the steps (`hpc.trajectories.records.StepView.verdicts`); asking for them is `hpc.drift.judge`'s.
"""

from __future__ import annotations

import math
from statistics import fmean, stdev

from hpc.config.drift import JudgeConfig, LogprobConfig
from hpc.drift.history import History, scaled, shorten, strength
from hpc.trajectories.records import DriftSignal


def logprob(history: History, config: LogprobConfig) -> DriftSignal | None:
    """The model grows less sure of its own words.

    Criterion: the mean over the newest ``window`` steps of each answer's mean log-probability lies
    ``deviations`` standard errors below the mean of the ``baseline`` steps before them. The standard
    error is the baseline's standard deviation (at least ``floor``) / sqrt(``window``). Steps without
    log-probabilities are passed over. The negative mean log-probability of sampled tokens estimates the
    entropy of the model's answers, nats a token.

    Source: predictive uncertainty as a sign of error, after Malinin and Gales, "Uncertainty Estimation
    in Autoregressive Structured Prediction" (ICLR 2021).
    """
    found: list[tuple[int, float]] = []
    for view in reversed(history):
        if view.logprob is not None and math.isfinite(view.logprob):
            found.append((view.step, view.logprob))
            if len(found) == config.window + config.baseline:
                break
    if len(found) < config.window + config.baseline:
        return None
    now = fmean(value for _, value in found[: config.window])
    before = [value for _, value in found[config.window :]]
    error = max(stdev(before), config.floor) / math.sqrt(config.window)
    fall = (fmean(before) - now) / error
    if fall <= 0:
        return None
    steps = [step for step, _ in found[: config.window]]
    return DriftSignal(
        detector="logprob",
        score=strength(fall, config.deviations),
        step=history[-1].step,
        reason=(
            f"the model is less sure than it was: {now:.2f} nats a token over {config.window} steps, "
            f"{fmean(before):.2f} over the {config.baseline} before ({fall:.1f} standard errors)"
        ),
        evidence=steps[::-1],
    )


def judge(history: History, config: JudgeConfig) -> DriftSignal | None:
    """A judge says that the agent drifts.

    Criterion: the newest verdict that arrived within the last ``every`` steps says "drifting" with a
    confidence of at least ``confidence``. What is no verdict (malformed, late, no answer) is passed
    over; a verdict "not drifting" ends the sign.

    Source: LLM-as-a-judge (Zheng et al., arXiv 2306.05685); Apollo's judge of trajectories.
    """
    verdicts = [
        verdict
        for view in history.last_steps(config.every)
        for verdict in view.verdicts
        if not verdict.problem and verdict.asked <= view.step
    ]
    if not verdicts:
        return None
    newest = max(verdicts, key=lambda verdict: verdict.asked)
    if not newest.drifting or not 0 < newest.confidence <= 1:
        return None
    return DriftSignal(
        detector="judge",
        score=scaled(newest.confidence, config.confidence),
        step=history[-1].step,
        reason=f"a judge that saw the steps up to {newest.asked} says: {shorten(newest.reason, 300)}",
        evidence=[newest.asked],
    )
