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
            ``team``, ``bot``, ``bot_user``, ``channel``, ``channel_name``, ``scopes`` and ``annotators`` (a count).

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
                    _Service(self._config, self._tokens, desk, web, group, found["bot_user"]).start()
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
    ) -> None:
        blocks = Blocks(config.shown_steps)
        allow = AllowList(config, web.usergroup_members)
        self._config = config
        self._group = group
        self._missing = asyncio.Event()  # set when replies may have been missed
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._publisher = Publisher(desk, web, blocks, config)
        self._sockets = Sockets(web, tokens, config.sockets, self._take, self._missing.set)
        self._replies = Replies(desk, web, allow, bot_user, on_missed=self._sockets.suspect)
        self._actions = Actions(desk, web, allow, blocks)

    def start(self) -> None:
        """Begin publishing, listening and catching up, as tasks of the group."""
        self._group.create_task(self._publisher.run())
        self._group.create_task(self._sockets.run())
        self._group.create_task(self._replies.keep_catching_up(self._config.catch_up_seconds, self._missing))

    async def _take(self, request: SocketModeRequest) -> dict[str, Any] | None:
        """One request of Socket Mode; all that must last is durable when this returns."""
        payload = request.payload
        if request.type == "interactive":
            answer = await self._actions.take(payload)
            self._afterwards(answer.after)
            return answer.payload
        if request.type == "events_api":
            event, event_id = payload.get("event") or {}, str(payload.get("event_id", ""))
            if event.get("type") == "message" and event_id not in self._seen:
                self._afterwards(await self._replies.take_event(event))
                self._remember(event_id)
        return None

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
