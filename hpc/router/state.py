"""The router's rules, pure: a message (or the passing of time) in, effects out.

It knows which connection speaks for which episode, which incarnation is the newest, and which
guidance is still undelivered. It does no I/O: the service first makes a batch's records durable, then
sends. Whatever it holds can be rebuilt from the journal and the agents' next Hello.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from hpc.core.ids import Sequence
from hpc.wire.messages import (
    Ack,
    Alert,
    Bye,
    Envelope,
    Guidance,
    Hello,
    Message,
    Progress,
    Reject,
    RejectCode,
)

LAST_RESEND_SECONDS = 15.0

# ---- effects


class Send(msgspec.Struct, frozen=True):
    """Send ``message`` to the connection ``route``, after the records of the batch are durable."""

    route: bytes
    message: Message


class Joined(msgspec.Struct, frozen=True):
    """Record that an incarnation of an episode is there."""

    hello: Hello
    at: float


class Raised(msgspec.Struct, frozen=True):
    """Record an alert, once per id."""

    alert: Alert
    at: float


class Moved(msgspec.Struct, frozen=True):
    """Record where an episode is."""

    progress: Progress
    at: float


class Delivered(msgspec.Struct, frozen=True):
    """Record that guidance is durable at its agent."""

    guidance: str
    episode: str
    at: float


class Applied(msgspec.Struct, frozen=True):
    """Record that guidance entered its agent's context."""

    guidance: str
    episode: str
    step: int | None
    at: float


class Unused(msgspec.Struct, frozen=True):
    """Record that guidance will never enter its agent's context: too old, or another took its place."""

    guidance: str
    episode: str
    status: Literal["expired", "superseded"]
    at: float


class Missed(msgspec.Struct, frozen=True):
    """Record that guidance came after the end of its episode."""

    guidance: str
    episode: str
    at: float


class Ended(msgspec.Struct, frozen=True):
    """Record how an episode ended; what guidance it has not applied is too late."""

    episode: str
    status: str
    steps: int | None
    score: float | None
    at: float


Fact = Joined | Raised | Moved | Delivered | Applied | Unused | Missed | Ended
Effect = Send | Fact

_OF_AGENTS = (Alert, Ack, Progress, Bye)


class _Route(msgspec.Struct):
    route: bytes
    epoch: int


class _Queue(msgspec.Struct):
    """Undelivered guidance of one episode, oldest first; only the head is under way."""

    waiting: dict[str, Guidance]
    due_at: float = 0.0
    delay: float = 0.0


