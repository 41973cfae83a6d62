"""Takes replies in: what annotators write in the threads of episodes, live or caught up."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from hpc.router.annotators.slack_allow import AllowList, Undecided
from hpc.router.annotators.slack_home import Home
from hpc.router.annotators.slack_references import edit_key, message_of, reference
from hpc.router.annotators.slack_text import typed
from hpc.router.annotators.slack_web import CallFailed, Lane, Postponed, SlackWeb
from hpc.router.desk import Desk, Verdict

OVERLAP_SECONDS = 10.0  # read again before the cursor: messages may show out of order
MISSED_SECONDS = 20.0  # a reply older than this that no socket has brought
DIRECT_READS = 3  # up to so many threads are read one by one, without looking which have news

EARLIER_SECONDS = 1.5  # for taking in earlier replies first; Slack waits 3 s for an acknowledgement
READS_A_SECOND = 30 / 60  # of Slack's 50 a minute; the rest is for catching up
READ_BURST = 15
EDIT_SECONDS = 900.0  # after a gap, edits of replies that are not older than this are looked for

WRITTEN = (None, "file_share", "me_message", "thread_broadcast")
_STRANGER = "Thank you, but only this run's annotators are heard here, so your reply was not passed to the agent."
_EDITED_MENTION = "An edit here does not reach the agent. Reply in the episode's thread to correct what you wrote."

After = Callable[[], Coroutine[Any, Any, None]]

log = logging.getLogger(__name__)


class Replies:
    """Hands thread replies of annotators to the desk.

    Args:
        bot_user: id of the app's own user, whose messages are no replies.
        on_missed: called when a reply was found by reading that no socket had brought.
        on_postponed: called when a reply has to wait until the threads are read.
    """

    def __init__(
        self,
        desk: Desk,
        web: SlackWeb,
        allow: AllowList,
        home: Home,
        bot_user: str,
        *,
        on_missed: Callable[[float], None] = lambda ts: None,
        on_postponed: Callable[[], None] = lambda: None,
    ) -> None:
        self.allow = allow
        self.bot_user = bot_user
        self._desk = desk
        self._web = web
        self._home = home
        self._on_missed = on_missed
        self._on_postponed = on_postponed
        self._mention = re.compile(rf"\s*<@{re.escape(bot_user)}(?:\|[^<>]*)?>[\s:,]*")
        self._read_up_to: dict[str, str] = {}  # thread -> the newest message that was read or came
        self._reading = Lane(READS_A_SECOND, READ_BURST)
        self._edited: dict[str, float] = {}  # reply -> when its newest edit was made
        self._heard: dict[str, float] = {}  # thread -> when a reply was last taken in there
        self._gap = True
        self._told: set[tuple[str, str | None]] = set()  # strangers and the threads where they know it

    def note_gap(self) -> None:
        """Events may have been missed: the next reading looks for edits, too."""
        self._gap = True

    def addressed(self, text: str) -> str | None:
        """What follows a mention of the app at the beginning; None where there is none."""
        found = self._mention.match(text)
        return text[found.end() :] if found else None

    # ---- live
    async def take_event(self, event: dict[str, Any]) -> After | None:
        """One ``message`` event. Returns what is to be done after it was acknowledged, if anything.

        Raises:
            Postponed: do not acknowledge; Slack shall send the event again.
        """
        channel = str(event.get("channel", ""))
        if event.get("subtype") == "message_changed":
            return await self._take_edit(channel, event)
        episode = self._episode(channel, event)
        if episode is None:
            return None
        user, thread = str(event.get("user", "")), str(event["thread_ts"])
        if not await self.allow.allows(user):
            return self.refuse(channel, user, thread, is_person="bot_id" not in event)
        if self._asks_for_status(event):
            return lambda: self._home.tell_status(channel, user, thread)
        await self._take_earlier(channel, thread, str(event["ts"]))
        self._take(channel, event, episode)
        self._note_read(reference(channel, thread), str(event["ts"]))
        return None

    async def _take_earlier(self, channel: str, thread: str, ts: str) -> None:
        """Replies are heard in the order in which they were written: take in those before ``ts`` that
        are still on their way, or lost. As far as Slack allows so many calls.

        Raises:
            Postponed: they cannot be read now.
        """
        if self._reading.delay() > 0:
            return
        self._reading.take()
        seen = self._read_up_to.get(reference(channel, thread))
        oldest = thread if seen is None else f"{float(seen) - OVERLAP_SECONDS:.6f}"
        try:
            async with asyncio.timeout(EARLIER_SECONDS):
                async for message in self._web.replies(channel, thread, oldest):
                    if float(message["ts"]) >= float(ts):
                        return
                    with suppress(Undecided):  # whoever that is, the others need not wait for it
                        await self._take_found(channel, message)
        except (CallFailed, TimeoutError) as failed:
            self._on_postponed()
            raise Postponed(f"replies before {ts} cannot be read now: {failed}") from failed

    def _note_read(self, name: str, ts: str) -> None:
        self._read_up_to[name] = max(ts, self._read_up_to.get(name, ""))

    def _asks_for_status(self, message: dict[str, Any]) -> bool:
        text = str(message.get("text", ""))
        said = self.addressed(text)
        return (text if said is None else said).strip().lower().rstrip("?") == "status"

    def _episode(self, channel: str, message: dict[str, Any]) -> str | None:
        """Whose thread the message is a reply in; None for everything that is no reply."""
        thread, ts = message.get("thread_ts"), message.get("ts")
        if not thread or not ts or thread == ts or message.get("subtype") not in WRITTEN:
            return None
        if message.get("user") == self.bot_user:
            return None
        return self._desk.episode_of_thread(reference(channel, str(thread)))

    def _take(self, channel: str, message: dict[str, Any], episode: str) -> Verdict | None:
        text = self._text(message)
        if not text:
            return None  # a file alone: there is nothing an agent could read
        ts = str(message["ts"])
        self._heard[reference(channel, str(message["thread_ts"]))] = time.time()
        verdict = self._desk.take_reply(
            key=reference(channel, ts),
            episode=episode,
            alert=None,
            annotator=str(message["user"]),
            text=text,
            sent_at=float((message.get("edited") or {}).get("ts") or ts),  # since when it says so
        )
        log.info("reply %s of %s to %s: %s", ts, message["user"], episode, verdict)
        return verdict

    def _text(self, message: dict[str, Any]) -> str:
        text = str(message.get("text", ""))
        said = self.addressed(text)
        return typed(text if said is None else said)

    async def _take_edit(self, channel: str, event: dict[str, Any]) -> After | None:
        message, before = event.get("message") or {}, event.get("previous_message") or {}
        if message.get("text") == before.get("text"):
            return None  # Slack also reports previews of links and the like as changes
        episode, user = self._episode(channel, message), str(message.get("user", ""))
        if episode is None and self._desk.guidance_of_key(reference(channel, str(message.get("ts", "")))) is not None:
            return lambda: self._web.note(channel, user, None, _EDITED_MENTION)
        if episode is None or not await self.allow.allows(user):
            return None
        if not self._asks_for_status(message) and self._take(channel, message, episode) == "duplicate":
            self._correct(channel, message, episode)  # else the first text never came: the new one is the reply
        return None

    def _correct(self, channel: str, message: dict[str, Any], episode: str) -> None:
        """An edited reply takes the place of its first text where the agent has not read that yet, and
        is a correction beside it otherwise."""
        ts, edited = str(message["ts"]), (message.get("edited") or {}).get("ts")
        first = self._desk.guidance_of_key(reference(channel, ts))
        text = self._text(message)
        if not edited or not text or first is None:
            return
        known = max(first.sent_at, self._edited.get(first.key, 0.0))
        if float(edited) <= known:
            return  # this text was taken in already, or a newer one
        verdict = self._desk.take_reply(
            key=edit_key(channel, ts, str(edited)),
            episode=episode,
            alert=None,
            annotator=str(message["user"]),
            text=text,
            sent_at=float(edited),
            kind=first.kind if first.state == "queued" and first.kind != "control" else "correction",
            replaces=first.key,
        )
        self._edited[first.key] = float(edited)
        log.info("edit of reply %s of %s to %s: %s", ts, message["user"], episode, verdict)

    def refuse(self, channel: str, user: str, thread: str | None, *, is_person: bool) -> After | None:
        """Tell a stranger once a thread that nobody listens to them."""
        log.warning("a reply of %s, who is no annotator, was refused", user or "a bot")
        if not user or not is_person or (user, thread) in self._told:
            return None
        self._told.add((user, thread))
        return lambda: self._web.note(channel, user, thread, _STRANGER)

    # ---- catching up
    async def catch_up(self) -> None:
        """Read what the open threads hold beyond their cursors.

        Raises:
            CallFailed: Slack did not answer; threads read so far are done.
            Undecided: some authors could not be told apart; the other replies are taken in.
        """
        gap, self._gap = self._gap, False
        since = time.time() - EDIT_SECONDS
        self._heard = {thread: at for thread, at in self._heard.items() if at > since}
        threads = [(thread, cursor) for thread, cursor in self._desk.open_threads() if message_of(thread)]
        undecided: Undecided | None = None
        try:
            newest = await self._latest_replies(threads) if len(threads) > DIRECT_READS else {}
            for thread, cursor in threads:
                edits = gap and thread in self._heard
                latest = newest.get(thread)
                if latest is not None and latest <= cursor and not edits:
                    continue
                try:
                    await self._read(thread, cursor, back=EDIT_SECONDS if edits else OVERLAP_SECONDS)
                except Undecided as error:
                    undecided = error
        except BaseException:
            self._gap |= gap
            raise
        if undecided is not None:
            self._gap |= gap
            raise undecided

    async def _latest_replies(self, threads: list[tuple[str, str]]) -> dict[str, str]:
        """Of each thread the ``ts`` of its newest reply ("" without any), where the history tells."""
        latest: dict[str, str] = {}
        for channel in {thread.partition(":")[0] for thread, _ in threads}:
            first = min(thread.partition(":")[2] for thread, _ in threads if thread.startswith(f"{channel}:"))
            async for message in self._web.history(channel, f"{float(first) - 1:.6f}"):
                latest[reference(channel, str(message["ts"]))] = str(message.get("latest_reply", ""))
        return latest

    async def _read(self, name: str, cursor: str, *, back: float) -> None:
        channel, thread = message_of(name) or ("", "")
        oldest = f"{float(cursor) - back:.6f}" if cursor else thread
        last, undecided = cursor, None
        try:
            async for message in self._web.replies(channel, thread, oldest):
                try:
                    await self._take_found(channel, message)
                except Undecided as error:
                    undecided = error  # go on, but read from here again
                if undecided is None:
                    last = max(last, str(message["ts"]))
        finally:
            if last != cursor:
                self._desk.advance_cursor(name, last)
            self._note_read(name, last or thread)
        if undecided is not None:
            raise undecided

    async def _take_found(self, channel: str, message: dict[str, Any]) -> None:
        episode = self._episode(channel, message)
        if episode is None or not await self.allow.allows(str(message.get("user", ""))):
            return
        if self._asks_for_status(message):
            return  # the answer has had its time
        at = float(message["ts"])
        verdict = self._take(channel, message, episode)
        if verdict == "duplicate":
            self._correct(channel, message, episode)
        elif verdict == "accepted" and time.time() - at > MISSED_SECONDS:
            self._on_missed(at)
