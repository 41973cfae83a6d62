"""Messages and modals from ``templates/slack/``: JSON in which every inserted value is encoded.

A template writes ``{{ value }}`` where a JSON value belongs. Strings are escaped for Slack by
default, so text of an agent can neither leave its place in the JSON nor mention or link anybody;
``| literal`` marks text for rich_text elements, which Slack shows as it is, and ``| mention`` a user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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
FINE = "apollo_fine"
CONTROLS = {"apollo_pause": "pause", "apollo_resume": "resume", "apollo_stop": "stop"}
"""Ids of the buttons, and which control a button stands for."""

ENDED = ("finished", "truncated", "failed", "stopped")

_USER = re.compile(r"[UW][A-Z0-9]{2,20}")


class Message(msgspec.Struct, frozen=True):
    """What chat.postMessage and chat.update take: a text for notifications, and blocks."""

    text: str
    blocks: list[dict[str, Any]]


class _Literal(str):
    """A string that Slack shows as it is."""

    __slots__ = ()


def _encode(value: Any) -> str:
    if isinstance(value, str) and not isinstance(value, _Literal):
        value = escape(value)
    return json.dumps(value, ensure_ascii=False)


def _mention(user: str) -> str:
    """A Slack user by id as a mention, anybody else as plain words."""
    return _Literal(f"<@{user}>" if _USER.fullmatch(user) else escape(_words(user, NAME, "somebody")))


def _words(text: str, limit: int, instead: str) -> str:
    """What is shown of ``text``; Slack takes no empty texts."""
    return cut(shown(text).strip() or instead, limit)


class Blocks:
    """Renders what annotators see. Pure but for reading the templates."""

    def __init__(self, shown_steps: int = 5) -> None:
        self.shown_steps = shown_steps
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(data_dir("templates") / "slack"),
            undefined=jinja2.StrictUndefined,
            finalize=_encode,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["literal"] = lambda text: _Literal(text)
        self._templates.filters["mention"] = _mention

    def board(self, card: EpisodeCard) -> Message:
        """The parent of an episode's thread: where the episode stands."""
        return self._message(
            "board",
            title=_words(f"{card.task} · {card.episode}", HEADER, "episode"),
            card=card,
            state=_words(card.state, NAME, "unknown"),
            run=_words(card.run, NAME, "unknown"),
            ended=card.state in ENDED,
            fallback=cut(shown(f"{card.episode} is {card.state} at step {card.step}"), FALLBACK),
        )

    def alert(self, card: AlertCard) -> Message:
        """An alert with its evidence; the oldest steps go first where Slack's limits are reached."""
        steps = [
            {
                "step": step.step,
                "action": _words(step.action, ACTION_CHARACTERS, "(no action)"),
                "observation": cut_middle(shown(step.observation).strip() or "(empty)", OBSERVATION_CHARACTERS),
                "is_error": step.is_error,
            }
            for step in card.evidence[-self.shown_steps :]
        ]
        while True:
            message = self._message(
                "alert",
                title=cut(shown(f"{_HEADINGS[card.priority]} · {card.episode}"), HEADER),
                card=card,
                detector=_words(card.detector, NAME, "unknown"),
                score=f"{card.score:.2f}",
                reason=_words(card.reason, SECTION, "no reason given"),
                steps=steps,
                earlier=[_words(text, QUOTE_CHARACTERS, "(empty)") for text in card.earlier_guidance[-EARLIER:]],
                is_open=card.state in ("open", "answered"),
                outcome=card.state.replace("_", " "),
                fallback=cut(shown(f"{_HEADINGS[card.priority]} in {card.episode}: {card.reason}"), FALLBACK),
            )
            if not steps or characters(message.blocks) <= MAX_CHARACTERS:
                return message
            steps = steps[1:]

    def receipt(self, card: GuidanceCard, status: str) -> Message:
        """What became of one reply."""
        return self._message(
            "receipt",
            status=status,
            step=card.applied_step,
            annotator=card.annotator,
            quote=_words(card.text, QUOTE_CHARACTERS, "(no text)"),
            fallback=cut(shown(f"{_RECEIPTS[status]}: {card.text}"), FALLBACK),
        )

    def guide(self, card: AlertCard) -> dict[str, Any]:
        """The modal behind the button Guide."""
        return self._render(
            "guide",
            reason=_words(card.reason, SECTION, "no reason given"),
            private=_Literal(json.dumps({"alert": card.alert, "episode": card.episode})),
        )

    def _message(self, name: str, **values: Any) -> Message:
        return msgspec.convert(self._render(name, **values), Message)

    def _render(self, name: str, **values: Any) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self._templates.get_template(f"{name}.json.j2").render(values))
        return value


_HEADINGS: Mapping[str, str] = {"ask": "Asks for help", "drift": "Drift", "milestone": "Milestone"}
_RECEIPTS: Mapping[str, str] = {"delivered": "Delivered", "applied": "Applied", "too_late": "Too late"}


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
