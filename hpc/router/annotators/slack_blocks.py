"""Messages and modals from ``templates/slack/``: JSON in which every inserted value is encoded.

A template writes ``{{ value }}`` where a JSON value belongs. Strings are escaped for Slack by
default, so text of an agent can neither leave its place in the JSON nor mention or link anybody;
``| literal`` marks text for rich_text elements, which Slack shows as it is, and ``| mention`` a user.
What is put together of mentions, times and other words comes from `mrkdwn`.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import msgspec

from hpc.core.locate import data_dir
from hpc.router.annotators.slack_text import FALLBACK, HEADER, SECTION, cut, cut_middle, escape, shown
from hpc.router.desk import AlertCard, EpisodeCard, GuidanceCard, Post

MAX_CHARACTERS = 12_500  # Slack refuses a message somewhat above this sum over all its texts
ACTION_CHARACTERS = 300
OBSERVATION_CHARACTERS = 1200
QUOTE_CHARACTERS = 280
NAME = 100
EARLIER = 5  # pieces of earlier guidance shown with an alert
METADATA_EVENT = "apollo_post"

GUIDE = "apollo_guide"
CLAIM = "apollo_claim"
RELEASE = "apollo_release"
FINE = "apollo_fine"
REFRESH = "apollo_refresh"
CONTROLS = {"apollo_pause": "pause", "apollo_resume": "resume", "apollo_stop": "stop"}
"""Ids of the buttons, and which control a button stands for."""

ENDED = ("finished", "truncated", "failed", "stopped")

_USER = re.compile(r"[UW][A-Z0-9]{2,20}")
_USERGROUP = re.compile(r"S[A-Z0-9]{2,20}")


class Message(msgspec.Struct, frozen=True):
    """What chat.postMessage and chat.update take: a text for notifications, and blocks."""

    text: str
    blocks: list[dict[str, Any]]


class Literal(str):
    """A string that Slack shows, or obeys, as it is: never made of an agent's text."""

    __slots__ = ()


def _encode(value: Any) -> str:
    if isinstance(value, str) and not isinstance(value, Literal):
        value = escape(value)
    return json.dumps(value, ensure_ascii=False)


def mrkdwn(*parts: str) -> Literal:
    """The parts in a row; all but `Literal` ones are escaped."""
    return Literal("".join(part if isinstance(part, Literal) else escape(part) for part in parts))


def mention(name: str) -> Literal:
    """A Slack user or user group by id as a mention, anybody else as plain words."""
    if _USER.fullmatch(name):
        return Literal(f"<@{name}>")
    if _USERGROUP.fullmatch(name):
        return Literal(f"<!subteam^{name}>")
    return Literal(escape(words(name, NAME, "somebody")))


def when(at: float) -> Literal:
    """A time, which Slack shows in the reader's own time zone."""
    there = datetime.datetime.fromtimestamp(max(0.0, min(at, 253_402_300_000.0)), datetime.UTC)
    return Literal(f"<!date^{int(there.timestamp())}^{{date_short_pretty}}, {{time}}|{there:%d %b, %H:%M} UTC>")


def words(text: str, limit: int, instead: str) -> str:
    """What is shown of ``text``; Slack takes no empty texts."""
    return cut(shown(text, limit).strip() or instead, limit)


class Templates:
    """The templates, rendered to messages and views. Pure but for reading them."""

    def __init__(self) -> None:
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(data_dir("templates") / "slack"),
            undefined=jinja2.StrictUndefined,
            finalize=_encode,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["literal"] = lambda text: Literal(text)
        self._templates.filters["mention"] = mention

    def message(self, name: str, **values: Any) -> Message:
        """A message."""
        return msgspec.convert(self.render(name, **values), Message)

    def render(self, name: str, **values: Any) -> dict[str, Any]:
        """What one template says."""
        value: dict[str, Any] = json.loads(self._templates.get_template(f"{name}.json.j2").render(values))
        return value


