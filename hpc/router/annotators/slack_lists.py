"""Many episodes or alerts at a time: the app's Home, the answer to ``status``, and digests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from hpc.router.annotators.slack_blocks import (
    ENDED,
    HEADINGS,
    MAX_CHARACTERS,
    NAME,
    Literal,
    Message,
    Templates,
    characters,
    mrkdwn,
    when,
    words,
)
from hpc.router.annotators.slack_references import message_of
from hpc.router.desk import AlertCard, EpisodeCard

HOME_EPISODES = 80  # Slack takes 100 blocks there
STATUS_EPISODES = 30
DIGEST_ALERTS = 40  # Slack takes 50 blocks
REASON = 200

NOT_FOR_YOU = "Only this run's annotators see its episodes."


class Lists:
    """Renders the lists.

    Args:
        workspace: address of the workspace, for links to threads.
    """

    def __init__(self, workspace: str, templates: Templates | None = None) -> None:
        self._workspace = workspace.rstrip("/")
        self._templates = templates or Templates()

    def home(self, cards: Sequence[EpisodeCard]) -> dict[str, Any]:
        """The Home of an annotator: every live episode, those with open alerts first."""
        live = _live(cards)
        rows = [{"text": self._row(card), "episode": card.episode} for card in live[:HOME_EPISODES]]
        now = mrkdwn("As of ", when(time.time()))
        return self._templates.render("home", title=_title(live), as_of=now, rows=rows, more=_more(cards, live, rows))

    def stranger_home(self) -> dict[str, Any]:
        """The Home of anybody else."""
        text = {"type": "plain_text", "text": NOT_FOR_YOU}
        return {"type": "home", "blocks": [{"type": "section", "text": text}]}

    def status(self, cards: Sequence[EpisodeCard]) -> Message:
        """The same as a message."""
        live = _live(cards)
        rows = [{"text": self._row(card)} for card in live[:STATUS_EPISODES]]
        return self._templates.message("status", title=_title(live), rows=rows, more=_more(cards, live, rows))

    def digest(self, alerts: Sequence[AlertCard], threads: dict[str, str]) -> Message:
        """What was held back, with links to those episodes' ``threads`` that there are; as many as fit."""
        shown = min(len(alerts), DIGEST_ALERTS)
        message = self._digest(alerts, shown, threads)
        while shown and characters(message.blocks) > MAX_CHARACTERS:
            shown -= 1
            message = self._digest(alerts, shown, threads)
        return message

    def _digest(self, alerts: Sequence[AlertCard], shown: int, threads: dict[str, str]) -> Message:
        rows = [
            {
                "head": mrkdwn(
                    self._link(card.episode, threads.get(card.episode)),
                    f" · {HEADINGS[card.priority]} at step {card.step} · {words(card.detector, NAME, 'unknown')}"
                    f" {card.score:.2f}" + ("" if card.state == "open" else f" · {card.state.replace('_', ' ')}"),
                ),
                "reason": words(card.reason, REASON, "no reason given"),
                "alert": card.alert,
                "is_open": card.state == "open",
            }
            for card in alerts[:shown]
        ]
        rest = len(alerts) - len(rows)
        more = f"and {rest} more: hpc inbox list" if rest > 0 else "hpc inbox list shows them in a terminal."
        count = f"{len(alerts)} alert{'' if len(alerts) == 1 else 's'}"
        return self._templates.message("digest", title=f"Held back: {count}", rows=rows, more=more)

    def _row(self, card: EpisodeCard) -> Literal:
        score = "" if card.score is None else f" · score {card.score:.1f}"
        alerts = f" · {card.open_alerts} open alert{'' if card.open_alerts == 1 else 's'}" if card.open_alerts else ""
        return mrkdwn(
            self._link(card.episode, card.thread),
            f" {words(card.task, NAME, 'unknown')}: {words(card.state, NAME, 'unknown')}, step {card.step}"
            f" · drift {card.drift:.2f}{score}{alerts}",
        )

    def _link(self, episode: str, thread: str | None) -> Literal:
        """The episode's name, leading to its thread."""
        name = words(episode, NAME, "episode")
        place = message_of(thread or "")
        if place is None or not self._workspace.startswith("https://"):
            return mrkdwn(name)
        address = f"{self._workspace}/archives/{place[0]}/p{place[1].replace('.', '')}"
        return mrkdwn(Literal(f"<{address}|"), name.replace("|", "/"), Literal(">"))


def _live(cards: Sequence[EpisodeCard]) -> list[EpisodeCard]:
    live = [card for card in cards if card.state not in ENDED]
    return sorted(live, key=lambda card: (-card.open_alerts, -card.drift, card.index))


def _title(live: Sequence[EpisodeCard]) -> str:
    alerts = sum(card.open_alerts for card in live)
    return f"{len(live)} live episode{'' if len(live) == 1 else 's'}, {alerts} open alert{'' if alerts == 1 else 's'}"


def _more(cards: Sequence[EpisodeCard], live: Sequence[EpisodeCard], rows: Sequence[object]) -> str:
    left = f"and {len(live) - len(rows)} more; " if len(live) > len(rows) else ""
    return f"{left}{len(cards) - len(live)} of {len(cards)} have ended. Reply in an episode's thread to guide it."
