"""Slack's Web API with our own idea of failure: what surely happened, surely did not, or may have.

slack-sdk's client retries a post whose answer was lost, which posts it twice; here it never retries.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

import aiohttp
from slack_sdk.errors import SlackApiError, SlackRequestError
from slack_sdk.web.async_client import AsyncWebClient

from hpc.config.annotators import SlackConfig
from hpc.core.errors import AnnotatorError
from hpc.core.locate import data_dir
from hpc.router.annotators.slack_blocks import Message
from hpc.router.annotators.slack_tokens import SlackTokens

CALL_SECONDS = 10.0
PAGE = 200  # messages a call; Slack's own advice
REACTION = "white_check_mark"

log = logging.getLogger(__name__)
quiet = logging.getLogger(f"{__name__}.sdk")
"""For slack-sdk, whose tracebacks tell of nothing that we do not report ourselves."""
quiet.setLevel(logging.CRITICAL)

_FATAL = {
    "account_inactive": "the app was removed from the workspace: install it again and take the new token",
    "invalid_auth": "the token is not valid: copy it again from the app's pages",
    "missing_scope": "reinstall the app with the scopes of templates/slack/manifest.json",
    "no_permission": "reinstall the app with the scopes of templates/slack/manifest.json",
    "not_allowed_token_type": "SLACK_BOT_TOKEN must be xoxb-…, SLACK_APP_TOKEN xapp-…",
    "not_authed": "the token is empty",
    "token_expired": "the token has expired: turn token rotation off in the app and take a new one",
    "token_revoked": "the token was revoked: install the app again and take the new one",
}
_UNSURE = ("fatal_error", "internal_error", "request_timeout", "service_unavailable", "team_added_to_org")


class Postponed(Exception):
    """Something of Slack cannot be taken in yet: it is not acknowledged, so that it comes again."""


class CallFailed(Exception):
    """A call without its result."""


class NotSent(CallFailed):
    """Slack cannot be reached: the call surely did nothing."""


class Limited(CallFailed):
    """Too many calls: this one did nothing."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"rate limited for {seconds:g} s")
        self.seconds = seconds


class Unsure(CallFailed):
    """The answer was lost or tells of an accident: the call may have happened."""


class Declined(CallFailed):
    """Slack's answer is no."""

    def __init__(self, method: str, error: str, detail: str) -> None:
        super().__init__(f"{method}: {error}{f' ({detail})' if detail else ''}")
        self.error = error


class Lane:
    """A token bucket that also waits when Slack says so. Times are those of ``clock``, in seconds."""

    def __init__(self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._level = self._burst
        self._at = clock()
        self._closed_until = -math.inf

    def delay(self) -> float:
        """Seconds until the next call may be made; 0 is now."""
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, self._closed_until - now, (1 - self._level) / self._rate)

    def take(self) -> None:
        """Count one call."""
        self.delay()
        self._level -= 1

    def close(self, seconds: float) -> None:
        """Make no call for so long."""
        self._closed_until = max(self._closed_until, self._clock() + seconds)


@cache
def required_scopes() -> frozenset[str]:
    """The scopes of the bot token, as the app's manifest asks for them."""
    manifest = json.loads((data_dir("templates") / "slack" / "manifest.json").read_bytes())
    return frozenset(manifest["oauth_config"]["scopes"]["bot"])


