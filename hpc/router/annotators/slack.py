"""Annotators in Slack: one thread for each episode, alerts and receipts in it, replies out of it."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from slack_sdk.socket_mode.request import SocketModeRequest

from hpc.config.annotators import SlackConfig
from hpc.core.errors import AnnotatorError
from hpc.router.annotators.slack_actions import Actions
from hpc.router.annotators.slack_allow import AllowList
from hpc.router.annotators.slack_blocks import Blocks
from hpc.router.annotators.slack_catch_up import keep_catching_up
from hpc.router.annotators.slack_home import Home
from hpc.router.annotators.slack_lists import Lists
from hpc.router.annotators.slack_mentions import Mentions
from hpc.router.annotators.slack_posts import Publisher
from hpc.router.annotators.slack_replies import Replies
from hpc.router.annotators.slack_sockets import Sockets
from hpc.router.annotators.slack_tokens import SlackTokens
from hpc.router.annotators.slack_web import CallFailed, Declined, SlackWeb, required_scopes
from hpc.router.desk import Desk

FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 60.0
REMEMBERED_EVENTS = 5000

log = logging.getLogger(__name__)


class SlackFrontend:
    """Shows what the desk has to show in a Slack channel and takes the answers in.

    Only annotators of the allow-list are obeyed. What agents wrote is redacted, escaped and cut
    before it leaves.
    """

    def __init__(self, config: SlackConfig, tokens: SlackTokens) -> None:
        self._config = config
        self._tokens = tokens

    async def check(self) -> dict[str, Any]:
        """Whether everything is in place: tokens, scopes, channel, annotators.

        Returns:
            ``url`` (of the workspace), ``team``, ``bot``, ``bot_user``, ``channel``, ``channel_name``,
            ``scopes`` and ``annotators`` (a count).

        Raises:
            AnnotatorError: it can never work as it is, or Slack cannot be reached now.
        """
        async with SlackWeb(self._config, self._tokens) as web:
            try:
                found = await self._examine(web)
                await web.open_socket_url()
            except CallFailed as failed:
                raise AnnotatorError(
                    f"Slack cannot be asked now: {failed}", f"see that {self._config.base_url} can be reached from here"
                ) from failed
            return found

    async def run(self, desk: Desk) -> None:
        """Publish posts and take replies in until cancelled.

        Raises:
            AnnotatorError: it can never work: a bad token, a missing scope, no such channel.
        """
        async with SlackWeb(self._config, self._tokens) as web:
            found = await self._examine_patiently(web)
            log.info("Slack: %s in %s, channel %s", found["bot"], found["team"], found["channel_name"])
            try:
                async with asyncio.TaskGroup() as group:
                    _Service(self._config, self._tokens, desk, web, group, found["bot_user"], found["url"]).start()
            except BaseExceptionGroup as failures:
                raise _worst(failures) from failures

    async def _examine_patiently(self, web: SlackWeb) -> dict[str, Any]:
        delay = FIRST_RETRY_SECONDS
        while True:
            try:
                return await self._examine(web)
            except CallFailed as failed:
                log.warning("Slack cannot be asked now, again in %g s: %s", delay, failed)
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_RETRY_SECONDS)

    async def _examine(self, web: SlackWeb) -> dict[str, Any]:
        who, scopes = await web.auth_test()
        missing = required_scopes() - scopes if scopes is not None else frozenset()
        if missing:
            raise AnnotatorError(
                f"the Slack app lacks the scopes {', '.join(sorted(missing))}",
                "add them as in templates/slack/manifest.json and reinstall the app",
            )
        channel = await self._examine_channel(web)
        annotators = set(self._config.annotators)
        if self._config.usergroup is not None:
            try:
                annotators |= await web.usergroup_members(self._config.usergroup)
            except Declined as declined:
                raise AnnotatorError(
                    f"the members of {self._config.usergroup} cannot be read: {declined.error}",
                    "mend annotators.slack.usergroup",
                ) from declined
        return {
            "url": str(who.get("url", "")),
            "team": who.get("team"),
            "bot": who.get("user"),
            "bot_user": str(who.get("user_id", "")),
            "channel": self._config.channel,
            "channel_name": channel.get("name"),
            "scopes": sorted(scopes or ()),
            "annotators": len(annotators),
        }

    async def _examine_channel(self, web: SlackWeb) -> dict[str, Any]:
        try:
            channel = await web.channel_info()
        except Declined as declined:
            raise AnnotatorError(
                f"the Slack channel {self._config.channel!r} cannot be read: {declined.error}",
                "mend annotators.slack.channel: the id at the end of the channel's About tab",
            ) from declined
        name = channel.get("name")
        if channel.get("is_archived"):
            raise AnnotatorError(f"the Slack channel {name} is archived", "choose another channel")
        if not channel.get("is_member"):
            raise AnnotatorError(f"the Slack app is no member of {name}", "invite it there: /invite @apollo")
        return channel


class _Service:
    """The parts of one run of the frontend, joined."""

    def __init__(
        self,
        config: SlackConfig,
        tokens: SlackTokens,
        desk: Desk,
        web: SlackWeb,
        group: asyncio.TaskGroup,
        bot_user: str,
        workspace: str,
    ) -> None:
        blocks, lists = Blocks(config.shown_steps), Lists(workspace)
        allow = AllowList(config, web.usergroup_members)
        self._allow = allow
        self._config = config
        self._group = group
        self._missing = asyncio.Event()  # set when replies may have been missed
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._home = Home(desk, web, allow, lists)
        self._sockets = Sockets(web, tokens, config.sockets, self._take, self._lost_touch)
        self._publisher = Publisher(desk, web, blocks, lists, config, on_posted=self._sockets.posted)
        self._replies = Replies(
            *(desk, web, allow, self._home, bot_user),
            on_missed=self._sockets.suspect,
            on_postponed=self._missing.set,
        )
        self._mentions = Mentions(desk, web, self._replies, self._home, config.channel)
        self._actions = Actions(desk, web, allow, blocks, self._home)

    def start(self) -> None:
        """Begin publishing, listening and catching up, as tasks of the group."""
        readers = [self._replies.catch_up, self._mentions.catch_up]
        self._group.create_task(self._allow.keep_fresh())
        self._group.create_task(self._publisher.run())
        self._group.create_task(self._sockets.run())
        self._group.create_task(keep_catching_up(readers, self._config.catch_up_seconds, self._missing))

    def _lost_touch(self) -> None:
        """A connection is new: something may have been missed before."""
        self._replies.note_gap()
        self._missing.set()

    async def _take(self, request: SocketModeRequest) -> dict[str, Any] | None:
        """One request of Socket Mode; all that must last is durable when this returns."""
        payload = request.payload
        if request.type == "interactive":
            answer = await self._actions.take(payload)
            self._afterwards(answer.after)
            return answer.payload
        if request.type == "events_api":
            event, event_id = payload.get("event") or {}, str(payload.get("event_id", ""))
            if event_id not in self._seen:
                await self._take_event(event)
                self._remember(event_id)
        return None

    async def _take_event(self, event: dict[str, Any]) -> None:
        match event.get("type"):
            case "message":
                self._afterwards(await self._replies.take_event(event))
            case "app_mention":
                self._afterwards(await self._mentions.take_event(event))
            case "reaction_added" | "reaction_removed":
                await self._actions.take_reaction(event)
            case "app_home_opened":
                self._afterwards(lambda: self._home.opened(event))

    def _remember(self, event_id: str) -> None:
        self._seen[event_id] = None
        if len(self._seen) > REMEMBERED_EVENTS:
            self._seen.popitem(last=False)

    def _afterwards(self, job: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        if job is not None:
            self._group.create_task(job())


def _worst(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one failure to report: the frontend can never work, before any accident."""
    flat: list[BaseException] = []
    pending: list[BaseException] = [failures]
    while pending:
        failure = pending.pop()
        if isinstance(failure, BaseExceptionGroup):
            pending.extend(failure.exceptions)
        else:
            flat.append(failure)
    return next((failure for failure in flat if isinstance(failure, AnnotatorError)), flat[0])