class RouterState:
    """Who is connected as what, and what is still to be delivered.

    Args:
        run: name of the run; agents of another are refused.
        verify: whether a token proves the right to speak for an episode.
        resend_seconds: first delay after which unacknowledged guidance is sent again.
        epochs: highest epoch seen of each episode, from the journal.
        pending: undelivered guidance of each episode, oldest first, from the journal.
        make_id, clock: where ids and ``sent_at`` of the router's own messages come from.
    """

    def __init__(
        self,
        *,
        run: str,
        verify: Callable[[str, str], bool],
        resend_seconds: float,
        epochs: Mapping[str, int],
        pending: Iterable[Guidance],
        make_id: Callable[[str], str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._run = run
        self._verify = verify
        self._resend_seconds = resend_seconds
        self._epochs = dict(epochs)
        self._make_id = make_id or Sequence()
        self._clock = clock
        self._episode_of: dict[bytes, str] = {}
        self._routes: dict[str, _Route] = {}
        self._queues: dict[str, _Queue] = {}
        self.restore(pending)

    @property
    def connected(self) -> int:
        """How many episodes have a connection."""
        return len(self._routes)

    @property
    def undelivered(self) -> int:
        """How many pieces of guidance are still to be delivered."""
        return sum(len(queue.waiting) for queue in self._queues.values())

    def restore(self, pending: Iterable[Guidance]) -> None:
        """Take the undelivered guidance from the journal again."""
        self._queues.clear()
        for guidance in pending:
            self.enqueue(guidance)

    def enqueue(self, guidance: Guidance) -> None:
        """Guidance that the journal holds and the next `tick` shall send, in the stead of what it replaces."""
        queue = self._queues.setdefault(guidance.episode, _Queue({}))
        if guidance.replaces is not None and queue.waiting.pop(guidance.replaces, None) is not None:
            self._hasten(guidance.episode)
        queue.waiting[guidance.id] = guidance

    def forget(self, episode: str) -> None:
        """Deliver nothing more to an episode: it has ended."""
        self._queues.pop(episode, None)

    def receive(self, route: bytes, message: Envelope, now: float) -> list[Effect]:
        """One message from a connection. ``now`` is in Unix seconds."""
        if isinstance(message, Hello):
            return self._hello(route, message, now)
        if isinstance(message, Reject):
            return []
        if not isinstance(message, _OF_AGENTS):
            return [self.reject(route, message.id, "malformed", "only the router sends this")]
        episode = self._episode_of.get(route)
        if episode is None:
            return [self.reject(route, message.id, "unknown_episode", "say Hello first")]
        if message.episode != episode:
            return [self.reject(route, message.id, "auth", f"this connection speaks for {episode}")]
        match message:
            case Alert():
                return self._alert(route, message, now)
            case Ack():
                return self._ack(route, message, now)
            case Progress():
                return [Moved(message, now)]
            case Bye():
                self.forget(episode)
                score = message.final_score if message.final_score is not None else message.best_score
                return [
                    Ended(episode, message.status, message.steps, score, now),
                    self._stored(route, message.id),
                ]

    def tick(self, now: float) -> list[Send]:
        """Guidance that is due to be sent (again): the oldest undelivered of each connected episode."""
        sends = []
        for episode, queue in self._queues.items():
            route = self._routes.get(episode)
            if route is None or now < queue.due_at:
                continue
            queue.delay = min(2 * queue.delay, LAST_RESEND_SECONDS) if queue.delay else self._resend_seconds
            queue.due_at = now + queue.delay
            sends.append(Send(route.route, next(iter(queue.waiting.values()))))
        return sends

    def reject(self, route: bytes, parent: str, code: RejectCode, reason: str) -> Send:
        """The answer to something that is refused."""
        return Send(
            route,
            Reject(id=self._make_id("re"), sent_at=self._clock(), parent=parent, code=code, reason=reason),
        )

    # ---- one message each

    def _hello(self, route: bytes, hello: Hello, now: float) -> list[Effect]:
        if hello.run != self._run:
            return [self.reject(route, hello.id, "auth", f"this router serves the run {self._run}")]
        if not self._verify(hello.episode, hello.token):
            return [self.reject(route, hello.id, "auth", "wrong token for this episode")]
        newest = self._epochs.get(hello.episode, 0)
        if hello.epoch < newest:
            return [self.reject(route, hello.id, "fenced", f"epoch {newest} has taken over")]
        effects: list[Effect] = [Joined(hello, now)]
        before = self._routes.get(hello.episode)
        if before is not None and before.route != route:
            self._episode_of.pop(before.route, None)
            if before.epoch < hello.epoch:
                effects.append(self.reject(before.route, hello.id, "fenced", f"epoch {hello.epoch} has taken over"))
        other = self._episode_of.get(route)
        if other is not None and other != hello.episode:
            self._routes.pop(other, None)
        self._epochs[hello.episode] = hello.epoch
        if before is None or before.route != route:
            self._hasten(hello.episode)
        self._routes[hello.episode] = _Route(route, hello.epoch)
        self._episode_of[route] = hello.episode
        effects.append(Send(route, self._make_ack(hello.id, "ready")))
        return effects

    def _alert(self, route: bytes, alert: Alert, now: float) -> list[Effect]:
        if not alert.id.startswith(f"{alert.episode}-"):
            return [self.reject(route, alert.id, "malformed", "an alert's id begins with its episode's and a hyphen")]
        return [Raised(alert, now), self._stored(route, alert.id)]

    def _ack(self, route: bytes, ack: Ack, now: float) -> list[Effect]:
        if ack.status in ("ready", "stored"):
            return [self.reject(route, ack.id, "malformed", f"an agent does not say {ack.status}")]
        queue = self._queues.get(ack.episode)
        if queue is not None and queue.waiting.pop(ack.parent, None) is not None:
            self._hasten(ack.episode)
            if not queue.waiting:
                self.forget(ack.episode)
        if ack.status == "delivered":
            return [Delivered(ack.parent, ack.episode, ack.sent_at)]
        if ack.status in ("expired", "superseded"):
            return [Unused(ack.parent, ack.episode, ack.status, ack.sent_at), self._stored(route, ack.id)]
        if ack.status == "too_late":
            return [Missed(ack.parent, ack.episode, now)]
        return [Applied(ack.parent, ack.episode, ack.step, ack.sent_at), self._stored(route, ack.id)]

    def _hasten(self, episode: str) -> None:
        """Send the head of a queue at the next tick."""
        queue = self._queues.get(episode)
        if queue is not None:
            queue.due_at = queue.delay = 0.0

    def _stored(self, route: bytes, parent: str) -> Send:
        return Send(route, self._make_ack(parent, "stored"))

    def _make_ack(self, parent: str, status: Literal["ready", "stored"]) -> Ack:
        return Ack(id=self._make_id("ack"), sent_at=self._clock(), parent=parent, status=status)
