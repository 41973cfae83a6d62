"""Runs the guidance router of a run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Literal

import msgspec

from hpc.config.annotators import AnnotatorsConfig
from hpc.config.router import RouterConfig
from hpc.router.annotators.console import ConsoleFrontend
from hpc.router.desk import Frontend
from hpc.router.service import Router
from hpc.rundir import RunDir
from hpc.slurm import REQUEUE, Allocation


class RouterJob(msgspec.Struct, frozen=True):
    """Serves the run until its episodes are over.

    ``annotators`` replaces the kind that the run was launched with.
    """

    annotators: Literal["slack", "console", "none"] | None = None

    def __call__(self, run: RunDir, allocation: Allocation) -> int:
        """0 when the run is done or somebody stopped the router, `REQUEUE` when it must go on elsewhere.

        Raises:
            AnnotatorError: the annotators can never be reached, for example without tokens.
            HpcError: another router serves the run.
        """

        def connect(router: Router) -> None:
            loop = asyncio.get_running_loop()
            allocation.on_stop(lambda _reason: _call(loop, router.stop))

        outcome = asyncio.run(self.serve(run, connect, job_id=allocation.job_id))
        return REQUEUE if outcome == "stopped" and allocation.stop_reason in ("preempt", "walltime") else 0

    async def serve(self, run: RunDir, on_start: Callable[[Router], None], *, job_id: str = "") -> str:
        """Serve on the running loop; ``on_start`` gets the router, for its `Router.stop`."""
        config = run.read_config()
        annotators = msgspec.convert(config["annotators"], AnnotatorsConfig)
        if self.annotators is not None:
            annotators = msgspec.structs.replace(annotators, kind=self.annotators)
        router = Router(
            run,
            msgspec.convert(config["router"], RouterConfig),
            _frontend(annotators),
            annotators=annotators.kind,
            attention=annotators.attention,
            job_id=job_id,
        )
        on_start(router)
        return await router.serve()


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the router has ended by itself
        loop.call_soon_threadsafe(function)


def _frontend(config: AnnotatorsConfig) -> Frontend:
    if config.kind != "slack":
        return ConsoleFrontend(announce=config.kind == "console")
    from hpc.router.annotators.slack import SlackFrontend
    from hpc.router.annotators.slack_tokens import load_tokens

    return SlackFrontend(config.slack, load_tokens(config))
