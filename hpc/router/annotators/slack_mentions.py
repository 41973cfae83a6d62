"""Mentions of the app: ``@apollo status``, and ``@apollo EPISODE text`` outside of any thread."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Coroutine
from typing import Any

from hpc.router.annotators.slack_home import Home
from hpc.router.annotators.slack_references import reference
from hpc.router.annotators.slack_replies import WRITTEN, Replies
from hpc.router.annotators.slack_text import typed
from hpc.router.annotators.slack_web import SlackWeb
from hpc.router.desk import Desk, EpisodeCard

BACK_SECONDS = 900.0  # so far back mentions are looked for at a start
OVERLAP_SECONDS = 10.0

_HELP = "Say `status`, or an episode (its name or number) and what its agent should know or do."

After = Callable[[], Coroutine[Any, Any, None]]

log = logging.getLogger(__name__)


class Mentions:
    """Carries out what annotators say to the app itself."""

    def __init__(self, desk: Desk, web: SlackWeb, replies: Replies, home: Home, channel: str) -> None:
        self._desk = desk
        self._web = web
        self._replies = replies
        self._home = home
        self._channel = channel
        self._cursor = f"{time.time() - BACK_SECONDS:.6f}"

    async def take_event(self, event: dict[str, Any]) -> After | None:
        """One ``app_mention`` event. Returns what is to be done after it was acknowledged, if anything.

        Raises:
            Postponed: do not acknowledge; Slack shall send the event again.
        """
        channel, user, ts = str(event.get("channel", "")), str(event.get("user", "")), str(event.get("ts", ""))
        thread = event.get("thread_ts")
        if channel != self._channel or not ts or event.get("subtype") not in WRITTEN:
            return None
        if thread and self._desk.episode_of_thread(reference(channel, str(thread))) is not None:
            return None  # a reply in an episode's thread, which comes as a message, too
        if user == self._replies.bot_user:
            return None
        place = str(thread) if thread else None
        if not await self._replies.allow.allows(user):
            return self._replies.refuse(channel, user, place, is_person="bot_id" not in event)
        said = self._replies.addressed(str(event.get("text", "")))
        if said is None:
            return None
        answer = self._take(channel, ts, user, said)
        if answer is None:
            return None
        if answer == "":
            return lambda: self._home.tell_status(channel, user, place)
        return lambda: self._web.note(channel, user, place, answer)

    def _take(self, channel: str, ts: str, user: str, said: str) -> str | None:
        """Obey; what to answer: None nothing, "" the status."""
        name, *rest = said.split(maxsplit=1) or [""]
        if name.lower().rstrip("?") in ("status", ""):
            return ""
        text = typed(rest[0] if rest else "")
        card = self._named(typed(name))
        if card is None:
            return f"There is no such episode. {_HELP}"
        if not text:
            return _HELP
        verdict = self._desk.take_reply(
            key=reference(channel, ts), episode=card.episode, alert=None, annotator=user, text=text, sent_at=float(ts)
        )
        log.info("mention %s of %s for %s: %s", ts, user, card.episode, verdict)
        return None

    def _named(self, name: str) -> EpisodeCard | None:
        """The episode of that name or number."""
        if re.fullmatch(r"#?\d{1,9}:?", name):
            number = int(name.strip("#:"))
            return next((card for card in self._desk.episodes() if card.index == number), None)
        return self._desk.episode(name.rstrip(":"))

    async def catch_up(self) -> None:
        """Obey the mentions in the channel that no socket has brought.

        Raises:
            CallFailed: Slack did not answer.
            Undecided: an author could not be told apart.
        """
        newest = self._cursor
        async for message in self._web.history(self._channel, f"{float(self._cursor) - OVERLAP_SECONDS:.6f}"):
            newest = max(newest, str(message["ts"]))
            text = str(message.get("text", ""))
            if self._replies.addressed(text) is None:
                continue
            if await self._replies.allow.allows(str(message.get("user", ""))):
                await self.take_event({**message, "channel": self._channel})  # answers have had their time
        self._cursor = newest
