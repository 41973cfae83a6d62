"""Hand-made histories."""

from __future__ import annotations

import json
from typing import Any

from hpc.supervision.history import Past
from hpc.trajectories.records import AlertRaised, GuidanceApplied, StepView


def a_step(step: int, action: str, observation: str = "ok", /, **fields: Any) -> StepView:
    """A step; ``arguments`` is a dict."""
    arguments = json.dumps(fields.pop("arguments", {}), sort_keys=True)
    return StepView(step=step, action=action, arguments=arguments, observation=observation, **fields)


def a_past(*steps: StepView, guidance: Any = (), alerts: Any = (), abandoned: Any = ()) -> Past:
    return Past(list(steps), list(guidance), list(alerts), frozenset(abandoned))


def an_alert(step: int, evidence: list[int], id: str = "a1") -> AlertRaised:
    return AlertRaised(id=id, detector="stuck", score=0.9, step=step, reason="why", evidence=evidence)


def guidance(applied_step: int, alert: str | None = "a1", kind: str = "correction") -> GuidanceApplied:
    return GuidanceApplied(
        id="g1",
        alert_id=alert,
        annotator="ada",
        text="do it otherwise",
        kind=kind,
        sent_at=0.0,
        delivered_at=0.0,
        applied_at=0.0,
        applied_step=applied_step,
    )
