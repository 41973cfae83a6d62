"""How well annotators and agents work together, in figures. Pure.

All seconds are wall-clock seconds; shares are in [0, 1]; a figure without data is None. Alerts that were
merged into another count with that one; milestones are notices and count nowhere but in their own
detector's ``alerts``. docs/operations.md explains each figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

ENGAGED_SECONDS = 300.0
"""Longest time that one answer is taken to have cost; whoever takes longer was away meanwhile."""

DEALT_WITH = ("answered", "resolved", "false_alarm")


class AlertFact(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of an alert for good; the fields are those of `hpc.router.desk.AlertCard`."""

    alert: str
    episode: str
    detector: str
    priority: str
    step: int
    score: float
    sent_at: float
    state: str
    merged_into: str | None = None
    held: str | None = None
    closed_by: str | None = None
    closed_at: float | None = None


class ReplyFact(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a reply for good; the fields are those of `hpc.router.desk.GuidanceCard`."""

    guidance: str
    episode: str
    alert: str | None
    annotator: str
    kind: str
    sent_at: float
    state: str
    delivered_at: float | None = None
    applied_at: float | None = None
    applied_step: int | None = None


class Annals(msgspec.Struct, frozen=True, kw_only=True):
    """All alerts and replies of a run from its first Hello to ``until`` (Unix seconds)."""

    run: str
    since: float
    until: float
    alerts: list[AlertFact]
    replies: list[ReplyFact]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run, or of one detector."""

    alerts: int
    merged: int
    held: int
    open: int
    answered: int
    resolved: int
    false_alarms: int
    expired: int
    alerts_per_hour: float | None
    answered_share: float | None
    false_alarm_share: float | None
    replies: int
    applied: int
    acceptance: float | None
    reply_p50: float | None
    reply_p95: float | None
    apply_p50: float | None
    apply_p95: float | None
    annotator_seconds: float
    seconds_per_applied: float | None
    alerts_per_applied: float | None


class AnnotatorFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one annotator. ``closed``: alerts closed without a reply."""

    replies: int
    unprompted: int
    applied: int
    acceptance: float | None
    closed: int
    false_alarms: int
    reply_p50: float | None
    reply_p95: float | None
    apply_p50: float | None
    annotator_seconds: float
    seconds_per_applied: float | None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `summarize` finds."""

    run: str
    since: float
    until: float
    total: Figures
    detectors: dict[str, Figures]
    annotators: dict[str, AnnotatorFigures]


class _Deed(msgspec.Struct, frozen=True):
    """One thing an annotator did, and how much of their time it took."""

    annotator: str
    alert: str | None
    seconds: float
    reply: ReplyFact | None


def summarize(annals: Annals) -> Summary:
    """The figures of a run."""
    alerts = {alert.alert: alert for alert in annals.alerts}
    replies = [reply for reply in annals.replies if reply.kind != "control"]
    deeds = _deeds(alerts, replies)
    hours = max(0.0, annals.until - annals.since) / 3600.0

    def figures(chosen: Sequence[AlertFact], own: Sequence[ReplyFact], done: Sequence[_Deed]) -> Figures:
        return _figures(chosen, own, done, alerts, hours)

    counted = [alert for alert in annals.alerts if alert.priority != "milestone"]
    detectors = {}
    for detector in sorted({alert.detector for alert in annals.alerts}):
        names = {alert.alert for alert in annals.alerts if alert.detector == detector}
        detectors[detector] = figures(
            [alert for alert in annals.alerts if alert.alert in names],
            [reply for reply in replies if reply.alert in names],
            [deed for deed in deeds if deed.alert in names],
        )
    people = sorted({deed.annotator for deed in deeds})
    return Summary(
        run=annals.run,
        since=annals.since,
        until=annals.until,
        total=figures(counted, replies, deeds),
        detectors=detectors,
        annotators={
            person: _annotator([deed for deed in deeds if deed.annotator == person], alerts) for person in people
        },
    )


def _figures(
    chosen: Sequence[AlertFact],
    replies: Sequence[ReplyFact],
    deeds: Sequence[_Deed],
    alerts: dict[str, AlertFact],
    hours: float,
) -> Figures:
    own = [alert for alert in chosen if alert.merged_into is None]

    def count(state: str) -> int:
        return sum(alert.state == state for alert in own)

    applied = sum(reply.state == "applied" for reply in replies)
    seconds = sum(deed.seconds for deed in deeds)
    waits = _reply_seconds(replies, alerts)
    uses = _apply_seconds(replies)
    return Figures(
        alerts=len(own),
        merged=len(chosen) - len(own),
        held=sum(alert.held is not None for alert in own),
        open=count("open"),
        answered=count("answered"),
        resolved=count("resolved"),
        false_alarms=count("false_alarm"),
        expired=count("expired"),
        alerts_per_hour=len(own) / hours if hours else None,
        answered_share=_share(count("answered"), len(own)),
        false_alarm_share=_share(count("false_alarm"), sum(count(state) for state in DEALT_WITH)),
        replies=len(replies),
        applied=applied,
        acceptance=_acceptance(replies),
        reply_p50=percentile(waits, 50),
        reply_p95=percentile(waits, 95),
        apply_p50=percentile(uses, 50),
        apply_p95=percentile(uses, 95),
        annotator_seconds=seconds,
        seconds_per_applied=_share(seconds, applied),
        alerts_per_applied=_share(len(own), applied),
    )


def _annotator(deeds: Sequence[_Deed], alerts: dict[str, AlertFact]) -> AnnotatorFigures:
    replies = [deed.reply for deed in deeds if deed.reply is not None]
    closings = [alerts[deed.alert] for deed in deeds if deed.reply is None and deed.alert is not None]
    applied = sum(reply.state == "applied" for reply in replies)
    seconds = sum(deed.seconds for deed in deeds)
    waits = _reply_seconds(replies, alerts)
    return AnnotatorFigures(
        replies=len(replies),
        unprompted=sum(reply.alert is None for reply in replies),
        applied=applied,
        acceptance=_acceptance(replies),
        closed=len(closings),
        false_alarms=sum(alert.state == "false_alarm" for alert in closings),
        reply_p50=percentile(waits, 50),
        reply_p95=percentile(waits, 95),
        apply_p50=percentile(_apply_seconds(replies), 50),
        annotator_seconds=seconds,
        seconds_per_applied=_share(seconds, applied),
    )


def _deeds(alerts: dict[str, AlertFact], replies: Iterable[ReplyFact]) -> list[_Deed]:
    """What annotators did, each thing with its cost: the time since the alert came or since they last did
    something, whichever is shorter, and at most `ENGAGED_SECONDS`."""
    events: list[tuple[float, str, str | None, ReplyFact | None]] = [
        (reply.sent_at, reply.annotator, reply.alert, reply) for reply in replies
    ]
    events += [
        (alert.closed_at, alert.closed_by, alert.alert, None)
        for alert in alerts.values()
        if alert.state in ("resolved", "false_alarm") and alert.closed_by is not None and alert.closed_at is not None
    ]
    last: dict[str, float] = {}
    deeds = []
    for at, annotator, name, reply in sorted(events, key=lambda event: event[0]):
        begun = [last[annotator]] if annotator in last else []
        if name in alerts:
            begun.append(alerts[name].sent_at)
        seconds = min(max(0.0, at - max(begun)), ENGAGED_SECONDS) if begun else ENGAGED_SECONDS
        deeds.append(_Deed(annotator, name if name in alerts else None, seconds, reply))
        last[annotator] = at
    return deeds


def _reply_seconds(replies: Iterable[ReplyFact], alerts: dict[str, AlertFact]) -> list[float]:
    """From each alert to the first of these replies to it."""
    first: dict[str, float] = {}
    for reply in replies:
        if reply.alert in alerts:
            first[reply.alert] = min(reply.sent_at, first.get(reply.alert, reply.sent_at))
    return [max(0.0, at - alerts[name].sent_at) for name, at in first.items()]


def _apply_seconds(replies: Iterable[ReplyFact]) -> list[float]:
    """From each reply until it entered its agent's context."""
    return [
        max(0.0, reply.applied_at - reply.sent_at)
        for reply in replies
        if reply.state == "applied" and reply.applied_at is not None
    ]


def _acceptance(replies: Sequence[ReplyFact]) -> float | None:
    """Applied among the replies whose fate is known; one that its author replaced is none of them."""
    known = sum(reply.state in ("applied", "expired", "too_late") for reply in replies)
    return _share(sum(reply.state == "applied" for reply in replies), known)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The percentile with linear interpolation between neighbours (Hyndman and Fan 1996, type 7)."""
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100.0
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
