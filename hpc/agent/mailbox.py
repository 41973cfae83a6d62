"""An episode's mailbox: alerts go out, guidance comes in, and the episode waits for neither.

Exactly once, across a ``kill -9`` of either side at any instruction:

- an alert is durable in the outbox before `Mailbox.raise_alert` returns and is resent until the
  router has stored it; its id is the agent's, so a second raising is the same alert;
- guidance is durable in the inbox before it is acknowledged; the trajectory says which of it entered
  the context (``applied``), and what the trajectory says is applied is never due again;
- that it was applied is itself a durable message, resent until the router has stored it.

A dead router costs nothing but the delay of its messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import zmq

from hpc.core.errors import HpcError
from hpc.core.ids import new_id
from hpc.rundir import RunDir
from hpc.trajectories.records import DriftSignal, OutcomeReached
from hpc.wire import discovery
from hpc.wire.boxes import Inbox, Outbox
from hpc.wire.client import AgentLink
from hpc.wire.codec import encode
from hpc.wire.messages import Ack, Alert, Bye, Guidance, Message, Progress, Reject, StepBrief

log = logging.getLogger(__name__)

FinalStatus = Literal["applied", "expired", "superseded"]

TICK_SECONDS = 0.25
FIRST_RESEND_SECONDS = 0.5
LAST_RESEND_SECONDS = 5.0
PROGRESS_SECONDS = 1.0
BYE_SECONDS = 5.0
"""How long the end of an episode waits for a live router to take the last messages."""


class Mailbox:
    """The agent's side of the guidance protocol, for one incarnation of one episode.

    Args:
        epoch: number of this incarnation; the router obeys the highest alone.
        applied: ids of the guidance that the trajectory holds; as a mapping also the step of each.

    Raises:
        HpcError: another process has the episode's mailbox open.
    """

    def __init__(
        self,
        run: RunDir,
        *,
        index: int,
        episode: str,
        epoch: int,
        task: str,
        applied: Collection[str] | Mapping[str, int] = (),
    ) -> None:
        self._run = run
        self._episode = episode
        self._epoch = epoch
        self._task = task
        self._outbox = Outbox(run.outbox(index))
        try:
            self._inbox = Inbox(run.inbox(index))
        except HpcError:
            self._outbox.close()
            raise
        self._link = AgentLink(run, index=index, episode=episode, epoch=epoch, task=task, on_message=self._take)
        self._said_bye = False
        self._step = 0
        self._paused = False
        self._stop_requested = False
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._resend_at: dict[str, tuple[float, float]] = {}  # id -> (when, the delay after that)
        self._session = 0
        self._progress: Progress | None = None
        self._progress_at = 0.0
        self._runner: asyncio.Task[None] | None = None
        self._complaint = ""
        steps = applied if isinstance(applied, Mapping) else {}
        self._applied = set(applied)
        self._replaced: set[str] = set()
        for guidance, _ in self._inbox.received:
            self._note_replaced(guidance)
            if guidance.control is not None:
                self._obey(guidance)
            elif guidance.id in self._applied:  # a crash may have come before applied()
                self._outbox.add(self._final_ack(guidance.id, "applied", steps.get(guidance.id)))
        self._inbox.forget_texts(self._applied)

    async def start(self) -> None:
        """Begin to look for the router, now and whenever one appears. Does not wait for it."""
        self._runner = asyncio.create_task(self._run_forever())

    # ---- what goes out

    async def raise_alert(
        self, signal: DriftSignal, *, alert: str, evidence: Sequence[StepBrief], sent_at: float
    ) -> str:
        """Ask for a human's attention; returns ``alert``, durable and on its way.

        Args:
            alert: the id, which begins with the episode's id; raising it again changes nothing.
            evidence: the steps to show, cut short by the caller.

        Raises:
            HpcError: the disk is full, or the alert is larger than a message may be.
        """
        self._outbox.add(
            Alert(
                id=alert,
                sent_at=sent_at,
                episode=self._episode,
                epoch=self._epoch,
                detector=signal.detector,
                score=signal.score,
                step=signal.step,
                reason=signal.reason,
                priority=signal.priority,
                evidence=list(evidence),
                task=self._task,
            )
        )
        self._wake.set()
        return alert

    def progress(self, step: int, state: str, drift: float = 0.0, score: float | None = None) -> None:
        """Tell the router where the episode is; lossy, the newest at most once a second."""
        self._step = step
        self._progress = Progress(
            id=new_id("pr"),
            sent_at=time.time(),
            episode=self._episode,
            epoch=self._epoch,
            step=step,
            state=state,
            drift=drift,
            score=score,
        )

    async def bye(self, outcome: OutcomeReached) -> None:
        """Say how the episode ended. Waits a few seconds for a live router, not at all for a dead one.

        Raises:
            HpcError: the disk is full.
        """
        self._said_bye = True
        self._outbox.add(
            Bye(
                id=f"{self._episode}-bye",
                sent_at=outcome.at,
                episode=self._episode,
                epoch=self._epoch,
                status=outcome.status,
                steps=outcome.steps,
                final_score=outcome.final_score,
                best_score=outcome.best_score,
            )
        )
        self._wake.set()
        info = discovery.read(self._run)
        if self._runner is None or info is None or info.is_stale():
            return
        deadline = time.monotonic() + BYE_SECONDS
        while len(self._outbox) and not self._link.fenced and time.monotonic() < deadline:
            await self._wait_change(deadline - time.monotonic())

    # ---- what comes in

    def due(self) -> list[tuple[Guidance, float]]:
        """Guidance not yet applied, in order, each with the time at which it was delivered."""
        return [
            (guidance, at)
            for guidance, at in self._inbox.received
            if guidance.control is None
            and guidance.id not in self._applied
            and guidance.id not in self._replaced
            and _final_id(guidance.id, "expired") not in self._outbox
        ]

    async def wait_due(self, timeout: float) -> None:
        """Until guidance is due or a stop is requested, ``timeout`` seconds at most."""
        deadline = time.monotonic() + timeout
        while not self.due() and not self._stop_requested and time.monotonic() < deadline:
            await self._wait_change(deadline - time.monotonic())

    async def applied(self, guidance: str, step: int) -> None:
        """Note, durably, that guidance entered the context after ``step``. Call it once the trajectory
        says so; a repetition changes nothing.

        Raises:
            HpcError: the disk is full.
        """
        self._outbox.add(self._final_ack(guidance, "applied", step))
        self._applied.add(guidance)
        self._wake.set()

    async def expired(self, guidance: str, step: int) -> None:
        """Note, durably, that guidance is too old to be applied after ``step``; it is never due again.

        Raises:
            HpcError: the disk is full.
        """
        self._outbox.add(self._final_ack(guidance, "expired", step))
        self._wake.set()

    @property
    def paused(self) -> bool:
        """Whether an annotator asked the episode to pause; survives restarts, as does a stop."""
        return self._paused and not self._stop_requested

    @property
    def stop_requested(self) -> bool:
        """Whether an annotator asked the episode to stop."""
        return self._stop_requested

    async def wait_resumed(self) -> None:
        """Until the episode may go on: resumed, or asked to stop."""
        while self.paused:
            await self._wait_change(None)

    @property
    def fenced(self) -> bool:
        """Whether a newer incarnation of the episode has taken over."""
        return self._link.fenced

    async def close(self) -> None:
        """End the connection and release the files. Unsent messages stay for the next incarnation."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
            self._runner = None
        await self._link.close()
        self._outbox.close()
        self._inbox.close()

    # ---- background

    async def _run_forever(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._link.tick()
                await self._send_due()
                self._complaint = ""
            except (HpcError, OSError, zmq.ZMQError) as error:  # the episode goes on without a router
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    log.warning("no connection to the router: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):  # wait_for would swallow a cancellation (3.11)
                    await self._wake.wait()

    async def _send_due(self) -> None:
        if not self._link.ready:
            return
        if self._link.session != self._session:
            self._session = self._link.session
            self._resend_at.clear()
        now = time.monotonic()
        pending = self._outbox.pending
        bye = f"{self._episode}-bye"
        for name, frame in pending.items():
            at, delay = self._resend_at.get(name, (0.0, FIRST_RESEND_SECONDS))
            if now < at or (name == bye and len(pending) > 1):  # Bye comes last: it closes the episode
                continue
            self._resend_at[name] = (now + delay, min(2 * delay, LAST_RESEND_SECONDS))
            await self._link.send(frame)
        if self._progress is not None and now - self._progress_at >= PROGRESS_SECONDS:
            frame, self._progress, self._progress_at = encode(self._progress), None, now
            await self._link.send(frame)

    async def _take(self, message: Message) -> None:
        match message:
            case Ack(status="ready"):
                self._wake.set()
            case Ack(status="stored"):
                self._settle(message.parent)
            case Reject():
                log.error("the router refused %s (%s): %s", message.parent, message.code, message.reason)
                self._settle(message.parent)  # it would be refused again
            case Guidance():
                await self._take_guidance(message)
            case _:
                log.warning("unexpected %s from the router", type(message).__name__)

    def _settle(self, message_id: str) -> None:
        if self._outbox.settle(message_id):
            self._resend_at.pop(message_id, None)
            self._wake.set()
            self._notify()

    async def _take_guidance(self, guidance: Guidance) -> None:
        if guidance.episode != self._episode:
            log.error("guidance %s is for %s, not for %s", guidance.id, guidance.episode, self._episode)
            return
        known = any(guidance.id == other.id for other, _ in self._inbox.received)
        late = self._said_bye and not known and guidance.id not in self._applied
        if not late:
            new = self._inbox.add(guidance, time.time())  # durable first, then acknowledged
            self._note_replaced(guidance)
            if new and guidance.control is not None:
                self._obey(guidance)
            elif guidance.id in self._applied:  # in the trajectory, though the router does not know
                self._outbox.add(self._final_ack(guidance.id, "applied", None))
            elif guidance.id in self._replaced:  # it arrives after what replaces it
                self._outbox.add(self._final_ack(guidance.id, "superseded", None))
            self._notify()
        ack = Ack(
            id=new_id("ack"),
            sent_at=time.time(),
            parent=guidance.id,
            status="too_late" if late else "delivered",
            episode=self._episode,
            epoch=self._epoch,
        )
        await self._link.send(encode(ack))

    def _obey(self, guidance: Guidance) -> None:
        """A control message takes effect when it arrives (or is read again after a restart)."""
        if guidance.control == "stop":
            self._stop_requested = True
        else:
            self._paused = guidance.control == "pause"
        self._outbox.add(self._final_ack(guidance.id, "applied", self._step))
        self._wake.set()

    def _note_replaced(self, guidance: Guidance) -> None:
        """What a newer text replaces is never due, unless it is in the context or expired already. This
        follows from what is on disk, so it holds over restarts."""
        old = guidance.replaces
        if old is None or old in self._applied or _final_id(old, "expired") in self._outbox:
            return
        self._replaced.add(old)
        self._outbox.add(self._final_ack(old, "superseded", self._step or None))
        self._wake.set()

    def _final_ack(self, guidance: str, status: FinalStatus, step: int | None) -> Ack:
        """What became of guidance, for good."""
        return Ack(
            id=_final_id(guidance, status),
            sent_at=time.time(),
            parent=guidance,
            status=status,
            episode=self._episode,
            epoch=self._epoch,
            step=step,
        )

    def _notify(self) -> None:
        """Wake all who wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_change(self, timeout: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()


def _final_id(guidance: str, status: FinalStatus) -> str:
    """Follows from the guidance's id, so that the outbox holds it once over all restarts."""
    return f"{guidance}-{status}"
