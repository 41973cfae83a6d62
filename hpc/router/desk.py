"""What a frontend (Slack, console) and the router's core want of each other.

The core implements `Desk` on its journal; a frontend pulls `Post`s from it and hands replies in.
Everything is durable when a method returns, so a frontend may acknowledge to Slack right after.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from hpc.wire.messages import StepBrief

Verdict = Literal["accepted", "duplicate", "too_late", "unknown"]
"""Of a reply: accepted for delivery; seen before; its episode has ended; no such episode."""


class EpisodeCard(msgspec.Struct, frozen=True, kw_only=True):
    """An episode as the state board shows it. ``thread`` is the frontend's own reference."""

    episode: str
    run: str
    index: int
    task: str
    state: str
    step: int
    drift: float
    score: float | None
    open_alerts: int
    seen_at: float
    thread: str | None = None


class AlertCard(msgspec.Struct, frozen=True, kw_only=True):
    """An alert as an annotator sees it. ``state``: open, answered, resolved, false_alarm, expired."""

    alert: str
    episode: str
    run: str
    task: str
    detector: str
    score: float
    step: int
    reason: str
    priority: Literal["ask", "drift", "milestone"]
    evidence: list[StepBrief]
    sent_at: float
    state: str
    earlier_guidance: list[str] = []


class GuidanceCard(msgspec.Struct, frozen=True, kw_only=True):
    """A reply on its way. ``key`` is the frontend's id of it (in Slack ``channel:ts``)."""

    guidance: str
    key: str
    episode: str
    alert: str | None
    annotator: str
    text: str
    sent_at: float
    delivered_at: float | None
    applied_at: float | None
    applied_step: int | None
    state: Literal["queued", "delivered", "applied", "too_late"]


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """Something the frontend must publish, once, in order of ``priority`` (small first) then age.

    ``kind``: thread (open the episode's thread), alert, receipt (delivered / applied / too_late of
    one guidance), board (the thread's parent shows a new state; only the newest counts).
    ``attempted_at`` is set when a publication was begun and its result is unknown: look before
    publishing again.
    """

    post: str
    kind: Literal["thread", "alert", "receipt", "board"]
    episode: str
    priority: int
    attempted_at: float | None = None
    alert: str | None = None
    guidance: str | None = None
    status: Literal["delivered", "applied", "too_late"] | None = None


class Desk(Protocol):
    """The router's core as a frontend sees it. Synchronous methods are short and durable."""

    async def wait_posts(self, limit: int = 20) -> list[Post]:
        """The most urgent posts that are due; waits until there is one."""
        ...

    def begin_post(self, post: str) -> None:
        """Note that publication starts now (before the HTTP call)."""
        ...

    def finish_post(self, post: str, reference: str) -> None:
        """Note the published message. For kind "thread" ``reference`` becomes the episode's thread."""
        ...

    def drop_post(self, post: str, why: str) -> None:
        """Give a post up: it can never succeed."""
        ...

    def episode(self, episode: str) -> EpisodeCard | None: ...

    def episodes(self) -> list[EpisodeCard]: ...

    def alert(self, alert: str) -> AlertCard | None: ...

    def alerts(self, *, open_only: bool = True) -> list[AlertCard]: ...

    def guidance(self, guidance: str) -> GuidanceCard | None: ...

    def episode_of_thread(self, thread: str) -> str | None: ...

    def open_threads(self) -> list[tuple[str, str]]:
        """(thread, cursor) of each episode that may still get replies; cursor "" at first."""
        ...

    def advance_cursor(self, thread: str, cursor: str) -> None: ...

    def take_reply(
        self,
        *,
        key: str,
        episode: str,
        alert: str | None,
        annotator: str,
        text: str,
        sent_at: float,
        kind: Literal["knowledge", "strategy", "correction", "control"] = "strategy",
        control: Literal["pause", "resume", "stop"] | None = None,
    ) -> Verdict:
        """Take a reply in, once per ``key``. With ``alert`` None it belongs to the episode's newest
        open alert, if there is one."""
        ...

    def resolve(self, alert: str, annotator: str, verdict: Literal["resolved", "false_alarm"]) -> bool:
        """Close an alert without guidance; False when it is not open."""
        ...


class Frontend(Protocol):
    """A way to meet annotators."""

    async def run(self, desk: Desk) -> None:
        """Publish posts and take replies in until cancelled.

        Raises:
            AnnotatorError: the frontend can never work (bad token, missing scope).
        """
        ...
