"""Buttons, modals and reactions: shortcuts beside the replies, which Slack does not send again when lost."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal, NamedTuple, cast

from hpc.router.annotators.slack_allow import AllowList, Undecided
from hpc.router.annotators.slack_blocks import (
    CLAIM,
    CONTROLS,
    ENDED,
    FINE,
    GUIDE,
    REFRESH,
    RELEASE,
    Blocks,
    mention,
    mrkdwn,
    when,
)
from hpc.router.annotators.slack_home import Home
from hpc.router.annotators.slack_references import reference
from hpc.router.annotators.slack_web import CallFailed, SlackWeb
from hpc.router.desk import Claim, Desk

After = Callable[[], Coroutine[Any, Any, None]]
Kind = Literal["knowledge", "strategy", "correction"]

CLAIM_REACTION = "eyes"
FINE_REACTION = "+1"
"""Put on an alert it claims it, taken off again it releases it."""

_STRANGER = "Only this run's annotators can do that."
_UNDECIDED = "Slack does not tell right now whether you are one of this run's annotators. Please try again in a minute."
_CLOSED = "This alert is closed already."
_NOT_YOURS = "You have not claimed this alert."
_OVER = "This episode has ended."
_KINDS = ("knowledge", "strategy", "correction")

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What goes into the acknowledgement, and what is done after it."""

    payload: dict[str, Any] | None = None
    after: After | None = None


