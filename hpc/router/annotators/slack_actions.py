"""Buttons and modals: shortcuts beside the replies, which Slack does not send again when lost."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal, NamedTuple, cast

from hpc.router.annotators.slack_allow import AllowList, Undecided
from hpc.router.annotators.slack_blocks import CONTROLS, FINE, GUIDE, Blocks
from hpc.router.annotators.slack_web import CallFailed, SlackWeb
from hpc.router.desk import Desk

After = Callable[[], Coroutine[Any, Any, None]]
Kind = Literal["knowledge", "strategy", "correction"]

_STRANGER = "Only this run's annotators can do that."
_UNDECIDED = "Slack does not tell right now whether you are one of this run's annotators. Please try again in a minute."
_CLOSED = "This alert is closed already."
_OVER = "This episode has ended."
_KINDS = ("knowledge", "strategy", "correction")

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What goes into the acknowledgement, and what is done after it."""

    payload: dict[str, Any] | None = None
    after: After | None = None


class Actions:
    """Carries out what annotators press and submit."""

    def __init__(self, desk: Desk, web: SlackWeb, allow: AllowList, blocks: Blocks) -> None:
        self._desk = desk
        self._web = web
        self._allow = allow
        self._blocks = blocks

    async def take(self, payload: dict[str, Any]) -> Answer:
        """One interactive payload; everything durable is done when this returns."""
        user = str((payload.get("user") or {}).get("id", ""))
        try:
            refusal = None if await self._allow.allows(user) else _STRANGER
        except Undecided:
            refusal = _UNDECIDED
        if payload.get("type") == "view_submission":
            return self._submitted(payload["view"], user, refusal)
        if payload.get("type") != "block_actions" or not payload.get("actions"):
            return Answer()
        if refusal is not None:
            log.warning("a button of %s, who is no annotator, was refused", user)
            return self._note(payload, user, refusal)
        return self._pressed(payload, payload["actions"][0], user)

    def _pressed(self, payload: dict[str, Any], action: dict[str, Any], user: str) -> Answer:
        name, value = str(action.get("action_id", "")), str(action.get("value", ""))
        if name == GUIDE:
            return self._guide(payload, value, user)
        if name == FINE:
            closed = self._desk.resolve(value, user, "false_alarm")
            if not closed:
                return self._note(payload, user, _CLOSED)
            return Answer(after=lambda: self._show_closed(payload, value))
        if name in CONTROLS:
            control = cast(Literal["pause", "resume", "stop"], CONTROLS[name])
            container = payload.get("container") or {}
            verdict = self._desk.take_reply(
                key=f"action:{container.get('message_ts')}:{name}:{user}:{action.get('action_ts')}",
                episode=value,
                alert=None,
                annotator=user,
                text=control,
                sent_at=float(action.get("action_ts") or 0.0),
                kind="control",
                control=control,
            )
            log.info("%s of %s by %s: %s", control, value, user, verdict)
            return self._note(payload, user, _OVER) if verdict == "unknown" else Answer()
        return Answer()

    def _guide(self, payload: dict[str, Any], alert: str, user: str) -> Answer:
        card = self._desk.alert(alert)
        if card is None:
            return self._note(payload, user, _CLOSED)
        view = self._blocks.guide(card)

        async def open_view() -> None:
            try:
                await self._web.open_view(str(payload.get("trigger_id", "")), view)
            except CallFailed as failed:
                log.warning("the modal was not opened: %s", failed)

        return Answer(after=open_view)

    def _submitted(self, view: dict[str, Any], user: str, refusal: str | None) -> Answer:
        values = (view.get("state") or {}).get("values") or {}
        text = str((values.get("guidance") or {}).get("text", {}).get("value") or "").strip()
        if refusal is None and not text:
            refusal = "Please write something."
        if refusal is not None:
            return _keep_open(refusal)
        about = json.loads(view.get("private_metadata") or "{}")
        chosen = ((values.get("kind") or {}).get("kind", {}).get("selected_option") or {}).get("value")
        card = self._desk.alert(str(about.get("alert", "")))
        verdict = self._desk.take_reply(
            key=f"view:{view['id']}",
            episode=str(about.get("episode", "")),
            alert=card.alert if card is not None else None,
            annotator=user,
            text=text,
            sent_at=time.time(),
            kind=cast(Kind, chosen if chosen in _KINDS else "strategy"),
        )
        log.info("guidance of %s for %s by modal: %s", user, about.get("episode"), verdict)
        return _keep_open(_OVER) if verdict in ("too_late", "unknown") else Answer()

    async def _show_closed(self, payload: dict[str, Any], alert: str) -> None:
        """Show the alert anew, without its buttons."""
        card, container = self._desk.alert(alert), payload.get("container") or {}
        if card is None:
            return
        try:
            channel, ts = str(container.get("channel_id")), str(container.get("message_ts"))
            await self._web.update(channel, ts, self._blocks.alert(card))
        except CallFailed as failed:
            log.warning("the alert still shows its buttons: %s", failed)

    def _note(self, payload: dict[str, Any], user: str, text: str) -> Answer:
        container = payload.get("container") or {}
        thread = (payload.get("message") or {}).get("thread_ts") or container.get("message_ts")
        channel = str(container.get("channel_id", ""))
        return Answer(after=lambda: self._web.note(channel, user, thread, text))


def _keep_open(why: str) -> Answer:
    """The modal stays, with a sentence at its text."""
    return Answer(payload={"response_action": "errors", "errors": {"guidance": why}})
