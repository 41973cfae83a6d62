"""An agent's connection to the router: finds it, says Hello, and comes back after every loss.

Nothing here is durable and nothing waits for the router: `AgentLink.tick` is called now and then and
does what is due. Messages are resent by the owner, who knows which of them are settled.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable

import zmq
import zmq.asyncio

from hpc.core.errors import HpcError
from hpc.core.ids import new_id
from hpc.rundir import RunDir
from hpc.wire import discovery, keys
from hpc.wire.codec import MESSAGES, Refusal, encode
from hpc.wire.messages import Ack, Hello, Message, Reject

log = logging.getLogger(__name__)

SEEK_SECONDS = 2.0
"""How often to look for ``router.json`` while there is no connection."""
CHECK_SECONDS = 5.0
"""How often to look whether another router has taken over."""
HELLO_SECONDS = 1.0
"""A Hello without an answer is said again after this."""
BEAT_SECONDS = 10.0
"""Once answered, Hello is repeated at this interval, as a sign of life."""
SILENCE_SECONDS = 30.0
"""A router that says nothing for so long is connected to anew."""


def tune(socket: zmq.asyncio.Socket | zmq.Socket[bytes]) -> None:
    """Socket options that router and clients share: heartbeats, no lingering, bounded queues."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15_000)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 30_000)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 30_000)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.SNDHWM, 10_000)
    socket.setsockopt(zmq.RCVHWM, 10_000)


def use_keys(socket: zmq.asyncio.Socket | zmq.Socket[bytes], own: keys.KeyPair, server: str) -> None:
    """Make a client socket speak CURVE with ``own`` keys to the router whose public key is ``server``.

    Raises:
        HpcError: a key is not 40 characters of Z85.
    """
    try:
        socket.setsockopt(zmq.CURVE_PUBLICKEY, own.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, own.secret.encode())
        socket.setsockopt(zmq.CURVE_SERVERKEY, server.encode())
    except zmq.ZMQError as error:
        raise HpcError("a key of the run is not a CURVE key", "restore keys/ and router.json") from error


class AgentLink:
    """One incarnation's connection.

    Args:
        on_message: called with every message that the link does not handle itself.

    Attributes:
        session: grows by one with every new connection that the router has accepted.
        fenced: a newer incarnation of the episode has taken over; the link stays silent for good.
    """

    def __init__(
        self,
        run: RunDir,
        *,
        index: int,
        episode: str,
        epoch: int,
        task: str,
        on_message: Callable[[Message], Awaitable[None]],
    ) -> None:
        self._run = run
        self._index = index
        self._episode = episode
        self._epoch = epoch
        self._task = task
        self._on_message = on_message
        self._context = zmq.asyncio.Context()
        self._socket: zmq.asyncio.Socket | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._generation = 0
        self._refused_generation = 0
        self._looked_at = -CHECK_SECONDS
        self._hello_at = 0.0
        self._heard_at = 0.0
        self._token = ""
        self._ready = False
        self.session = 0
        self.fenced = False

    @property
    def ready(self) -> bool:
        """Whether the router has accepted this incarnation on the present connection."""
        return self._ready and not self.fenced

    async def tick(self) -> None:
        """Look for the router, connect, say Hello: whatever is due.

        Raises:
            HpcError: the run's keys cannot be used.
        """
        if self.fenced:
            return
        now = time.monotonic()
        if now - self._looked_at >= (CHECK_SECONDS if self._ready else SEEK_SECONDS):
            self._looked_at = now
            self._follow(now)
        if self._socket is None:
            return
        if now - self._heard_at > SILENCE_SECONDS:
            self._disconnect()
            self._looked_at = -CHECK_SECONDS
        elif now - self._hello_at >= (BEAT_SECONDS if self._ready else HELLO_SECONDS):
            self._hello_at = now
            hello = Hello(
                id=new_id("he"),
                sent_at=time.time(),
                run=self._run.name,
                episode=self._episode,
                epoch=self._epoch,
                token=self._token,
                task=self._task,
                index=self._index,
            )
            await self.send(encode(hello))

    async def send(self, frame: bytes) -> None:
        """Hand a frame to the connection, if there is one; it may be lost."""
        if self._socket is None or self.fenced:
            return
        try:
            await self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            log.debug("the queue to the router is full")

    async def close(self) -> None:
        """Let frames that were just sent leave, then close the connection."""
        receiver = self._receiver
        self._disconnect(linger_ms=200)
        if receiver is not None:
            await asyncio.gather(receiver, return_exceptions=True)
        # term() waits for lingering frames: not on the loop's thread
        await asyncio.to_thread(self._context.term)

    # ---- connection

    def _follow(self, now: float) -> None:
        """Connect to the router that ``router.json`` names, if it is not the one at hand."""
        info = discovery.read(self._run)
        if info is None or info.generation == self._refused_generation:
            return
        if self._socket is not None and info.generation == self._generation:
            return
        self._disconnect()
        own = keys.load_agent_keys(self._run)
        self._token = keys.episode_token(keys.load_token_secret(self._run), self._episode)
        socket = self._context.socket(zmq.DEALER)
        try:
            tune(socket)
            use_keys(socket, own, info.public_key)
            # Nobody else can guess it: the router sends an episode's guidance to a routing id.
            routing_id = f"{self._episode[-180:]}#{self._epoch}#{secrets.token_hex(16)}"
            socket.setsockopt(zmq.ROUTING_ID, routing_id.encode()[-255:])
            socket.setsockopt(zmq.RECONNECT_IVL, 200)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 10_000)
            socket.connect(info.address)
        except (HpcError, zmq.ZMQError) as error:
            socket.close(0)
            raise HpcError(f"cannot connect to the router at {info.address!r}: {error}") from error
        self._socket = socket
        self._generation = info.generation
        self._hello_at = now - HELLO_SECONDS
        self._heard_at = now
        self._receiver = asyncio.create_task(self._receive(socket))

    def _disconnect(self, linger_ms: int = 0) -> None:
        self._ready = False
        if self._receiver is not None:
            self._receiver.cancel()
            self._receiver = None
        if self._socket is not None:
            self._socket.close(linger_ms)
            self._socket = None

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames = await socket.recv_multipart()
            if socket is not self._socket:
                return
            found = MESSAGES.examine(frames[0]) if len(frames) == 1 else None
            if found is None or isinstance(found, Refusal):
                log.warning("the router sent something that is not a message: %s", found)
                continue
            self._heard_at = time.monotonic()
            try:
                await self._take(found)
            except HpcError as error:  # not acknowledged, so the router will send it again
                log.error("cannot take a %s in: %s", type(found).__name__, error)

    async def _take(self, message: Message) -> None:
        match message:
            case Ack(status="ready"):
                if not self._ready:
                    self._ready = True
                    self.session += 1
                    log.info("%s is connected to router %d", self._episode, self._generation)
                await self._on_message(message)
            case Reject(code="fenced"):
                log.warning("%s epoch %d was superseded by a newer incarnation", self._episode, self._epoch)
                self.fenced = True
            case Reject(code="auth" | "version"):
                log.error("the router refused %s: %s", self._episode, message.reason)
                self._refused_generation = self._generation
                self._disconnect()
            case Reject(code="unknown_episode"):
                self._ready = False
                self._hello_at = 0.0
            case _:
                await self._on_message(message)
