"""Reading what no socket has brought: after every gap, and now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from hpc.router.annotators.slack_allow import Undecided
from hpc.router.annotators.slack_web import CallFailed, Limited

FIRST_RETRY_SECONDS = 2.0

log = logging.getLogger(__name__)


async def keep_catching_up(
    readers: Sequence[Callable[[], Awaitable[None]]], seconds: float, wake: asyncio.Event
) -> None:
    """Let the readers read now, every ``seconds``, and whenever ``wake`` is set."""
    retry = FIRST_RETRY_SECONDS
    while True:
        wake.clear()
        pause = seconds
        for read in readers:
            try:
                await read()
            except (CallFailed, Undecided) as failed:
                log.warning("replies cannot be caught up with now: %s", failed)
                pause = min(retry, seconds)
                if isinstance(failed, Limited):
                    await asyncio.sleep(failed.seconds)  # Slack asked for it, so nothing may wake us
        retry = FIRST_RETRY_SECONDS if pause == seconds else min(2 * retry, seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):  # wait_for of Python 3.11 may swallow a cancellation
                await wake.wait()
