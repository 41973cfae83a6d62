"""The messages of the inbox socket: how `hpc inbox` asks and answers (docs/protocol.md).

Each request is answered with one `Answer` or `Reject` whose ``parent`` is the request's id. A request
may be repeated with the same id when no answer came.
"""

from __future__ import annotations

from typing import Any, Literal

from hpc.wire.codec import Codec
from hpc.wire.messages import Envelope, Reject

MAX_ANSWER = 16 * 1024 * 1024  # bytes

AnswerStatus = Literal["ok", "accepted", "duplicate", "too_late", "unknown", "not_open", "held", "failed"]


class ListAlerts(Envelope, frozen=True, kw_only=True):
    """Client -> router: the open alerts, or ``all`` of them; items are alert cards."""

    all: bool = False


class ListEpisodes(Envelope, frozen=True, kw_only=True):
    """Client -> router: every episode seen; items are episode cards."""


class ShowAlert(Envelope, frozen=True, kw_only=True):
    """Client -> router: one alert card, then a guidance card for each reply to it."""

    alert: str


class SendReply(Envelope, frozen=True, kw_only=True):
    """Client -> router: a reply, taken once per ``key``; the item is its guidance card.

    ``target`` is an alert, or an episode: then it answers the newest open alert, if there is one.
    ``replaces`` is the id or key of an earlier reply that this one corrects.
    """

    target: str
    key: str
    annotator: str
    text: str
    kind: Literal["knowledge", "strategy", "correction", "control"] = "strategy"
    control: Literal["pause", "resume", "stop"] | None = None
    valid_until_step: int | None = None
    valid_until: float | None = None
    replaces: str | None = None


class ClaimAlert(Envelope, frozen=True, kw_only=True):
    """Client -> router: this annotator will answer the alert; the item is its alert card."""

    alert: str
    annotator: str


class ReleaseAlert(Envelope, frozen=True, kw_only=True):
    """Client -> router: this annotator will not answer it after all; the item is its alert card."""

    alert: str
    annotator: str


class ResolveAlert(Envelope, frozen=True, kw_only=True):
    """Client -> router: close an alert without guidance."""

    alert: str
    annotator: str
    verdict: Literal["resolved", "false_alarm"] = "resolved"


class StopRouter(Envelope, frozen=True, kw_only=True):
    """Client -> router: end; nothing is lost, a later router goes on."""


class Answer(Envelope, frozen=True, kw_only=True):
    """Router -> client. ``status``: ok; accepted, duplicate, too_late, unknown (to a reply);
    unknown, not_open (to show, claim, release or resolve); held (somebody else has claimed it);
    failed (``reason`` says why)."""

    parent: str
    status: AnswerStatus
    reason: str = ""
    items: list[dict[str, Any]] = []


Request = ListAlerts | ListEpisodes | ShowAlert | SendReply | ClaimAlert | ReleaseAlert | ResolveAlert | StopRouter

REQUESTS: Codec[Request] = Codec(Request)
"""The codec of what the router receives on its inbox socket."""

ANSWERS: Codec[Answer | Reject] = Codec(Answer | Reject, limit=MAX_ANSWER)
"""The codec of what its clients receive."""
