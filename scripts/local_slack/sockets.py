"""Socket Mode: tickets, connections, envelopes, retries (docs.slack.dev/apis/events-api/using-socket-mode)."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
import uuid
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from local_slack.workspace import APP, BOT_USER, TEAM

TICKET_SECONDS = 30.0
MAX_CONNECTIONS = 10


@dataclass
class Delivery:
    """One try to hand one envelope to the app."""

    kind: str
    event_id: str | None
    attempt: int
    acked: bool


@dataclass(eq=False)
class Connection:
    """One open socket. ``muted``: it looks alive but gets nothing any more."""

    socket: web.WebSocketResponse
    transport: asyncio.Transport | None
    muted: bool = False


@dataclass
class Sockets:
    """All connections of the app, and what is on its way over them.

    An envelope goes to one of the connections. Without an answer within ``ack_seconds`` an event
    is tried again after each of ``retries`` seconds, with the same event_id; an interaction is not.
    """

    ack_seconds: float = 3.0
    retries: tuple[float, ...] = (0.0, 60.0, 300.0)
    base: str = ""
    duplicates: int = 0
    ticket_faults: deque[int] = field(default_factory=deque)
    deliveries: list[Delivery] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    _tickets: dict[str, float] = field(default_factory=dict)
    _waiting: dict[str, asyncio.Future[Any]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _events: int = 0

    def open_ticket(self) -> str:
        """The address of one connection, good once and for half a minute."""
        ticket = secrets.token_hex(16)
        self._tickets[ticket] = time.monotonic() + TICKET_SECONDS
        return f"{self.base.replace('http', 'ws', 1)}/link/?ticket={ticket}&app_id={APP}"

    async def link(self, request: web.Request) -> web.StreamResponse:
        """A client that comes with its ticket."""
        expires = self._tickets.pop(request.query.get("ticket", ""), None)
        if self.ticket_faults:
            return web.Response(status=self.ticket_faults.popleft())
        if expires is None or expires < time.monotonic():
            return web.Response(status=404, text="the ticket is spent or too old")
        socket = web.WebSocketResponse(heartbeat=10)
        with suppress(ConnectionError):  # the client is gone again
            await socket.prepare(request)
            await self._serve(socket, request.transport)
        return socket if socket.prepared else web.Response(status=400)

    async def _serve(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        if len(self.connections) >= MAX_CONNECTIONS:
            await socket.send_json({"type": "disconnect", "reason": "too_many_websockets"})
            await socket.close()
            return
        connection = Connection(socket, transport)
        self.connections.append(connection)
        try:
            await socket.send_json(
                {
                    "type": "hello",
                    "num_connections": len(self.connections),
                    "debug_info": {"host": "local", "approximate_connection_time": 18060},
                    "connection_info": {"app_id": APP},
                }
            )
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    self._take_answer(message.data)
        finally:
            self.connections.remove(connection)

    def _take_answer(self, data: str) -> None:
        try:
            answer = json.loads(data)
            waiting = self._waiting.get(answer["envelope_id"])
        except (ValueError, KeyError, TypeError):
            return  # Slack ignores what it cannot read
        if waiting is not None and not waiting.done():
            waiting.set_result(answer.get("payload"))

    # ---- towards the app
    def publish(self, event: dict[str, Any]) -> str:
        """Send an event in the background; its event_id."""
        self._events += 1
        event_id = f"Ev{self._events:08d}"
        payload = {
            "token": "local",
            "team_id": TEAM,
            "api_app_id": APP,
            "type": "event_callback",
            "event_id": event_id,
            "event_time": int(time.time()),
            "event": event,
            "authorizations": [{"team_id": TEAM, "user_id": BOT_USER, "is_bot": True, "is_enterprise_install": False}],
        }
        twice = self.duplicates > 0
        self.duplicates -= twice
        for _ in range(1 + twice):
            task = asyncio.ensure_future(self.deliver("events_api", payload, event_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return event_id

    async def deliver(self, kind: str, payload: dict[str, Any], event_id: str | None = None) -> tuple[bool, Any]:
        """Hand one payload to the app; whether it was acknowledged, and with what."""
        waits = (0.0, *self.retries) if kind == "events_api" else (0.0,)
        for attempt, wait in enumerate(waits):
            await asyncio.sleep(wait)
            envelope: dict[str, Any] = {
                "envelope_id": str(uuid.uuid4()),
                "type": kind,
                "payload": payload,
                "accepts_response_payload": kind != "events_api",
            }
            if attempt:
                envelope |= {"retry_attempt": attempt, "retry_reason": "timeout"}
            acked, answer = await self._send(envelope)
            self.deliveries.append(Delivery(kind, event_id, attempt, acked))
            if acked:
                return True, answer
        if event_id is not None:
            self.lost.append(event_id)
        return False, None

    async def _send(self, envelope: dict[str, Any]) -> tuple[bool, Any]:
        live = [connection for connection in self.connections if not connection.socket.closed]
        if not live:
            return False, None
        connection = random.choice(live)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[envelope["envelope_id"]] = future
        try:
            if not connection.muted:
                await connection.socket.send_json(envelope)
            return True, await asyncio.wait_for(future, self.ack_seconds)
        except (TimeoutError, ConnectionError, RuntimeError):
            return False, None
        finally:
            del self._waiting[envelope["envelope_id"]]

    # ---- trouble on purpose
    def mute(self) -> int:
        """Deliver nothing to the connections of now, though they stay open; how many these are."""
        for connection in self.connections:
            connection.muted = True
        return len(self.connections)

    async def disconnect(self, reason: str, *, hard: bool = False, close: bool = True) -> int:
        """End all connections: with a notice and its reason, or ``hard`` without any."""
        connections = list(self.connections)
        for connection in connections:
            if hard:
                if connection.transport is not None:
                    connection.transport.abort()
                continue
            with suppress(ConnectionError):  # the client was faster
                if reason:
                    await connection.socket.send_json({"type": "disconnect", "reason": reason, "debug_info": {}})
                if close:
                    await connection.socket.close()
        return len(connections)

    async def stop(self) -> None:
        """End everything under way."""
        for task in list(self._tasks):
            task.cancel()
        for connection in list(self.connections):
            await connection.socket.close()
