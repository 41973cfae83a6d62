"""Alerts and episodes as a terminal shows them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hpc.router.desk import AlertCard, EpisodeCard, GuidanceCard

ALERT_COLUMNS = ["alert", "state", "owner", "priority", "detector", "score", "step", "count", "age", "reason"]
EPISODE_COLUMNS = ["episode", "state", "step", "drift", "score", "open alerts", "seen"]


def alert_cells(alert: AlertCard) -> list[str]:
    """One alert as a row under `ALERT_COLUMNS`."""
    from hpc.router.annotators.console import plain

    return [
        alert.alert,
        alert.state if alert.held is None else f"{alert.state}, held ({alert.held})",
        plain(alert.owner or ""),
        alert.priority,
        alert.detector,
        f"{alert.score:.2f}",
        str(alert.step) if alert.count == 1 else f"{alert.step}–{alert.last_step}",
        "" if alert.count == 1 else f"×{alert.count}",
        age(alert.last_at or alert.sent_at),
        plain(alert.reason),
    ]


def episode_cells(card: EpisodeCard) -> list[str]:
    """One episode as a row under `EPISODE_COLUMNS`."""
    score = "" if card.score is None else f"{card.score:.1f}"
    return [
        card.episode,
        card.state,
        str(card.step),
        f"{card.drift:.2f}",
        score,
        str(card.open_alerts),
        age(card.seen_at),
    ]


def alert_lines(alert: AlertCard, replies: Sequence[GuidanceCard]) -> list[str]:
    """One alert with its evidence and what became of the replies to it."""
    from hpc.router.annotators.console import plain

    span = f"at step {alert.step}" if alert.count == 1 else f"×{alert.count} at steps {alert.step}–{alert.last_step}"
    lines = [
        f"{alert.alert}  {alert.state}" + (f" by {alert.closed_by}" if alert.closed_by else ""),
        f"episode   {alert.episode}  task {alert.task}",
        f"why       {alert.reason}",
        f"          {alert.detector} {alert.score:.2f} {span}, {age(alert.last_at or alert.sent_at)} ago",
    ]
    if alert.merged_into is not None:
        lines.append(f"merged    into {alert.merged_into}")
    if alert.held is not None:
        lines.append(f"held      back from the channel: {_HELD[alert.held]}")
    if alert.owner is not None:
        until = f" until {clock(alert.claimed_until)}" if alert.claimed_until and alert.state == "open" else ""
        lines.append(f"claimed   by {alert.owner}{until}")
    if alert.escalated_to:
        lines.append(f"called    {', '.join(alert.escalated_to)}")
    for step in alert.evidence:
        lines += [
            f"step {step.step:<5}{step.action}",
            *(f"          | {line}" for line in step.observation.splitlines()),
        ]
    lines += [f"earlier   {text}" for text in alert.earlier_guidance]
    lines += [f"reply     {reply_line(given)}" for given in replies]
    return [plain(line) for line in lines]


_HELD = {"quiet": "quiet hours", "budget": "the hour's budget was spent", "queue": "too many were waiting"}


def reply_line(reply: GuidanceCard) -> str:
    """One reply: who, what, and how far it is."""
    at = f" at step {reply.applied_step}" if reply.applied_step is not None else ""
    limits = [f"until step {reply.valid_until_step}"] if reply.valid_until_step is not None else []
    limits += [f"until {clock(reply.valid_until)}"] if reply.valid_until is not None else []
    good = f" (valid {', '.join(limits)})" if limits else ""
    said = reply.text if reply.control is None else f"{reply.control} {reply.text}".strip()
    return f"{reply.annotator}: {said}  [{reply.state}{at}]{good}  {reply.guidance}"


def live_view(run: str, alerts: Sequence[AlertCard], episodes: Sequence[EpisodeCard], problem: str) -> RenderableType:
    """What `hpc inbox watch` shows: episodes in one line, open alerts as a table, trouble in red."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    states: dict[str, int] = {}
    for card in episodes:
        states[card.state] = states.get(card.state, 0) + 1
    counted = " · ".join(f"{count} {state}" for state, count in sorted(states.items()))
    listed = f"{len(alerts)} alert" + ("" if len(alerts) == 1 else "s")
    head = Text(f"{run}   {counted or 'no episodes yet'}   {listed}   {clock(time.time())}", style="bold")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ALERT_COLUMNS:
        table.add_column(column, no_wrap=column != "reason")
    for alert in alerts:
        table.add_row(*(Text(cell) for cell in alert_cells(alert)), style=_style(alert))
    return Group(head, Text(problem, style="red") if problem else table)


def _style(alert: AlertCard) -> str:
    if alert.state != "open" or alert.held is not None:
        return "dim"
    if alert.owner is not None:
        return "cyan"
    return {"ask": "bold yellow", "drift": "yellow", "milestone": ""}[alert.priority]


def age(at: float) -> str:
    """How long ago, in one short word."""
    seconds = max(0.0, time.time() - at)
    if seconds < 120:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}m" if seconds < 7200 else f"{seconds / 3600:.0f}h"


def clock(at: float) -> str:
    """A time as this machine's clock shows it; with the day where it is not today's."""
    here, today = time.localtime(at), time.localtime()
    same = here[:3] == today[:3]
    return time.strftime("%H:%M:%S" if same else "%Y-%m-%d %H:%M", here)
