"""Answers the requests of `hpc inbox` from the router's desk."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from hpc.core.errors import HpcError
from hpc.core.ids import new_id
from hpc.router.desk import AlertCard, ClaimResult
from hpc.router.journal import JournalDesk
from hpc.wire.codec import encode
from hpc.wire.inbox import (
    MAX_ANSWER,
    Answer,
    AnswerStatus,
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

MAX_ALERTS = 500
"""Most alerts in one answer, the newest; each carries its evidence."""


def answer(desk: JournalDesk, request: Request) -> bytes:
    """The frame to reply to one request with; what it asks for is done and durable."""
    try:
        return encode(_carry_out(desk, request), limit=MAX_ANSWER)
    except HpcError as error:
        return failed(request, error)


def failed(request: Request, error: HpcError) -> bytes:
    """The frame that says that nothing was done, and why."""
    return encode(_answer(request, "failed", reason=str(error)))


def _carry_out(desk: JournalDesk, request: Request) -> Answer:
    match request:
        case ListAlerts():
            return _answer(request, "ok", desk.alerts(open_only=not request.all)[-MAX_ALERTS:])
        case ListEpisodes():
            return _answer(request, "ok", desk.episodes())
        case ShowAlert():
            card = desk.alert(request.alert)
            if card is None:
                return _answer(request, "unknown")
            return _answer(request, "ok", [card, *desk.guidance_of_alert(request.alert)])
        case SendReply():
            return _reply(desk, request)
        case ClaimAlert():
            claim = desk.claim(request.alert, request.annotator)
            return _answer(request, _CLAIMS[claim.result], _card(desk, request.alert))
        case ReleaseAlert():
            if desk.alert(request.alert) is None:
                return _answer(request, "unknown")
            desk.release(request.alert, request.annotator)
            [card] = _card(desk, request.alert)
            free = card.state == "open" and card.owner is None  # also where the request is a repetition
            return _answer(request, "ok" if free else "not_open", [card])
        case ResolveAlert():
            if desk.alert(request.alert) is None:
                return _answer(request, "unknown")
            desk.resolve(request.alert, request.annotator, request.verdict)
            [card] = _card(desk, request.alert)
            done = (card.state, card.closed_by) == (request.verdict, request.annotator)
            return _answer(request, "ok" if done else "not_open", [card])
        case StopRouter():
            return _answer(request, "ok")


def _reply(desk: JournalDesk, request: SendReply) -> Answer:
    alert = desk.alert(request.target)
    verdict = desk.take_reply(
        key=request.key,
        episode=request.target if alert is None else alert.episode,
        alert=None if alert is None else alert.alert,
        annotator=request.annotator,
        text=request.text,
        sent_at=request.sent_at,
        kind=request.kind,
        control=request.control,
        valid_until_step=request.valid_until_step,
        valid_until=request.valid_until,
        replaces=request.replaces,
    )
    card = desk.guidance_of_key(request.key)
    return _answer(request, verdict, [card] if card is not None else [])


_CLAIMS: dict[ClaimResult, AnswerStatus] = {"claimed": "ok", "held": "held", "closed": "not_open", "unknown": "unknown"}


def _card(desk: JournalDesk, alert: str) -> list[AlertCard]:
    """The card of the alert, or of the one that it was merged into."""
    card = desk.alert(alert)
    if card is not None and card.merged_into is not None:
        card = desk.alert(card.merged_into)
    return [] if card is None else [card]


def _answer(request: Request, status: AnswerStatus, items: Iterable[msgspec.Struct] = (), reason: str = "") -> Answer:
    return Answer(
        id=new_id("an"),
        sent_at=time.time(),
        parent=request.id,
        status=status,
        reason=reason,
        items=[msgspec.to_builtins(item) for item in items],
    )
