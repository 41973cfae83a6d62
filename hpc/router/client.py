"""Asks a running router on behalf of a person at a terminal."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import Any, Literal, TypeVar

import msgspec
import zmq

from hpc.core.errors import HpcError, RouterUnreachable, WireError
from hpc.core.ids import new_id
from hpc.router.desk import AlertCard, EpisodeCard, GuidanceCard
from hpc.rundir import RunDir
from hpc.wire import discovery, keys
from hpc.wire.client import tune, use_keys
from hpc.wire.codec import encode
from hpc.wire.inbox import (
    ANSWERS,
    Answer,
    ClaimAlert,
    ListAlerts,
    ListEpisodes,
    ReleaseAlert,
    Request,
    ResolveAlert,
    SendReply,
    ShowAlert,
    StopRouter,
)
from hpc.wire.messages import Reject

RESEND_SECONDS = 1.0

C = TypeVar("C", bound=msgspec.Struct)


class InboxClient:
    """A connection to the inbox socket of a run's router.

    Args:
        timeout: seconds to wait for each answer; a request is repeated meanwhile.

    Raises:
        RouterUnreachable: no router serves the run, or it does not answer (so for all methods).
    """

    def __init__(self, run: RunDir, *, timeout: float = 10.0) -> None:
        info = discovery.read(run)
        hint = f"start it: hpc router start {run.name}"
        if run.done.exists():
            hint = f"the run is over: see `hpc inbox stats {run.name}` and `hpc traj show {run.name}/INDEX`"
        if info is None:
            raise RouterUnreachable(f"no router is running for {run.name}", hint)
        if info.is_stale():
            silent = time.time() - info.heartbeat
            raise RouterUnreachable(f"the router of {run.name} on {info.host} is silent since {silent:.0f} s", hint)
        self._run = run
        self._info = info
        self._timeout = timeout
        own = keys.load_inbox_keys(run)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        try:
            tune(self._socket)
            use_keys(self._socket, own, info.public_key)
            self._socket.connect(info.inbox_address)
        except (HpcError, zmq.ZMQError) as error:
            self.close()
            raise RouterUnreachable(f"cannot connect to the router at {info.inbox_address!r}: {error}", hint) from error

    def alerts(self, *, all: bool = False) -> list[AlertCard]:
        """The open alerts, or all of them, oldest first."""
        answer = self._ask(ListAlerts(id=new_id("rq"), sent_at=time.time(), all=all))
        return _cards(answer.items, AlertCard)

    def episodes(self) -> list[EpisodeCard]:
        """Every episode that the router has seen."""
        return _cards(self._ask(ListEpisodes(id=new_id("rq"), sent_at=time.time())).items, EpisodeCard)

    def alert(self, alert: str) -> tuple[AlertCard, list[GuidanceCard]] | None:
        """One alert and the replies to it; None when there is no such alert."""
        answer = self._ask(ShowAlert(id=new_id("rq"), sent_at=time.time(), alert=alert))
        if not answer.items:
            return None
        return _cards(answer.items[:1], AlertCard)[0], _cards(answer.items[1:], GuidanceCard)

    def reply(
        self,
        target: str,
        text: str,
        *,
        annotator: str,
        kind: Literal["knowledge", "strategy", "correction"] = "strategy",
        control: Literal["pause", "resume", "stop"] | None = None,
        valid_until_step: int | None = None,
        valid_until: float | None = None,
        replaces: str | None = None,
        key: str | None = None,
    ) -> tuple[str, GuidanceCard | None]:
        """Answer an alert or guide an episode; the verdict and the reply as the router holds it.

        Args:
            valid_until_step, valid_until: the agent shall not read it after this step, this Unix time.
            replaces: id of an earlier reply that this one corrects.
            key: the caller's own id of the reply: said again, it is taken once.
        """
        name = new_id("rq")
        answer = self._ask(
            SendReply(
                id=name,
                sent_at=time.time(),
                target=target,
                key=f"inbox:{key or name}",
                annotator=annotator,
                text=text,
                kind=kind,
                control=control,
                valid_until_step=valid_until_step,
                valid_until=valid_until,
                replaces=replaces,
            )
        )
        replies = _cards(answer.items, GuidanceCard)
        taken = replies[0] if replies else None
        if answer.status == "duplicate":  # the first answer was lost and the request repeated
            return "too_late" if taken is not None and taken.state == "too_late" else "accepted", taken
        return answer.status, taken

    def claim(self, alert: str, *, annotator: str) -> tuple[str, AlertCard | None]:
        """Say that ``annotator`` will answer: "ok", "held" (by the card's owner), "not_open" or "unknown"."""
        answer = self._ask(ClaimAlert(id=new_id("rq"), sent_at=time.time(), alert=alert, annotator=annotator))
        return answer.status, next(iter(_cards(answer.items, AlertCard)), None)

    def release(self, alert: str, *, annotator: str) -> tuple[str, AlertCard | None]:
        """Give one's claim up: "ok", "not_open" (closed, or not one's own) or "unknown"."""
        answer = self._ask(ReleaseAlert(id=new_id("rq"), sent_at=time.time(), alert=alert, annotator=annotator))
        return answer.status, next(iter(_cards(answer.items, AlertCard)), None)

    def resolve(self, alert: str, *, annotator: str, verdict: Literal["resolved", "false_alarm"] = "resolved") -> str:
        """Close an alert without guidance: "ok", "not_open" or "unknown"."""
        request = ResolveAlert(id=new_id("rq"), sent_at=time.time(), alert=alert, annotator=annotator, verdict=verdict)
        return self._ask(request).status

    def stop(self) -> None:
        """Ask the router to end; its journal keeps what is unfinished."""
        self._ask(StopRouter(id=new_id("rq"), sent_at=time.time()))

    def close(self) -> None:
        """Close the connection."""
        self._context.destroy(linger=0)

    def __enter__(self) -> InboxClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: Request) -> Answer:
        frame = encode(request)
        deadline = time.monotonic() + self._timeout
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(zmq.Again):  # the router has turned this connection away
                self._socket.send(frame, zmq.NOBLOCK)
            while self._socket.poll(int(1000 * min(left, RESEND_SECONDS))):
                answer = ANSWERS.decode(self._socket.recv())
                if answer.parent == request.id:
                    return _accepted(answer)
        raise RouterUnreachable(
            f"the router of {self._run.name} at {self._info.inbox_address} does not answer within {self._timeout:g} s",
            "see `hpc router status`; a firewall between this machine and that one would also do this",
        )


def _accepted(answer: Answer | Reject) -> Answer:
    if isinstance(answer, Reject):
        raise WireError(f"the router refused the request: {answer.reason}", "run both from the same installation")
    if answer.status == "failed":
        raise HpcError(f"the router could not do it: {answer.reason}", "see the router's log")
    return answer


def _cards(items: list[dict[str, Any]], kind: type[C]) -> list[C]:
    return [msgspec.convert(item, kind) for item in items]
