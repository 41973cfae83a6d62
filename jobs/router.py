"""Runs the guidance router of a run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Literal

import msgspec

from hpc.config.annotators import AnnotatorsConfig
from hpc.config.router import RouterConfig
from hpc.core.errors import HpcError
from hpc.router.annotators.console import ConsoleFrontend
from hpc.router.desk import Frontend
from hpc.router.service import Router
from hpc.router.standbys import Presence
from hpc.router.succession import wait_turn
from hpc.rundir import RunDir
from hpc.slurm import REQUEUE, Allocation, is_settled, jobs_of, states
from hpc.wire.discovery import RouterInfo


class RouterJob(msgspec.Struct, frozen=True):
    """Serves the run until its episodes are over.

    ``annotators`` replaces the kind that the run was launched with. A ``standby`` waits until the
    active router is gone, and then serves in its place.
    """

    annotators: Literal["slack", "console", "none"] | None = None
    standby: bool = False

    def __call__(self, run: RunDir, allocation: Allocation) -> int:
        """0 when the run is done or somebody stopped the router, `REQUEUE` when it must go on elsewhere.

        Raises:
            AnnotatorError: the annotators can never be reached, for example without tokens.
            HpcError: another router serves the run.
        """

        def connect(stop: Callable[[], None]) -> None:
            loop = asyncio.get_running_loop()
            allocation.on_stop(lambda _reason: _call(loop, stop))

        outcome = asyncio.run(self.serve(run, connect, job_id=allocation.job_id))
        return REQUEUE if outcome == "stopped" and allocation.stop_reason in ("preempt", "walltime") else 0

    async def serve(self, run: RunDir, on_start: Callable[[Callable[[], None]], None], *, job_id: str = "") -> str:
        """Serve on the running loop, how it ended as `Router.serve` says it; ``on_start`` gets a function
        that ends it."""
        config = run.read_config()
        annotators = msgspec.convert(config["annotators"], AnnotatorsConfig)
        if self.annotators is not None:
            annotators = msgspec.structs.replace(annotators, kind=self.annotators)
        frontend = _frontend(annotators)  # a standby that could not serve shall say so now
        over = asyncio.Event()
        on_start(over.set)
        with Presence(run, job_id=job_id) as presence:
            tenure = await wait_turn(
                run,
                over,
                standby=self.standby,
                is_over=lambda info: _is_over(run, info),
                on_wait=presence.beat if self.standby else lambda: None,
            )
        if tenure is None:
            return "stopped" if over.is_set() else "done"
        router = Router(
            run,
            msgspec.convert(config["router"], RouterConfig),
            frontend,
            annotators=annotators.kind,
            attention=annotators.attention,
            job_id=job_id,
            tenure=tenure,
        )
        stopping = asyncio.create_task(_when(over, router.stop))
        try:
            return await router.serve()
        finally:
            stopping.cancel()


async def _when(event: asyncio.Event, function: Callable[[], None]) -> None:
    await event.wait()
    function()


def _is_over(run: RunDir, info: RouterInfo) -> bool:
    """Whether the scheduler says that the job of this router has ended."""
    try:
        elements = [element for job in jobs_of(run) for element in states(run, job)]
    except HpcError:
        return False
    return any(element.job_id == info.job_id and is_settled(element) for element in elements)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the router has ended by itself
        loop.call_soon_threadsafe(function)


def _frontend(config: AnnotatorsConfig) -> Frontend:
    if config.kind != "slack":
        return ConsoleFrontend(announce=config.kind == "console")
    from hpc.router.annotators.slack import SlackFrontend
    from hpc.router.annotators.slack_tokens import load_tokens

    return SlackFrontend(config.slack, load_tokens(config))
