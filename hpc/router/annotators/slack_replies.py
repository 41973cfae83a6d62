"""Takes replies in: what annotators write in the threads of episodes, live or caught up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from hpc.router.annotators.slack_allow import AllowList, Undecided
from hpc.router.annotators.slack_posts import message_of, thread_reference
from hpc.router.annotators.slack_text import typed
from hpc.router.annotators.slack_web import CallFailed, SlackWeb
from hpc.router.desk import Desk, Verdict

OVERLAP_SECONDS = 10.0  # read again before the cursor: messages may show out of order
MISSED_SECONDS = 20.0  # a reply older than this that no socket has brought
DIRECT_READS = 3  # up to so many threads are read one by one, without looking which have news
FIRST_RETRY_SECONDS = 2.0

_WRITTEN = (None, "file_share", "me_message", "thread_broadcast")
_STRANGER = "Thank you, but only this run's annotators are heard here, so your reply was not passed to the agent."

After = Callable[[], Coroutine[Any, Any, None]]

log = logging.getLogger(__name__)


class Replies:
    """Hands thread replies of annotators to the desk.

    Args:
        bot_user: id of the app's own user, whose messages are no replies.
        on_missed: called when a reply was found by reading that no socket had brought.
    """

    def __init__(
        self,
        desk: Desk,
        web: SlackWeb,
        allow: AllowList,
        bot_user: str,
        *,
        on_missed: Callable[[float], None] = lambda ts: None,
    ) -> None:
        self._desk = desk
        self._web = web
        self._allow = allow
        self._bot_user = bot_user
        self._on_missed = on_missed
        self._told: set[tuple[str, str]] = set()  # strangers and the threads where they know it

    # ---- live
    async def take_event(self, event: dict[str, Any]) -> After | None:
        """One ``message`` event. Returns what is to be done after it was acknowledged, if anything.

        Raises:
            Undecided: do not acknowledge; Slack shall send the event again.
        """
        channel = str(event.get("channel", ""))
        if event.get("subtype") == "message_changed":
            await self._take_edit(channel, event)
            return None
        episode = self._episode(channel, event)
        if episode is None:
            return None
        user = str(event.get("user", ""))
        if not await self._allow.allows(user):
            return self._refuse(channel, user, str(event["thread_ts"]), is_person="bot_id" not in event)
        self._take(channel, event, episode)
        return None

    def _episode(self, channel: str, message: dict[str, Any]) -> str | None:
        """Whose thread the message is a reply in; None for everything that is no reply."""
        thread, ts = message.get("thread_ts"), message.get("ts")
        if not thread or not ts or thread == ts or message.get("subtype") not in _WRITTEN:
            return None
        if message.get("user") == self._bot_user:
            return None
        return self._desk.episode_of_thread(thread_reference(channel, str(thread)))

    def _take(self, channel: str, message: dict[str, Any], episode: str) -> Verdict | None:
        text = typed(str(message.get("text", "")))
        if not text:
            return None  # a file alone: there is nothing an agent could read
        ts = str(message["ts"])
        verdict = self._desk.take_reply(
            key=thread_reference(channel, ts),
            episode=episode,
            alert=None,
            annotator=str(message["user"]),
            text=text,
            sent_at=float(ts),
        )
        log.info("reply %s of %s to %s: %s", ts, message["user"], episode, verdict)
        return verdict

    async def _take_edit(self, channel: str, event: dict[str, Any]) -> None:
        """An edited reply is a correction, beside the first text, which the agent may have read."""
        message, before = event.get("message") or {}, event.get("previous_message") or {}
        edited = (message.get("edited") or {}).get("ts")
        if not edited or message.get("text") == before.get("text"):
            return  # Slack also reports previews of links and the like as changes
        episode = self._episode(channel, message)
        if episode is None or not await self._allow.allows(str(message.get("user", ""))):
            return
        if self._take(channel, message, episode) != "duplicate":
            return  # the first text never came here, the new one is the reply
        self._desk.take_reply(
            key=f"{thread_reference(channel, str(message['ts']))}:{edited}",
            episode=episode,
            alert=None,
            annotator=str(message["user"]),
            text=typed(str(message.get("text", ""))),
            sent_at=float(edited),
            kind="correction",
        )

    def _refuse(self, channel: str, user: str, thread: str, *, is_person: bool) -> After | None:
        log.warning("a reply of %s, who is no annotator, was refused", user or "a bot")
        if not user or not is_person or (user, thread) in self._told:
            return None
        self._told.add((user, thread))
        return lambda: self._web.note(channel, user, thread, _STRANGER)

    # ---- catching up
    async def keep_catching_up(self, seconds: float, wake: asyncio.Event) -> None:
        """Read the threads now, every ``seconds``, and whenever ``wake`` is set."""
        retry = FIRST_RETRY_SECONDS
        while True:
            wake.clear()
            try:
                await self.catch_up()
                pause, retry = seconds, FIRST_RETRY_SECONDS
            except (CallFailed, Undecided) as failed:
                log.warning("replies cannot be caught up with now: %s", failed)
                pause, retry = min(retry, seconds), min(2 * retry, seconds)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):  # wait_for of Python 3.11 may swallow a cancellation
                    await wake.wait()

    async def catch_up(self) -> None:
        """Read what the open threads hold beyond their cursors.

        Raises:
            CallFailed: Slack did not answer; threads read so far are done.
            Undecided: some authors could not be told apart; the other replies are taken in.
        """
        threads = [(reference, cursor) for reference, cursor in self._desk.open_threads() if message_of(reference)]
        newest = await self._latest_replies(threads) if len(threads) > DIRECT_READS else {}
        undecided: Undecided | None = None
        for reference, cursor in threads:
            latest = newest.get(reference)
            if latest is not None and latest <= cursor:
                continue
            try:
                await self._read(reference, cursor)
            except Undecided as error:
                undecided = error
        if undecided is not None:
            raise undecided

    async def _latest_replies(self, threads: list[tuple[str, str]]) -> dict[str, str]:
        """Of each thread the ``ts`` of its newest reply ("" without any), where the history tells."""
        latest: dict[str, str] = {}
        for channel in {reference.partition(":")[0] for reference, _ in threads}:
            first = min(reference.partition(":")[2] for reference, _ in threads if reference.startswith(f"{channel}:"))
            async for message in self._web.history(channel, f"{float(first) - 1:.6f}"):
                latest[thread_reference(channel, str(message["ts"]))] = str(message.get("latest_reply", ""))
        return latest

    async def _read(self, reference: str, cursor: str) -> None:
        channel, thread = message_of(reference) or ("", "")
        oldest = f"{float(cursor) - OVERLAP_SECONDS:.6f}" if cursor else thread
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
                self._desk.advance_cursor(reference, last)
        if undecided is not None:
            raise undecided

    async def _take_found(self, channel: str, message: dict[str, Any]) -> None:
        episode = self._episode(channel, message)
        if episode is None or not await self._allow.allows(str(message.get("user", ""))):
            return
        at = float(message["ts"])
        if self._take(channel, message, episode) == "accepted" and time.time() - at > MISSED_SECONDS:
            self._on_missed(at)