class SlackWeb:
    """The calls that the frontend makes. Use as an async context manager."""

    def __init__(self, config: SlackConfig, tokens: SlackTokens) -> None:
        self._config = config
        self._tokens = tokens
        self._session: aiohttp.ClientSession | None = None
        self._client = AsyncWebClient()

    async def __aenter__(self) -> SlackWeb:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_SECONDS))
        self._client = self.make_client(self._tokens.bot)
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._session is not None:
            await self._session.close()

    def make_client(self, token: str) -> AsyncWebClient:
        """A client of slack-sdk on the shared session, without its retries."""
        client = AsyncWebClient(
            token=token, base_url=self._config.base_url, session=self._session, retry_handlers=[], logger=quiet
        )
        client.proxy = self.proxy(client.proxy)
        return client

    def proxy(self, found: str | None) -> str | None:
        """slack-sdk takes a proxy from the environment but does not look at NO_PROXY."""
        host = urlsplit(self._config.base_url).hostname or ""
        return None if host in ("localhost", "127.0.0.1", "::1") or proxy_bypass(host) else found

    async def _call(self, method: Callable[..., Awaitable[Any]], **arguments: Any) -> Any:
        """One call.

        Raises:
            CallFailed: one of its kinds.
            AnnotatorError: no call can ever succeed.
        """
        name = getattr(method, "__name__", "call").replace("_", ".", 1)
        try:
            return await method(**arguments)
        except SlackApiError as error:
            raise _classify(name, error) from error
        except aiohttp.ClientConnectorError as error:
            raise NotSent(f"{name}: {error.strerror or 'cannot connect'}") from error
        except (aiohttp.ClientError, SlackRequestError, OSError, ValueError, AttributeError, TimeoutError) as error:
            # AttributeError: slack-sdk on an answer that is not JSON, such as a proxy's page
            raise Unsure(f"{name}: {type(error).__name__}") from error

    # ---- who and where
    async def auth_test(self) -> tuple[dict[str, Any], frozenset[str] | None]:
        """Who the bot is, and its scopes where Slack says so."""
        answer = await self._call(self._client.auth_test)
        header = next((value for key, value in answer.headers.items() if key.lower() == "x-oauth-scopes"), None)
        scopes = None if header is None else frozenset(scope.strip() for scope in header.split(","))
        return dict(answer.data), scopes

    async def channel_info(self) -> dict[str, Any]:
        """The configured channel."""
        answer = await self._call(self._client.conversations_info, channel=self._config.channel)
        return dict(answer["channel"])

    async def open_socket_url(self) -> str:
        """A fresh Socket Mode address; good once, for a short while."""
        client = self.make_client(self._tokens.app)
        answer = await self._call(client.apps_connections_open, app_token=self._tokens.app)
        return str(answer["url"])

    async def usergroup_members(self, usergroup: str) -> frozenset[str]:
        """Ids of the users of a group."""
        answer = await self._call(self._client.usergroups_users_list, usergroup=usergroup)
        return frozenset(answer["users"])

    # ---- publishing
    async def post(self, channel: str, message: Message, *, metadata: dict[str, Any], thread: str | None) -> str:
        """Post a message; its ``ts``."""
        answer = await self._call(
            self._client.chat_postMessage,
            channel=channel,
            text=message.text,
            blocks=message.blocks,
            metadata=metadata,
            thread_ts=thread,
            unfurl_links=False,
            unfurl_media=False,
        )
        return str(answer["ts"])

    async def update(self, channel: str, ts: str, message: Message) -> None:
        """Show a message anew."""
        await self._call(self._client.chat_update, channel=channel, ts=ts, text=message.text, blocks=message.blocks)

    async def react(self, channel: str, ts: str) -> None:
        """Put a check mark on a message, once."""
        try:
            await self._call(self._client.reactions_add, channel=channel, timestamp=ts, name=REACTION)
        except Declined as declined:
            if declined.error != "already_reacted":
                raise

    async def note(self, channel: str, user: str, thread: str | None, note: Message | str) -> None:
        """Tell one person something that nobody else sees. It matters little whether it arrives."""
        message = Message(text=note, blocks=[]) if isinstance(note, str) else note
        where = {"channel": channel, "user": user, "thread_ts": thread}
        try:
            await self._call(self._client.chat_postEphemeral, text=message.text, blocks=message.blocks, **where)
        except CallFailed as failed:
            log.info("a note was not shown: %s", failed)

    async def open_view(self, trigger: str, view: dict[str, Any]) -> None:
        """Show a modal to whoever caused the trigger."""
        await self._call(self._client.views_open, trigger_id=trigger, view=view)

    async def publish_home(self, user: str, view: dict[str, Any]) -> None:
        """Show a person the app's Home. It matters little whether it arrives: it is asked for again."""
        try:
            await self._call(self._client.views_publish, user_id=user, view=view)
        except CallFailed as failed:
            log.info("the Home of %s was not shown: %s", user, failed)

    # ---- reading
    async def history(self, channel: str, oldest: str) -> AsyncIterator[dict[str, Any]]:
        """Messages of the channel after ``oldest``, newest first, with metadata, without replies."""
        async for message in self._pages(self._client.conversations_history, channel=channel, oldest=oldest):
            yield message

    async def replies(self, channel: str, thread: str, oldest: str) -> AsyncIterator[dict[str, Any]]:
        """Messages of a thread after ``oldest``, in order, with metadata, without the parent."""
        pages = self._pages(self._client.conversations_replies, channel=channel, ts=thread, oldest=oldest)
        async for message in pages:
            if message.get("ts") != thread:
                yield message

    async def _pages(self, method: Callable[..., Awaitable[Any]], **arguments: Any) -> AsyncIterator[dict[str, Any]]:
        cursor: str | None = None
        while True:
            answer = await self._call(method, limit=PAGE, include_all_metadata=True, cursor=cursor, **arguments)
            for message in answer["messages"]:
                yield message
            cursor = (answer.get("response_metadata") or {}).get("next_cursor")
            if not cursor:
                return


def _classify(method: str, error: SlackApiError) -> Exception:
    response = error.response
    status = getattr(response, "status_code", getattr(response, "status", 0))
    if status == 429:
        return Limited(_seconds(response.headers.get("Retry-After")))
    data = getattr(response, "data", None)
    code = str(data.get("error", "")) if isinstance(data, dict) else ""
    if status >= 500 or not code or code in _UNSURE:
        return Unsure(f"{method}: {code or f'status {status}'}")
    if code == "ratelimited":
        return Limited(_seconds(response.headers.get("Retry-After")))
    needed = str(data.get("needed", "")) if isinstance(data, dict) else ""
    if code in _FATAL:
        return AnnotatorError(f"Slack refuses {method}: {code}{f' {needed}' if needed else ''}", _FATAL[code])
    messages = (data.get("response_metadata") or {}).get("messages", []) if isinstance(data, dict) else []
    return Declined(method, code, "; ".join(str(message) for message in messages)[:500])


def _seconds(header: str | None) -> float:
    try:
        return max(float(header or 1), 0.1)
    except ValueError:
        return 1.0
