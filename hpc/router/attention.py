"""When annotators are called: quiet hours, the alert budget, digests and escalation. Pure.

Times are Unix seconds; quiet hours follow the clock on the wall of the configured time zone, across
midnight and across changes to and from summer time.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from hpc.config.attention import DAYS, AttentionConfig, BudgetConfig, QuietConfig, QuietWindow, zone

HOUR = 3600.0

Hold = Literal["quiet", "budget", "queue"]
"""Why an alert is not shown by itself: quiet hours, the hour's budget is spent, too many wait."""

Priority = Literal["ask", "drift", "milestone"]


class HeldBack(msgspec.Struct, frozen=True):
    """Open alerts that were held back for one reason and that no digest has listed."""

    why: Hold
    count: int
    since: float  # when the oldest of them came


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that was shown and is neither answered nor claimed.

    ``since``: when it was shown, or last released, or last escalated; ``escalated_to``: who was
    called for it already.
    """

    alert: str
    since: float
    escalated_to: Sequence[str]


def quiet_intervals(quiet: QuietConfig, since: float, until: float) -> list[tuple[float, float]]:
    """The quiet times that touch [``since``, ``until``], whole, in order and without overlaps.

    A window whose start the clocks skip begins when they have jumped; one whose start comes twice
    begins at the first time.
    """
    if not quiet.windows:
        return []
    clock = zone(quiet.timezone)
    day = datetime.datetime.fromtimestamp(since, clock).date() - datetime.timedelta(days=2)
    last = datetime.datetime.fromtimestamp(until, clock).date()
    found: list[tuple[float, float]] = []
    while day <= last:
        found += [_interval(window, day, clock) for window in quiet.windows if DAYS[day.weekday()] in window.days]
        day += datetime.timedelta(days=1)
    merged: list[tuple[float, float]] = []
    for start, end in sorted(found):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return [(start, end) for start, end in merged if start <= until and end > since]


def _interval(window: QuietWindow, day: datetime.date, clock: datetime.tzinfo) -> tuple[float, float]:
    start, end = datetime.time.fromisoformat(window.start), datetime.time.fromisoformat(window.end)
    last = day if end > start else day + datetime.timedelta(days=1)
    return (
        datetime.datetime.combine(day, start, clock).timestamp(),
        datetime.datetime.combine(last, end, clock).timestamp(),
    )


def is_quiet(quiet: QuietConfig, now: float) -> bool:
    """Whether nobody is to be disturbed at ``now``; a window's start belongs to it, its end does not."""
    return bool(quiet.windows) and any(start <= now < end for start, end in quiet_intervals(quiet, now, now))


def awake_seconds(quiet: QuietConfig, since: float, until: float) -> float:
    """Seconds between two times that are not quiet."""
    if until <= since:
        return 0.0
    asleep = sum(min(end, until) - max(start, since) for start, end in quiet_intervals(quiet, since, until))
    return until - since - asleep


def hold(attention: AttentionConfig, priority: Priority, now: float, *, shown: int, queued: int) -> Hold | None:
    """Why a new alert is held back; None where it is shown at once.

    Args:
        shown: how many drift alerts of the last hour were shown by themselves.
        queued: how many alerts wait to be published.
    """
    if is_quiet(attention.quiet, now) and (priority != "ask" or attention.quiet.hold_asks):
        return "quiet"
    if priority == "ask":
        return None
    budget = attention.budget
    if 0 < budget.queue <= queued:
        return "queue"
    if priority == "drift" and 0 < budget.alerts_per_hour <= shown:
        return "budget"
    return None


def digest_due(
    budget: BudgetConfig,
    quiet: QuietConfig,
    now: float,
    *,
    held: Sequence[HeldBack],
    last_digest: float | None,
) -> bool:
    """Whether what is held back is to be listed now. Never in quiet hours, at once after them.

    Args:
        held: what is held back, by reason.
        last_digest: when the last digest was made.
    """
    if not held or is_quiet(quiet, now):
        return False
    if any(group.why == "quiet" for group in held):
        return True
    since = max(min(group.since for group in held), last_digest or 0.0)
    wait = 60.0 * budget.digest_minutes
    return now - since >= (wait if sum(group.count for group in held) <= budget.digest_alerts else wait / 6)


def escalations_due(attention: AttentionConfig, waiting: Iterable[Waiting], now: float) -> list[tuple[str, str]]:
    """(alert, whom to call now). Nobody is called twice for an alert, and none in quiet hours."""
    quiet, escalation = attention.quiet, attention.escalation
    if not escalation.to or is_quiet(quiet, now):
        return []
    due = []
    for alert in waiting:
        following = next((target for target in escalation.to if target not in alert.escalated_to), None)
        if following is not None and awake_seconds(quiet, alert.since, now) >= 60.0 * escalation.minutes:
            due.append((alert.alert, following))
    return due
