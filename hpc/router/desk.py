"""What a frontend (Slack, console) and the router's core want of each other.

The core implements `Desk` on its journal; a frontend pulls `Post`s from it and hands replies in.
Everything is durable when a method returns, so a frontend may acknowledge to Slack right after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from hpc.wire.messages import StepBrief

Verdict = Literal["accepted", "duplicate", "too_late", "unknown"]
"""Of a reply: accepted for delivery; seen before; its episode has ended; no such episode."""


ClaimResult = Literal["claimed", "held", "closed", "unknown"]
"""Of a claim: the alert is the annotator's; somebody else's; closed already; no such alert."""

Receipt = Literal["delivered", "applied", "too_late", "expired", "superseded"]
"""What an annotator is told about a reply. The last four are final: it entered the agent's context; its
episode has ended; it was too old when the agent could have read it; a newer text took its place first."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a claim, and whose the alert is until when (Unix seconds) if it is anybody's."""

    result: ClaimResult
    owner: str | None = None
    until: float | None = None


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
    """An alert as an annotator sees it.

    ``state``: open, answered, resolved, false_alarm, expired, or merged (into the open alert
    ``merged_into``, which any reply to it answers). Of an alert that others were merged into, ``count``
    is how many it stands for; ``reason``, ``score`` and ``evidence`` are the newest one's, ``step`` is
    the first one's, ``last_step`` and ``last_at`` the newest one's.

    ``owner`` has claimed it until ``claimed_until`` (of a closed one: had claimed it); anybody may answer
    all the same, and ``closed_by`` is who did. ``held`` says why it was not shown by itself but left
    to a digest. ``reference`` is the frontend's own name of its message.
    """

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
    owner: str | None = None
    claimed_until: float | None = None
    count: int = 1
    last_step: int = 0
    last_at: float = 0.0
    merged_into: str | None = None
    held: Literal["quiet", "budget", "queue"] | None = None
    escalated_to: list[str] = []
    closed_by: str | None = None
    closed_at: float | None = None
    reference: str | None = None


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
    state: Literal["queued", "delivered", "applied", "too_late", "expired", "superseded"]
    kind: Literal["knowledge", "strategy", "correction", "control"] = "strategy"
    control: Literal["pause", "resume", "stop"] | None = None
    valid_until_step: int | None = None
    valid_until: float | None = None
    replaces: str | None = None


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """Something the frontend must publish, once, in order of ``priority`` (small first) then age.

    ``kind``:

    - thread: open the episode's thread;
    - alert: show ``alert`` in it; the reference becomes the alert's;
    - update: the message of ``alert`` (``AlertCard.reference``) shows a new state: claimed, released,
      merged, answered, closed; only the newest counts;
    - escalation: call ``target`` (a user or a user group) to ``alert``, in the episode's thread;
    - digest: list `Desk.digest`, what was held back, for all to see; of no episode (``episode`` is "")
      and in no thread;
    - receipt: what became of ``guidance`` (``status``);
    - board: the thread's parent shows a new state; only the newest counts.

    ``attempted_at`` is set when a publication was begun and its result is unknown: look before
    publishing again.
    """

    post: str
    kind: Literal["thread", "alert", "update", "escalation", "digest", "receipt", "board"]
    episode: str
    priority: int
    attempted_at: float | None = None
    alert: str | None = None
    guidance: str | None = None
    status: Receipt | None = None
    target: str | None = None


class Desk(Protocol):
    """The router's core as a frontend sees it. Synchronous methods are short and durable."""

    async def wait_posts(self, limit: int = 20) -> list[Post]:
        """The most urgent posts that are due; waits until there is one."""
        ...

    def begin_post(self, post: str) -> None:
        """Note that publication starts now (before the HTTP call)."""
        ...

    def finish_post(self, post: str, reference: str) -> None:
        """Note the published message. For kind "thread" ``reference`` becomes the episode's thread, for
        kind "alert" the alert's reference."""
        ...

    def finish_posts(self, references: Mapping[str, str]) -> None:
        """`finish_post` for many at once: a post's name -> its reference."""
        ...

    def drop_post(self, post: str, why: str) -> None:
        """Give a post up: it can never succeed."""
        ...

    def episode(self, episode: str) -> EpisodeCard | None: ...

    def episodes(self) -> list[EpisodeCard]: ...

    def alert(self, alert: str) -> AlertCard | None: ...

    def alerts(self, *, open_only: bool = True) -> list[AlertCard]: ...

    def digest(self, post: str) -> list[AlertCard]:
        """What a post of kind "digest" lists, oldest first; some may be closed by now."""
        ...

    def guidance(self, guidance: str) -> GuidanceCard | None: ...

    def guidance_of_key(self, key: str) -> GuidanceCard | None:
        """The reply that the frontend knows as ``key``."""
        ...

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
        valid_until_step: int | None = None,
        valid_until: float | None = None,
        replaces: str | None = None,
    ) -> Verdict:
        """Take a reply in, once per ``key``. With ``alert`` None it belongs to the episode's newest
        open alert, if there is one.

        The agent does not apply it after a step beyond ``valid_until_step`` nor after ``valid_until``
        (Unix seconds): receipt "expired". ``replaces`` is the key (or the id) of an earlier reply that
        this one corrects, such as the first text of an edited message: where that one has not entered
        the agent's context yet, this one takes its place (receipt "superseded" of the earlier one);
        else it goes out beside it.
        """
        ...

    def claim(self, alert: str, annotator: str) -> Claim:
        """Say that ``annotator`` will answer: the first claim wins, for the configured time; claiming
        one's own alert again prolongs it. Replies of others are taken all the same."""
        ...

    def release(self, alert: str, annotator: str) -> bool:
        """Give one's claim up; False when it is not this annotator's, or the alert is closed."""
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
