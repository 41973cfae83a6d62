"""Socket Mode connections that stay alive.

slack-sdk's client reconnects by itself, but tries a spent address for ever, may end up without any
task that would reconnect, and cannot notice a socket that answers pings while events no longer
come. So every client is watched: a stuck address is taken away, a client that stays
disconnected or is suspected is replaced. Suspicion arises when a reply is found by reading that no
socket brought, and when Slack does not tell of a message that we ourselves have posted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.async_client import AsyncBaseSocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse

from hpc.router.annotators.slack_tokens import SlackTokens
from hpc.router.annotators.slack_web import CallFailed, Limited, Postponed, SlackWeb, quiet

PING_SECONDS = 5
WATCH_SECONDS = 2.0
STUCK_SECONDS = 6.0  # disconnected for so long with one address: the address is spent
DEAD_SECONDS = 30.0  # disconnected for so long: the client is broken
CLOSE_SECONDS = 3.0
SILENT_SECONDS = 120.0  # nothing came for so long: ask Slack whether the tokens still count
ECHO_SECONDS = 30.0  # Slack tells of our own messages, too; not within so long: events no longer come
MANY_CONNECTIONS = 9  # Slack allows 10; ghosts of routers that were killed count until Slack notices

log = logging.getLogger(__name__)

Handler = Callable[[SocketModeRequest], Awaitable[dict[str, Any] | None]]
"""Takes one request in; returns what goes into the acknowledgement."""


class _Socket:
    """One client and what is known of its connection. Times are monotonic, in seconds."""

    def __init__(self, client: SocketModeClient) -> None:
        self.client = client
        self.connecting: asyncio.Task[None] | None = None
        self.connected_at: float | None = None
        self.lost_at = time.monotonic()
        self.address: str | None = None
        self.address_since = time.monotonic()


class Sockets:
    """Keeps ``count`` connections open and hands their requests to ``handler``.

    A request is acknowledged after ``handler`` returned; when it raises, Slack sends it again.

    Args:
        on_connected: called after each new connection: something may have been missed before.
    """

    def __init__(
        self, web: SlackWeb, tokens: SlackTokens, count: int, handler: Handler, on_connected: Callable[[], None]
    ) -> None:
        self._web = web
        self._tokens = tokens
        self._count = count
        self._handler = handler
        self._on_connected = on_connected
        self._sockets: list[_Socket] = []
        self._inbound_at = time.monotonic()
        self._event_at = time.monotonic()
        self._posted_at: float | None = None
        self._suspect = asyncio.Event()

    def suspect(self, missed_at: float) -> None:
        """A reply written at ``missed_at`` (Unix seconds) never came: replace the connections that
        were open by then, though they look alive."""
        age = time.time() - missed_at
        if any(s.connected_at is not None and time.monotonic() - s.connected_at > age for s in self._sockets):
            self._suspect.set()

    def posted(self, began_at: float) -> None:
        """A message was posted by a call that began then (monotonic seconds): its event must come."""
        if self._posted_at is None and self._event_at < began_at:
            self._posted_at = began_at

    async def run(self) -> None:
        """Connect and watch until cancelled.

        Raises:
            AnnotatorError: the tokens no longer count.
        """
        try:
            while True:
                while len(self._sockets) < self._count:
                    self._sockets.append(await self._open())
                with suppress(TimeoutError):
                    async with asyncio.timeout(WATCH_SECONDS):  # wait_for of Python 3.11 may swallow a cancellation
                        await self._suspect.wait()
                await self._watch()
        finally:
            await asyncio.gather(*(self._close(socket) for socket in self._sockets))

    async def _open(self) -> _Socket:
        client = SocketModeClient(
            app_token=self._tokens.app,
            web_client=self._web.make_client(self._tokens.app),
            ping_interval=PING_SECONDS,
            logger=quiet,
        )
        client.proxy = self._web.proxy(client.proxy)
        socket = _Socket(client)

        async def on_message(_client: AsyncBaseSocketModeClient, message: dict[str, Any], _raw: str | None) -> None:
            self._note(socket, message)

        async def on_request(source: AsyncBaseSocketModeClient, request: SocketModeRequest) -> None:
            await self._answer(source, request)

        client.message_listeners.append(on_message)
        client.socket_mode_request_listeners.append(on_request)
        try:
            client.wss_uri = await self._web.open_socket_url()  # our own call: it tells a bad token from bad luck
        except CallFailed as failed:
            log.warning("no Socket Mode connection now: %s", failed)
            if isinstance(failed, Limited):
                await asyncio.sleep(failed.seconds)
        except BaseException:
            await client.close()  # type: ignore[no-untyped-call]
            raise
        socket.connecting = asyncio.create_task(client.connect())  # type: ignore[no-untyped-call]
        return socket

    def _note(self, socket: _Socket, message: dict[str, Any]) -> None:
        self._inbound_at = time.monotonic()
        if message.get("type") == "events_api":
            self._event_at, self._posted_at = self._inbound_at, None
        elif message.get("type") == "hello":
            connections = message.get("num_connections", 0)
            log.info("Socket Mode connected, %s connections of the app", connections)
            if connections >= MANY_CONNECTIONS:
                log.warning("the app has %s Socket Mode connections of 10: is another router of it alive?", connections)
            socket.connected_at = time.monotonic()
            self._on_connected()
        elif message.get("type") == "disconnect":
            log.info("Slack renews a Socket Mode connection: %s", message.get("reason"))

    async def _answer(self, client: AsyncBaseSocketModeClient, request: SocketModeRequest) -> None:
        try:
            payload = await self._handler(request)
        except Postponed:
            return  # not acknowledged: Slack sends it again, and catching up finds it
        except Exception:
            log.exception("a %s request failed and was not acknowledged", request.type)
            return
        try:
            await client.send_socket_mode_response(SocketModeResponse(request.envelope_id, payload))
        except (OSError, RuntimeError) as error:  # the socket went away: Slack sends it again, the desk knows it
            log.info("an acknowledgement was not sent: %s", error)

    async def _watch(self) -> None:
        now = time.monotonic()
        doubted = self._suspect.is_set()
        self._suspect.clear()
        if doubted:
            log.warning("a reply never came over Socket Mode: its connections are replaced")
        elif self._posted_at is not None and now - self._posted_at > ECHO_SECONDS:
            log.warning("Slack does not tell of our own messages any more: its connections are replaced")
            doubted, self._posted_at = True, None
        for socket in list(self._sockets):
            if await socket.client.is_connected():
                socket.lost_at = now
                socket.address = None
            else:
                socket.connected_at = None
                self._free_address(socket, now)
            if doubted or now - socket.lost_at > DEAD_SECONDS:
                self._sockets.remove(socket)
                await self._close(socket)
        if now - self._inbound_at > SILENT_SECONDS:
            self._inbound_at = now
            try:
                await self._web.auth_test()
            except CallFailed as failed:
                log.warning("Slack is silent: %s", failed)

    def _free_address(self, socket: _Socket, now: float) -> None:
        if socket.client.wss_uri != socket.address:
            socket.address, socket.address_since = socket.client.wss_uri, now
        elif socket.address is not None and now - socket.address_since > STUCK_SECONDS:
            socket.client.wss_uri = None  # its next try asks for a fresh one
            socket.address = None

    async def _close(self, socket: _Socket) -> None:
        if socket.connecting is not None:
            socket.connecting.cancel()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await socket.client.close()  # type: ignore[no-untyped-call]
        except Exception as error:
            log.info("a Socket Mode connection did not close cleanly: %s", error)