class Actions:
    """Carries out what annotators press, submit and mark."""

    def __init__(self, desk: Desk, web: SlackWeb, allow: AllowList, blocks: Blocks, home: Home) -> None:
        self._desk = desk
        self._web = web
        self._allow = allow
        self._blocks = blocks
        self._home = home

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

    async def take_reaction(self, event: dict[str, Any]) -> None:
        """Claim an alert (👀), release it, or find nothing wrong (👍) by an emoji on its message.

        Raises:
            Postponed: do not acknowledge; Slack shall send the event again.
        """
        user, item = str(event.get("user", "")), event.get("item") or {}
        emoji = str(event.get("reaction", "")).partition("::")[0]  # without the tone of the skin
        if emoji not in (CLAIM_REACTION, FINE_REACTION) or not await self._allow.allows(user):
            return
        name = reference(str(item.get("channel", "")), str(item.get("ts", "")))
        card = next((card for card in self._desk.alerts() if card.reference == name), None)
        if card is None:
            return
        taken_off = event.get("type") == "reaction_removed"
        if emoji == FINE_REACTION:
            if not taken_off:  # as with the button, what is closed stays closed
                self._desk.resolve(card.alert, user, "false_alarm")
        elif taken_off:
            self._desk.release(card.alert, user)
        else:
            log.info("claim of %s on %s: %s", user, card.alert, self._desk.claim(card.alert, user).result)

    def _pressed(self, payload: dict[str, Any], action: dict[str, Any], user: str) -> Answer:
        name, value = str(action.get("action_id", "")), str(action.get("value", ""))
        if name == GUIDE:
            return self._guide(payload, value, user)
        if name == CLAIM:
            return self._claim(payload, value, user)
        if name == RELEASE:
            return Answer() if self._desk.release(value, user) else self._note(payload, user, _NOT_YOURS)
        if name == FINE:
            closed = self._desk.resolve(value, user, "false_alarm")
            return Answer() if closed else self._note(payload, user, _CLOSED)
        if name == REFRESH:
            return Answer(after=lambda: self._home.show(user))
        if name in CONTROLS:
            return self._control(payload, action, user, cast(Literal["pause", "resume", "stop"], CONTROLS[name]))
        return Answer()

    def _claim(self, payload: dict[str, Any], alert: str, user: str) -> Answer:
        claim = self._desk.claim(alert, user)
        log.info("claim of %s on %s: %s", user, alert, claim.result)
        if claim.result == "claimed":
            return Answer()
        return self._note(payload, user, _held(claim) if claim.result == "held" else _CLOSED)

    def _control(
        self, payload: dict[str, Any], action: dict[str, Any], user: str, control: Literal["pause", "resume", "stop"]
    ) -> Answer:
        container, episode = payload.get("container") or {}, str(action.get("value", ""))
        place = container.get("message_ts") or container.get("view_id")
        verdict = self._desk.take_reply(
            key=f"action:{place}:{action.get('action_id')}:{user}:{action.get('action_ts')}",
            episode=episode,
            alert=None,
            annotator=user,
            text=control,
            sent_at=float(action.get("action_ts") or 0.0),
            kind="control",
            control=control,
        )
        log.info("%s of %s by %s: %s", control, episode, user, verdict)
        return self._note(payload, user, _OVER) if verdict == "unknown" else Answer()

    def _guide(self, payload: dict[str, Any], about: str, user: str) -> Answer:
        """Open the modal, about an alert or about an episode."""
        card = self._desk.alert(about) or self._desk.episode(about)
        episode = self._desk.episode(card.episode) if card is not None else None
        if card is None or episode is None or episode.state in ENDED:
            return self._note(payload, user, _OVER)
        view = self._blocks.guide(card)

        async def open_view() -> None:
            try:
                await self._web.open_view(str(payload.get("trigger_id", "")), view)
            except CallFailed as failed:
                log.warning("the modal was not opened: %s", failed)
                await self._tell(
                    payload, user, "Slack did not open the form. Press Guide again, or reply in the thread."
                )

        return Answer(after=open_view)

    def _submitted(self, view: dict[str, Any], user: str, refusal: str | None) -> Answer:
        values = (view.get("state") or {}).get("values") or {}
        text = str(_given(values, "guidance", "text", "value") or "").strip()
        if refusal is None and not text:
            refusal = "Please write something."
        if refusal is not None:
            return _keep_open(guidance=refusal)
        about = json.loads(view.get("private_metadata") or "{}")
        episode, alert = str(about.get("episode", "")), self._desk.alert(str(about.get("alert", "")))
        try:
            until_step, until = self._validity(values, episode)
        except _Misfit as misfit:
            return _keep_open(**{misfit.block: str(misfit)})
        chosen = (_given(values, "kind", "kind", "selected_option") or {}).get("value")
        verdict = self._desk.take_reply(
            key=f"view:{view['id']}",
            episode=episode,
            alert=alert.alert if alert is not None else None,
            annotator=user,
            text=text,
            sent_at=time.time(),
            kind=cast(Kind, chosen if chosen in _KINDS else "strategy"),
            valid_until_step=until_step,
            valid_until=until,
        )
        log.info("guidance of %s for %s by modal: %s", user, episode, verdict)
        return _keep_open(guidance=_OVER) if verdict in ("too_late", "unknown") else Answer()

    def _validity(self, values: dict[str, Any], episode: str) -> tuple[int | None, float | None]:
        """Up to which step and which time the guidance is valid."""
        step, until = (
            _given(values, "until_step", "step", "value"),
            _given(values, "until_time", "time", "selected_date_time"),
        )
        card = self._desk.episode(episode)
        if step and (not str(step).isdecimal() or (card is not None and int(step) < card.step)):
            here = f", and the agent is at step {card.step}" if card is not None else ""
            raise _Misfit("until_step", f"It must be the number of a step{here}.")
        if until and float(until) <= time.time():
            raise _Misfit("until_time", "It must be in the future.")
        return int(step) if step else None, float(until) if until else None

    def _note(self, payload: dict[str, Any], user: str, text: str) -> Answer:
        return Answer(after=lambda: self._tell(payload, user, text))

    async def _tell(self, payload: dict[str, Any], user: str, text: str) -> None:
        """Tell somebody something where the button was; in the Home, where nothing can be said, show it anew."""
        container = payload.get("container") or {}
        channel, thread = str(container.get("channel_id", "")), container.get("message_ts")
        if channel:
            await self._web.note(channel, user, (payload.get("message") or {}).get("thread_ts") or thread, text)
        else:
            await self._home.show(user)


class _Misfit(Exception):
    """What was given in a block of the modal cannot be."""

    def __init__(self, block: str, why: str) -> None:
        super().__init__(why)
        self.block = block


def _held(claim: Claim) -> str:
    until = () if claim.until is None else (" until ", when(claim.until))
    return mrkdwn(mention(claim.owner or ""), " has claimed this alert", *until, ". You may answer all the same.")


def _given(values: dict[str, Any], block: str, action: str, field: str) -> Any:
    return ((values.get(block) or {}).get(action) or {}).get(field)


def _keep_open(**problems: str) -> Answer:
    """The modal stays, with a sentence at what is wrong."""
    return Answer(payload={"response_action": "errors", "errors": problems})
