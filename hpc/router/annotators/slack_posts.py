"""Publishes what the desk wants published: each post once, the most urgent first.

The desk's journal is the send queue. A post is noted before its call and after its answer; where
an answer was lost, the message is looked for by its metadata before it is posted again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from hpc.config.annotators import SlackConfig
from hpc.router.annotators.slack_blocks import Blocks, Message, metadata
from hpc.router.annotators.slack_lists import Lists
from hpc.router.annotators.slack_references import message_of, reference
from hpc.router.annotators.slack_web import CallFailed, Declined, Lane, Limited, NotSent, SlackWeb
from hpc.router.desk import AlertCard, Desk, EpisodeCard, Post

WINDOW = 100  # posts looked at in one turn
SETTLE_SECONDS = 1.0  # a message whose answer was lost shows in the history after so long
SEARCH_BACK_SECONDS = 900.0  # clocks here and there may differ by so much
MAX_HOLD_SECONDS = 60.0
TURN_SECONDS = 1.0  # the longest wait before more urgent posts are looked for

_CALLS_A_SECOND = 50 / 60  # Slack's tier 3: updates and reactions
_CALL_BURST = 20
_GONE = ("message_not_found", "thread_not_found", "cant_update_message", "too_many_reactions")
_CONTENT = ("invalid_blocks", "invalid_blocks_format", "msg_blocks_too_long", "msg_too_long", "no_text")

log = logging.getLogger(__name__)


class Publisher:
    """Takes posts from the desk and brings them into Slack.

    Args:
        on_posted: called after each new message with the monotonic time before its call: Slack tells
            the app of it over Socket Mode.
    """

    def __init__(
        self,
        desk: Desk,
        web: SlackWeb,
        blocks: Blocks,
        lists: Lists,
        config: SlackConfig,
        *,
        on_posted: Callable[[float], None] = lambda began_at: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._desk = desk
        self._web = web
        self._blocks = blocks
        self._lists = lists
        self._on_posted = on_posted
        self._channel = config.channel
        self._posting = Lane(config.posts_per_second, config.post_burst, clock=clock)
        self._updating = Lane(_CALLS_A_SECOND, _CALL_BURST, clock=clock)
        self._reacting = Lane(_CALLS_A_SECOND, _CALL_BURST, clock=clock)
        self._clock = clock
        self._held: dict[str, tuple[float, float]] = {}  # post -> (not before, the hold after that)
        self._surely_absent: set[str] = set()
        """Posts whose last call surely did nothing: no need to look for them."""
        self._owners: dict[str, tuple[str, str]] = {}  # alert -> (episode, who has claimed it)

    async def run(self) -> None:
        """Publish until cancelled."""
        self._owners = {card.alert: (card.episode, card.owner) for card in self._desk.alerts() if card.owner}
        while True:
            posts = await self._desk.wait_posts(WINDOW)
            ready = next((post for post in posts if self._delay(post) <= 0), None)
            if ready is None:
                await asyncio.sleep(min(TURN_SECONDS, max(0.01, min(map(self._delay, posts)))))
            else:
                await self.publish(ready)

    def _delay(self, post: Post) -> float:
        not_before, _ = self._held.get(post.post, (0.0, 0.0))
        return max(not_before - self._clock(), self._lane(post).delay())

    def _lane(self, post: Post) -> Lane:
        if post.kind in ("board", "update"):
            return self._updating
        if post.kind == "receipt" and post.status == "delivered":
            return self._reacting
        return self._posting

    async def publish(self, post: Post) -> None:
        """One try to publish one post; it stays with the desk when the try fails."""
        lane = self._lane(post)
        try:
            await self._publish(post, lane)
        except Limited as limited:
            lane.close(limited.seconds)
            self._surely_absent.add(post.post)
        except NotSent as failed:
            self._surely_absent.add(post.post)
            self._hold(post, failed)
        except Declined as declined:
            if declined.error in _GONE or declined.error in _CONTENT:
                self._drop(post, str(declined))
            else:
                self._surely_absent.add(post.post)
                self._hold(post, declined)
        except CallFailed as failed:
            self._hold(post, failed)
        else:
            self._held.pop(post.post, None)
            self._surely_absent.discard(post.post)

    def _hold(self, post: Post, why: Exception) -> None:
        _, seconds = self._held.get(post.post, (0.0, SETTLE_SECONDS))
        self._held[post.post] = (self._clock() + seconds, min(2 * seconds, MAX_HOLD_SECONDS))
        log.warning("%s of %s is not published yet: %s", post.kind, post.episode, why)

    def _drop(self, post: Post, why: str) -> None:
        log.error("%s of %s is given up: %s", post.kind, post.episode, why)
        self._desk.drop_post(post.post, why)
        self._held.pop(post.post, None)
        self._surely_absent.discard(post.post)

    async def _publish(self, post: Post, lane: Lane) -> None:
        if post.kind == "digest":
            threads = {card.episode: card.thread for card in self._desk.episodes() if card.thread}
            message = self._lists.digest(self._desk.digest(post.post), threads)
            await self._post_once(post, lane, self._channel, None, message)
            return
        card = self._desk.episode(post.episode)
        if card is None:
            self._drop(post, "the desk does not know the episode")
            return
        thread = message_of(card.thread or "")
        if post.kind == "thread":
            await self._post_once(post, lane, self._channel, None, self._board(card))
        elif card.thread is None:
            self._hold(post, LookupError("its thread is not open yet"))
        elif thread is None:
            self._drop(post, "its thread is not in Slack")
        elif post.kind == "board":
            lane.take()
            await self._web.update(*thread, self._board(card))
            self._desk.finish_post(post.post, reference(*thread))
        elif post.kind == "receipt":
            await self._publish_receipt(post, lane, thread)
        else:
            await self._publish_alert(post, lane, thread, card)

    def _board(self, card: EpisodeCard) -> Message:
        owners = [owner for episode, owner in self._owners.values() if episode == card.episode]
        return self._blocks.board(card, list(dict.fromkeys(owners)))

    async def _publish_alert(self, post: Post, lane: Lane, thread: tuple[str, str], card: EpisodeCard) -> None:
        alert = self._desk.alert(post.alert or "")
        if alert is None:
            self._drop(post, "the desk does not know the alert")
        elif post.kind == "alert":
            await self._post_once(post, lane, *thread, self._blocks.alert(alert))
        elif post.kind == "escalation":
            await self._post_once(post, lane, *thread, self._blocks.escalation(alert, post.target or ""))
        else:
            await self._publish_update(post, lane, thread, card, alert)

    async def _publish_update(
        self, post: Post, lane: Lane, thread: tuple[str, str], card: EpisodeCard, alert: AlertCard
    ) -> None:
        message = message_of(alert.reference or "")
        if message is None:
            self._drop(post, "its message is not in Slack")
            return
        lane.take()
        await self._web.update(*message, self._blocks.alert(alert))
        self._desk.finish_post(post.post, reference(*message))
        if self._note_owner(alert):
            lane.take()
            try:
                await self._web.update(*thread, self._board(card))  # it names the owners, too
            except Limited as limited:
                lane.close(limited.seconds)
            except CallFailed as failed:
                log.info("the board of %s does not show yet whose its alerts are: %s", post.episode, failed)

    def _note_owner(self, alert: AlertCard) -> bool:
        """Remember who has claimed an open alert; whether that is news."""
        owner = alert.owner if alert.state == "open" else None
        before = self._owners.pop(alert.alert, None)
        if owner is not None:
            self._owners[alert.alert] = (alert.episode, owner)
        return before != self._owners.get(alert.alert)

    async def _publish_receipt(self, post: Post, lane: Lane, thread: tuple[str, str]) -> None:
        guidance = self._desk.guidance(post.guidance or "")
        if guidance is None or post.status is None:
            self._drop(post, "the desk does not know the guidance")
            return
        reply = message_of(guidance.key)
        if post.status != "delivered":
            await self._post_once(post, lane, *thread, self._blocks.receipt(guidance, post.status))
        elif reply is None:  # given with a button or in a terminal: there is no message to mark
            self._desk.finish_post(post.post, "")
        else:
            lane.take()
            await self._web.react(*reply)
            self._desk.finish_post(post.post, reference(*reply))

    async def _post_once(self, post: Post, lane: Lane, channel: str, thread: str | None, message: Message) -> None:
        if post.attempted_at is not None and post.post not in self._surely_absent:
            found = await self._find(post, channel, thread)
            if found is not None:
                self._desk.finish_post(post.post, reference(channel, found))
                return
        self._surely_absent.discard(post.post)
        self._desk.begin_post(post.post)
        lane.take()
        began_at = time.monotonic()
        try:
            ts = await self._web.post(channel, message, metadata=metadata(post), thread=thread)
        except Declined as declined:
            if declined.error not in _CONTENT:
                raise
            log.error("Slack does not take the blocks of a post, it gets the text only: %s", declined)
            plain = Message(text=message.text, blocks=[])
            ts = await self._web.post(channel, plain, metadata=metadata(post), thread=thread)
        self._on_posted(began_at)
        self._desk.finish_post(post.post, reference(channel, ts))

    async def _find(self, post: Post, channel: str, thread: str | None) -> str | None:
        """The ``ts`` of the message that an earlier try may have left."""
        oldest = f"{(post.attempted_at or 0.0) - SEARCH_BACK_SECONDS:.6f}"
        wanted = metadata(post)["event_payload"]
        messages = self._web.history(channel, oldest) if thread is None else self._web.replies(channel, thread, oldest)
        async for message in messages:
            payload = (message.get("metadata") or {}).get("event_payload") or {}
            if payload.get("post_id") == wanted["post_id"] and payload.get("episode") == wanted["episode"]:
                log.info("%s of %s was published by an earlier try", post.kind, post.episode)
                return str(message["ts"])
        return None
