"""The router as a process: sockets, timers and files around `RouterState` and `JournalDesk`.

A batch of messages is taken in, its facts are committed as one transaction, and only then are the
answers sent (group commit), if no newer router has taken over meanwhile (`hpc.router.succession`).
Only clients with a key of the run get through the CURVE handshake, and agents and inbox clients each
only to their own socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hmac
import logging
import os
import resource
import socket as sockets
import time
from collections import Counter
from typing import Any

import msgspec
import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator

from hpc.config.attention import AttentionConfig
from hpc.config.router import RouterConfig
from hpc.core import files, processes
from hpc.core.errors import AnnotatorError, HpcError, RouterSuperseded
from hpc.router import succession
from hpc.router.annals import Annalist
from hpc.router.desk import Frontend
from hpc.router.door import Door
from hpc.router.inbox import answer, failed
from hpc.router.journal import JournalDesk
from hpc.router.state import Effect, Ended, RouterState, Send
from hpc.rundir import RunDir
from hpc.wire import discovery, keys
from hpc.wire.codec import MESSAGES, Refusal, encode
from hpc.wire.inbox import REQUESTS, Request, StopRouter
from hpc.wire.messages import Guidance

log = logging.getLogger(__name__)

BATCH = 512
INBOX_BATCH = 64
TICK_SECONDS = 0.2
LOOK_SECONDS = 2.0
"""How often to look for done.json."""
ATTENTION_SECONDS = 2.0
"""How often to see what time has made due for annotators."""
ANNALS_SECONDS = 30.0
"""How often the file for statistics is replaced, at most."""
ANNALS_SHARE = 50.0
"""So many times as long as the last writing took passes before the next."""
COMPACTION_PAUSE_SECONDS = 0.2
MAX_SLICES = 100
SILENT_SECONDS = 20.0
"""An episode unheard of for so long may have ended without a Bye."""
FRONTEND_RETRY_SECONDS = 5.0
DRAIN_SECONDS = 10.0
"""How long the end of the run waits for the last posts to be published."""

STATUS = "status.json"


def _allow_many_connections() -> None:
    """Each agent is an open file; the usual soft limit of 1,024 is less than a large run."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # "unlimited" cannot be asked for everywhere
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _collect_garbage_seldom() -> None:
    """Messages make no cycles, but many objects: the collector would look through all of them all the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


class _Allowed:
    """Lets exactly one public key into a ZAP domain (the interface is pyzmq's)."""

    def __init__(self, public: str) -> None:
        self._public = public.encode()

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether ``key`` (Z85) may connect."""
        return hmac.compare_digest(key, self._public)


class Router:
    """Serves one run.

    Args:
        annotators: kind of the frontend, for router.json.
        attention: when and how often annotators are called.
        job_id: the scheduler's id of this process, for router.json.
        tenure: the right to serve; without one it is taken at once.

    Raises:
        HpcError: the run has no keys, or another router serves it.
    """

    def __init__(
        self,
        run: RunDir,
        config: RouterConfig,
        frontend: Frontend,
        *,
        annotators: str,
        attention: AttentionConfig | None = None,
        job_id: str = "",
        tenure: succession.Tenure | None = None,
    ) -> None:
        self._run = run
        self._config = config
        self._frontend = frontend
        self._annotators = annotators
        self._job_id = job_id
        self._own = keys.load_router_keys(run)
        secret = keys.load_token_secret(run)
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._counters: Counter[str] = Counter()
        self._agent_key = keys.load_agent_keys(run).public
        self._inbox_key = keys.load_inbox_keys(run).public
        self._superseded = False
        self._tenure = tenure or succession.begin(run)
        try:
            self.desk = JournalDesk(
                self._tenure.journal,
                on_reply=self._deliver,
                threads=config.threads,
                board_seconds=config.board_seconds,
                attention=attention,
                verify=self._verify,
            )
        except BaseException:
            self._tenure.end()
            raise
        self._annalist = Annalist(run)
        self._state = RouterState(
            run=run.name,
            verify=lambda episode, token: hmac.compare_digest(keys.episode_token(secret, episode), token),
            resend_seconds=config.resend_seconds,
            epochs=self.desk.epochs(),
            pending=self.desk.pending(),
        )
        self._agents: Door
        self._inbox: Door

    def stop(self) -> None:
        """End `serve` soon; call it on the loop's thread. The journal keeps what is unfinished."""
        self._stop.set()

    def _verify(self) -> None:
        """Make sure that what was just committed may be acknowledged. Whoever asked, the router ends if not."""
        try:
            self._tenure.check()
        except RouterSuperseded:
            self._superseded = True
            self._stop.set()
            raise

    async def serve(self) -> str:
        """Serve until the run is done ("done"), `stop` is called ("stopped") or a newer router has taken
        over ("superseded").

        Raises:
            AnnotatorError: the frontend can never work.
            HpcError: a socket cannot be opened, or the run directory cannot be written.
        """
        _allow_many_connections()
        _collect_garbage_seldom()
        context = zmq.asyncio.Context()
        authenticator = AsyncioAuthenticator(context)
        authenticator.start()
        doors: list[Door] = []
        try:
            authenticator.configure_curve_callback("agent", _Allowed(self._agent_key))
            authenticator.configure_curve_callback("inbox", _Allowed(self._inbox_key))
            for domain in ("agent", "inbox"):
                doors.append(Door(context, domain, self._own))
            self._agents, self._inbox = doors
            host = self._config.host or sockets.gethostname()
            info = discovery.RouterInfo(
                address=f"tcp://{host}:{self._agents.port}",
                inbox_address=f"tcp://{host}:{self._inbox.port}",
                public_key=self._own.public,
                generation=self._tenure.generation,
                heartbeat=time.time(),
                host=host,
                pid=os.getpid(),
                job_id=self._job_id,
                annotators=self._annotators,
                process=processes.identity(),
            )
            log.info("router %d of %s listens at %s", info.generation, self._run.name, info.address)
            return await self._serve(info)
        finally:
            discovery.withdraw(self._run, self._tenure.generation)
            for door in doors:
                door.close()
            authenticator.stop()
            context.destroy(linger=200)
            self.desk.close()
            self._tenure.end()

    async def _serve(self, info: discovery.RouterInfo) -> str:
        services: set[asyncio.Task[Any]] = {
            asyncio.create_task(work, name=name)
            for name, work in {
                "agents": self._serve_agents(),
                "deliveries": self._serve_deliveries(),
                "inbox": self._serve_inbox(),
                "heartbeat": self._beat(info),
                "annotators": self._serve_annotators(),
                "attention": self._serve_attention(),
                "annals": self._serve_annals(),
            }.items()
        }
        life = asyncio.create_task(self._until_over(), name="life")
        try:
            await asyncio.wait({*services, life}, return_when=asyncio.FIRST_COMPLETED)
            for task in services:
                if task.done():
                    task.result()  # a service ends by an error alone
            return "superseded" if self._superseded else life.result()
        except RouterSuperseded as error:
            log.warning("%s", error)
            return "superseded"
        finally:
            for task in (*services, life):
                task.cancel()
            await asyncio.gather(*services, life, return_exceptions=True)
            with contextlib.suppress(HpcError):
                self._write_status()
                self._write_annals()

    # ---- agents

    async def _serve_agents(self) -> None:
        while True:
            batch = await self._agents.receive(BATCH)
            effects: list[Effect] = []
            now = time.time()
            for frames in batch:
                effects += self._read(frames, now)
            await self._carry_out(effects)

    def _read(self, frames: list[bytes], now: float) -> list[Effect]:
        """One message from an agent; whatever is not one is counted and, if it can be, refused."""
        route, body = frames[0], frames[-1]
        found = MESSAGES.examine(body) if len(frames) == 2 else Refusal(parent="", code="malformed", reason="frames")
        if isinstance(found, Refusal):
            self._counters[f"refused_{found.code}"] += 1
            return [self._state.reject(route, found.parent, found.code, found.reason)] if found.parent else []
        self._counters[type(found).__name__.lower()] += 1
        return self._state.receive(route, found, now)

    async def _carry_out(self, effects: list[Effect]) -> None:
        """Make the facts durable, then send."""
        sends = [effect for effect in effects if isinstance(effect, Send)]
        try:
            self.desk.record(effect for effect in effects if not isinstance(effect, Send))
        except RouterSuperseded:
            raise
        except HpcError as error:  # nothing was acknowledged: the agents will say it again
            log.error("a batch of %d messages was not taken in: %s", len(effects), error)
            self._counters["batches_lost"] += 1
            self._state.restore(self.desk.pending())
            await asyncio.sleep(1.0)
            return
        for send in sends:
            self._send(self._agents, send.route, encode(send.message))
        self._wake.set()
        await asyncio.sleep(0)  # with messages always at the door, deliveries and people would never have a turn

    def _send(self, door: Door, route: bytes, frame: bytes) -> None:
        if self._superseded or not door.send(route, frame):  # gone or stuck; whatever matters is sent again
            self._counters["unsent"] += 1

    # ---- guidance

    def _deliver(self, guidance: Guidance) -> None:
        self._state.enqueue(guidance)
        self._wake.set()

    async def _serve_deliveries(self) -> None:
        while True:
            self._wake.clear()
            for send in self._state.tick(time.time()):
                self._counters["guidance_sent"] += 1
                self._send(self._agents, send.route, encode(send.message))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):  # wait_for would swallow a cancellation (3.11)
                    await self._wake.wait()

    # ---- annotators

    async def _serve_inbox(self) -> None:
        while True:
            requests = []
            for frames in await self._inbox.receive(INBOX_BATCH):
                found = REQUESTS.examine(frames[-1]) if len(frames) == 2 else None
                if found is None or isinstance(found, Refusal):
                    self._counters["inbox_refused"] += 1
                    if found is not None and found.parent:
                        refusal = self._state.reject(frames[0], found.parent, found.code, found.reason)
                        self._send(self._inbox, frames[0], encode(refusal.message))
                    continue
                self._counters["inbox_requests"] += 1
                requests.append((frames[0], found))
            for route, reply in self._answers(requests):
                self._send(self._inbox, route, reply)
            if any(isinstance(request, StopRouter) for _, request in requests):
                self.stop()
            await asyncio.sleep(0)

    def _answers(self, requests: list[tuple[bytes, Request]]) -> list[tuple[bytes, bytes]]:
        """Do what is asked as one transaction, and what to say then; empty when nothing may be said."""
        try:
            with self.desk.together():
                return [(route, answer(self.desk, request)) for route, request in requests]
        except RouterSuperseded:
            raise
        except HpcError as error:
            log.error("%d requests were not carried out: %s", len(requests), error)
            self._state.restore(self.desk.pending())
            return [(route, failed(request, error)) for route, request in requests]

    async def _serve_annotators(self) -> None:
        """Run the frontend. It may fail for good (AnnotatorError); any other failure is an accident
        after which it starts again, while agents and inbox go on."""
        while True:
            try:
                await self._frontend.run(self.desk)
            except (AnnotatorError, RouterSuperseded):
                raise
            except Exception:
                log.exception("the annotators' frontend failed; it starts again")
            self._counters["frontend_failures"] += 1
            await asyncio.sleep(FRONTEND_RETRY_SECONDS)

    async def _serve_attention(self) -> None:
        """Do what time makes due for annotators: claims lapse, alerts escalate, digests are made."""
        while True:
            try:
                self.desk.attend()
            except RouterSuperseded:
                raise
            except HpcError as error:  # as for messages: a full disk must not end the router
                log.error("%s", error)
            await asyncio.sleep(ATTENTION_SECONDS)

    async def _serve_annals(self) -> None:
        """Leave what statistics want to know, now and then (and at the end), and forget what is old.

        The file holds every alert of the run: however many there are, writing it takes a small share of the time.
        What is new is gathered in slices, between which agents have their turn.
        """
        spent = 0.0
        while True:
            await asyncio.sleep(max(ANNALS_SECONDS, ANNALS_SHARE * spent))
            try:
                while True:
                    if self.desk.gather(self._annalist):
                        break
                    await asyncio.sleep(0)  # agents come first
                begun = time.monotonic()
                self._write_annals()
                spent = time.monotonic() - begun
                await self._compact()
            except RouterSuperseded:
                raise
            except HpcError as error:
                log.error("%s", error)

    async def _compact(self) -> None:
        for _ in range(MAX_SLICES):
            if not self.desk.compact():
                break
            await asyncio.sleep(COMPACTION_PAUSE_SECONDS)  # agents come first

    def _write_annals(self) -> None:
        self._verify()  # a router that was superseded knows less than the file
        self.desk.chronicle(self._run.name, self._annalist)

    # ---- life

    async def _beat(self, info: discovery.RouterInfo) -> None:
        while True:
            self._verify()
            try:
                discovery.publish(self._run, msgspec.structs.replace(info, heartbeat=time.time()))
                self._write_status()
            except HpcError as error:  # a full disk must not end the router: agents are still connected
                log.error("%s", error)
            await asyncio.sleep(self._config.heartbeat_seconds)

    def _write_status(self) -> None:
        """What `hpc router status` shows; it outlives the router."""
        status = {
            "generation": self._tenure.generation,
            "at": time.time(),
            "connected": self._state.connected,
            **self.desk.counts(),
            "counters": dict(sorted(self._counters.items())),
        }
        files.write_json(self._run.router_dir / STATUS, status)

    async def _until_over(self) -> str:
        """Watch the run directory until the run is done and late replies had their answer. A run that
        is resumed meanwhile is not done any more."""
        over_since: float | None = None
        self._end_silent_episodes(0.0)  # those that ended while no router ran
        while not self._stop.is_set():
            if not self._run.done.exists():
                over_since = None
                self._end_silent_episodes(SILENT_SECONDS)
            elif over_since is None:
                if self._end_silent_episodes(0.0, run_over=True):
                    over_since = time.monotonic()
                    try:  # reports are made now
                        self._write_annals()
                    except HpcError as error:  # a full disk; or superseded, which has set `_stop`
                        log.error("%s", error)
                    log.info("the run is done; staying %g s for late replies", self._config.grace_seconds)
            else:
                late = time.monotonic() - over_since - self._config.grace_seconds
                if late > DRAIN_SECONDS or (late > 0 and not self.desk.counts()["posts_due"]):
                    return "done"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._stop.wait()
        return "stopped"

    def _end_silent_episodes(self, silence: float, *, run_over: bool = False) -> bool:
        """Episodes that ended while nobody listened to their Bye left a result; at the end of the run
        every episode is over. Only episodes unheard of for ``silence`` seconds are looked at. False where
        that cannot be noted now."""
        now = time.time()
        facts = []
        for card in self.desk.live_episodes():
            if now - card.seen_at < silence:
                continue
            result = self._result(card.index)
            if result:
                facts.append(
                    Ended(card.episode, str(result.get("status")), result.get("steps"), result.get("final_score"), now)
                )
            elif run_over:
                facts.append(Ended(card.episode, "stopped", None, None, now))
        for fact in facts:
            self._state.forget(fact.episode)
        try:
            if facts:
                self.desk.record(facts)
        except RouterSuperseded:
            raise
        except HpcError as error:  # as for messages: a full disk must not end the router
            log.error("the end of %d episodes is not noted yet: %s", len(facts), error)
            return False
        return True

    def _result(self, index: int) -> dict[str, Any]:
        """What result.json says; empty while there is none that can be read."""
        path = self._run.result(index)
        try:
            value = files.read_json(path) if path.exists() else {}
        except HpcError as error:
            log.error("%s", error)
            return {}
        return value if isinstance(value, dict) else {}