class Blocks:
    """What annotators see in an episode's thread, and the modal."""

    def __init__(self, shown_steps: int = 5, templates: Templates | None = None) -> None:
        self.shown_steps = shown_steps
        self._templates = templates or Templates()

    def board(self, card: EpisodeCard, owners: Sequence[str] = ()) -> Message:
        """The parent of an episode's thread: where the episode stands, and who looks after its alerts."""
        return self._templates.message(
            "board",
            title=words(f"{card.task} · {card.episode}", HEADER, "episode"),
            card=card,
            state=words(card.state, NAME, "unknown"),
            run=words(card.run, NAME, "unknown"),
            owners=_joined("owner: ", owners) if owners else None,
            ended=card.state in ENDED,
            fallback=cut(shown(f"{card.episode} is {card.state} at step {card.step}", FALLBACK), FALLBACK),
        )

    def alert(self, card: AlertCard) -> Message:
        """An alert with its evidence; the oldest steps go first where Slack's limits are reached."""
        steps = [
            {
                "step": step.step,
                "action": words(step.action, ACTION_CHARACTERS, "(no action)"),
                "observation": cut_middle(shown(step.observation).strip() or "(empty)", OBSERVATION_CHARACTERS),
                "is_error": step.is_error,
            }
            for step in card.evidence[-self.shown_steps :]
        ]
        until = () if card.claimed_until is None else (" until ", when(card.claimed_until))
        while True:
            message = self._templates.message(
                "alert",
                title=cut(shown(f"{HEADINGS[card.priority]} · {card.episode}", HEADER), HEADER),
                card=card,
                task=words(card.task, NAME, "unknown"),
                where=_where(card),
                raised=when(card.last_at or card.sent_at),
                detector=words(card.detector, NAME, "unknown"),
                score=f"{card.score:.2f}",
                reason=words(card.reason, SECTION, "no reason given"),
                steps=steps,
                earlier=[words(text, QUOTE_CHARACTERS, "(empty)") for text in card.earlier_guidance[-EARLIER:]],
                buttons=card.state in ("open", "answered"),
                claimed=mrkdwn("Claimed by ", mention(card.owner), *until) if card.owner is not None else None,
                called=_joined("Called: ", card.escalated_to) if card.escalated_to else None,
                outcome=_outcome(card),
                fallback=cut(shown(f"{HEADINGS[card.priority]} in {card.episode}: {card.reason}", FALLBACK), FALLBACK),
            )
            if not steps or characters(message.blocks) <= MAX_CHARACTERS:
                return message
            steps = steps[1:]

    def escalation(self, card: AlertCard, target: str) -> Message:
        """Somebody is called to an alert, in its thread. ``target`` comes from the configuration."""
        call = (mention(target), ", nobody has taken care of this alert yet. Can you look?")
        return self._templates.message(
            "escalation",
            card=card,
            call=mrkdwn(*call),
            reason=words(card.reason, SECTION, "no reason given"),
            fallback=mrkdwn(*call, cut(shown(f" {card.episode}: {card.reason}", FALLBACK), FALLBACK)),
        )

    def receipt(self, card: GuidanceCard, status: str) -> Message:
        """What became of one reply."""
        sentence = _RECEIPTS[status]
        if status == "applied" and card.applied_step is not None:
            sentence = f"{sentence} at step {card.applied_step}"
        return self._templates.message(
            "receipt",
            sentence=sentence,
            annotator=card.annotator,
            quote=words(card.text, QUOTE_CHARACTERS, "(no text)"),
            fallback=cut(shown(f"{sentence}: {card.text}", FALLBACK), FALLBACK),
        )

    def guide(self, about: AlertCard | EpisodeCard) -> dict[str, Any]:
        """The modal behind the buttons Guide: of an alert, or of an episode without one."""
        if isinstance(about, AlertCard):
            private, reason, where = {"alert": about.alert}, about.reason, _where(about)
        else:
            private, reason, where = {}, f"No alert: {about.task} is {about.state}.", f"step: {about.step}"
        return self._templates.render(
            "guide",
            reason=words(reason, SECTION, "no reason given"),
            where=words(f"{about.episode} · {where}", NAME, "unknown"),
            private=Literal(json.dumps(private | {"episode": about.episode})),
        )


def _where(card: AlertCard) -> str:
    last = max(card.last_step, card.step)
    return f"step: {card.step}" if card.count == 1 or last == card.step else f"steps: {card.step} to {last}"


def _joined(head: str, names: Sequence[str]) -> Literal:
    parts: list[str] = []
    for name in names[:10]:
        parts += [", ", mention(name)] if parts else [head, mention(name)]
    return mrkdwn(*parts)


def _outcome(card: AlertCard) -> Literal:
    by = (" by ", mention(card.closed_by)) if card.closed_by is not None else ()
    return mrkdwn("This alert is closed: ", words(card.state.replace("_", " "), NAME, "closed"), *by)


HEADINGS: Mapping[str, str] = {"ask": "Asks for help", "drift": "Drift", "milestone": "Milestone"}
_RECEIPTS: Mapping[str, str] = {
    "delivered": "Delivered to the agent",
    "applied": "Applied",
    "too_late": "Too late: the episode had ended, nothing was applied",
    "expired": "Expired: the agent got there too late for it, nothing was applied",
    "superseded": "Superseded: a newer text took its place, this one was not applied",
}


def metadata(post: Post) -> dict[str, Any]:
    """By what a message is found again when the answer to its publication was lost."""
    payload = {"post_id": post.post, "alert_id": post.alert or "", "episode": post.episode}
    return {"event_type": METADATA_EVENT, "event_payload": payload}


def characters(value: Any) -> int:
    """The sum over all texts inside blocks."""
    if isinstance(value, dict):
        own = len(value["text"]) if isinstance(value.get("text"), str) else 0
        return own + sum(characters(item) for item in value.values())
    if isinstance(value, list):
        return sum(characters(item) for item in value)
    return 0
