"""The monitor: detectors' signals in, at most one alert per step out."""

from __future__ import annotations

import math
from typing import Any

from hpc.config.drift import DriftConfig
from hpc.drift.detectors import LIMIT, drift_detectors
from hpc.drift.headway import Budget
from hpc.drift.history import History, exit_code, scaled
from hpc.drift.notices import ask, milestone
from hpc.trajectories.records import DriftSignal, StepView

MOST_EVIDENCE = 20
"""An alert names at most this many steps, the newest."""


class DriftMonitor:
    """Watches one episode (`hpc.agent.protocols.Watcher`). It never stops or slows the agent.

    - A detector alerts when its score reaches 0.5, its limit; the detectors that reached theirs at
      the same step share one alert.
    - Then it is silent until its score has fallen below ``release`` (hysteresis), or, with
      ``repeat_after``, until so many steps have passed; it always needs evidence newer than that
      of its last alert.
    - ``cooldown`` steps lie between two drift alerts, unless progress was made since the first.
    - Nothing is raised at a step that saw a running job move: waiting is no drift. It is raised
      later if it still holds.
    - The agent's own requests go before drift, milestones after it; neither knows the cool-down.

    The same steps always give the same alerts: to resume, make a new monitor and `observe` the
    stored steps again.

    Args:
        config: limits and switches.
        max_steps: the episode's budget in steps, positive.
        max_working_seconds: its budget in working time, positive.
    """

    def __init__(self, config: DriftConfig, *, max_steps: int, max_working_seconds: float) -> None:
        self._config = config
        self._history = History()
        self._detectors = drift_detectors(config, Budget(max_steps, max_working_seconds))
        self._score = 0.0
        self._silent: dict[str, int] = {}  # detector that alerted -> at which step, until released
        self._seen: dict[str, int] = {}  # detector that alerted -> its newest evidence then
        self._last_alert: int | None = None
        self._bests_at_alert = 0

    @property
    def score(self) -> float:
        """Drift after the last step, in [0, 1]: 1 - prod(1 - weight * score) over all detectors, so
        that several weak signs add up and 0.5 is about one detector at its limit."""
        return self._score

    def notes(self) -> dict[str, Any]:
        """Nothing arrives from outside (`hpc.drift.judge.JudgedMonitor` adds that)."""
        return {}

    def observe(self, view: StepView) -> DriftSignal | None:
        """Take one step in, in order; a signal when an alert is due now."""
        self._history.append(view)
        if not self._config.enabled:
            return None
        signals = self._drift_signals()
        if self._config.ask.enabled and (asked := ask(self._history, self._config.ask)):
            return asked
        if alert := self._drift_alert(view, signals):
            return alert
        passed = milestone(self._history, self._config.milestone) if self._config.milestone.enabled else None
        if passed is not None and self._is_new(passed):
            self._remember(passed)
            return passed
        return None

    def _drift_signals(self) -> list[DriftSignal]:
        """Every detector's signal, strongest first by weight; updates score and hysteresis."""
        weighted: list[tuple[float, DriftSignal]] = []
        scores: dict[str, float] = {}
        for detector in self._detectors:
            if signal := detector.detect(self._history):
                weighted.append((detector.weight * signal.score, signal))
                scores[signal.detector] = signal.score
        self._score = 1.0 - math.prod(1.0 - strength for strength, _ in weighted)
        weighted.sort(key=lambda pair: -pair[0])
        signals = [signal for _, signal in weighted]
        if self._config.combined_at is not None and len(signals) > 1:
            signals.append(self._combine(signals, self._config.combined_at))
            scores["combined"] = signals[-1].score
        for name in list(self._silent):
            if scores.get(name, 0.0) < self._config.release:
                del self._silent[name]
        return signals

    def _combine(self, signals: list[DriftSignal], limit: float) -> DriftSignal:
        """Several weak signs as one signal, scaled so that ``limit`` scores 0.5."""
        return DriftSignal(
            detector="combined",
            score=scaled(self._score, limit),
            step=signals[0].step,
            reason=f"several signs at once: {'; '.join(signal.reason for signal in signals[:3])}",
            evidence=sorted({step for signal in signals for step in signal.evidence}),
        )

    def _drift_alert(self, view: StepView, signals: list[DriftSignal]) -> DriftSignal | None:
        waiting = view.polling and view.job_progressed and exit_code(view.observation) is None
        if waiting or self._is_cooling(view):
            return None
        due = [signal for signal in signals if signal.score >= LIMIT and self._is_ready(signal, view)]
        if not due:
            return None
        for signal in due:
            self._silent[signal.detector] = view.step
            self._remember(signal)
        self._last_alert = view.step
        self._bests_at_alert = len(self._history.bests)
        first, *others = [signal for signal in due if signal.detector != "combined"] or due
        reason = first.reason + "".join(f". Also: {other.reason}" for other in others)
        return DriftSignal(
            detector=first.detector,
            score=first.score,
            step=view.step,
            reason=reason,
            evidence=first.evidence[-MOST_EVIDENCE:],
        )

    def _is_cooling(self, view: StepView) -> bool:
        if self._last_alert is None or len(self._history.bests) > self._bests_at_alert:
            return False
        return view.step - self._last_alert < self._config.cooldown

    def _is_ready(self, signal: DriftSignal, view: StepView) -> bool:
        if not self._is_new(signal):
            return False
        alerted_at = self._silent.get(signal.detector)
        if alerted_at is None:
            return True
        return self._config.repeat_after is not None and view.step - alerted_at >= self._config.repeat_after

    def _is_new(self, signal: DriftSignal) -> bool:
        before = self._seen.get(signal.detector)
        return before is None or signal.evidence[-1] > before

    def _remember(self, signal: DriftSignal) -> None:
        self._seen[signal.detector] = signal.evidence[-1]
