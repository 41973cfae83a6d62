"""The messages of the guidance protocol (docs/protocol.md is authoritative).

Map-encoded msgpack, one message a frame, told apart by ``type``. Unknown fields are ignored, an
unknown type or a newer major version is answered with `Reject`. Times are Unix seconds.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

PROTOCOL_VERSION = 1
MAX_MESSAGE = 1024 * 1024  # bytes

RejectCode = Literal["version", "type", "malformed", "auth", "fenced", "unknown_episode", "too_large"]


class Envelope(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=str.lower, omit_defaults=False):
    """What every message carries: a unique ``id``, when it was made, the protocol's major version."""

    id: str
    sent_at: float
    v: int = PROTOCOL_VERSION


class Hello(Envelope, frozen=True, kw_only=True):
    """Agent -> router: this incarnation serves ``episode``. The highest ``epoch`` wins."""

    run: str
    episode: str
    epoch: int
    token: str  # the episode's own secret: binds the connection to the episode
    task: str = ""
    index: int = 0


class StepBrief(msgspec.Struct, frozen=True, kw_only=True):
    """One step as an annotator sees it, cut short."""

    step: int
    action: str
    observation: str
    is_error: bool = False


class Alert(Envelope, frozen=True, kw_only=True):
    """Agent -> router, acknowledged with Ack{stored}; resent until then.

    ``id`` begins with the episode's id and a hyphen, so that no episode can take another's.
    """

    episode: str
    epoch: int
    detector: str
    score: float
    step: int
    reason: str
    priority: Literal["ask", "drift", "milestone"] = "drift"
    evidence: list[StepBrief] = []
    task: str = ""


class Guidance(Envelope, frozen=True, kw_only=True):
    """Router -> agent, acknowledged with Ack{delivered} once it is durable there, and with
    Ack{applied} when it entered the context. ``control`` is set on pause, resume and stop.

    It must not enter the context after a step beyond ``valid_until_step`` nor after ``valid_until``
    (Unix seconds, by the agent's clock): Ack{expired}. ``replaces`` is the id of the guidance in whose
    stead it comes; where that one has not entered the context yet, it never does: Ack{superseded}.
    """

    episode: str
    alert: str | None
    annotator: str
    text: str
    kind: Literal["knowledge", "strategy", "correction", "control"] = "strategy"
    control: Literal["pause", "resume", "stop"] | None = None
    valid_until_step: int | None = None
    valid_until: float | None = None
    replaces: str | None = None

    def is_over(self, *, step: int, now: float) -> bool:
        """Whether it is too old to enter the context after ``step`` at the time ``now``."""
        return (self.valid_until_step is not None and step > self.valid_until_step) or (
            self.valid_until is not None and now > self.valid_until
        )


class Ack(Envelope, frozen=True, kw_only=True):
    """Either way. ``parent`` is the id of the message acknowledged.

    The router says ready (to Hello) and stored (Alert, Bye, and the Acks that are final for guidance);
    an agent says delivered and too_late, and applied, expired or superseded as the last word (to
    Guidance). An agent's Acks name its ``episode`` and ``epoch``; ``step`` is set with the last three.
    """

    parent: str
    status: Literal["ready", "stored", "delivered", "applied", "too_late", "expired", "superseded"]
    episode: str = ""
    epoch: int = 0
    step: int | None = None


class Progress(Envelope, frozen=True, kw_only=True):
    """Agent -> router, lossy: where the episode is."""

    episode: str
    epoch: int
    step: int
    state: str
    drift: float = 0.0
    score: float | None = None


class Bye(Envelope, frozen=True, kw_only=True):
    """Agent -> router, acknowledged with Ack{stored}: the episode ended."""

    episode: str
    epoch: int
    status: str
    steps: int
    final_score: float | None = None
    best_score: float | None = None


class Reject(Envelope, frozen=True, kw_only=True):
    """Either way: the message named by ``parent`` was refused."""

    parent: str
    code: RejectCode
    reason: str
    detail: dict[str, Any] = {}


Message = Hello | Alert | Guidance | Ack | Progress | Bye | Reject
