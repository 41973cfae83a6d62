"""Whom the frontend obeys: users by id, and the members of a user group."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from hpc.config.annotators import SlackConfig
from hpc.router.annotators.slack_web import CallFailed, Postponed

RETRY_SECONDS = 10.0
DECIDE_SECONDS = 2.0
"""Slack waits 3 s for an acknowledgement, and that may need the answer."""

log = logging.getLogger(__name__)


class Undecided(Postponed):
    """The user group cannot be read now: nobody but the listed users can be told apart."""


class AllowList:
    """Says who is an annotator. A group that cannot be read makes nobody one (it fails closed).

    Args:
        fetch: reads the members of a user group.
    """

    def __init__(
        self,
        config: SlackConfig,
        fetch: Callable[[str], Awaitable[frozenset[str]]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._users = frozenset(config.annotators)
        self._usergroup = config.usergroup
        self._seconds = config.usergroup_seconds
        self._fetch = fetch
        self._clock = clock
        self._members: frozenset[str] = frozenset()
        self._fresh_until = float("-inf")
        self._retry_at = float("-inf")
        self._lock = asyncio.Lock()

    async def allows(self, user: str) -> bool:
        """Whether ``user`` is obeyed.

        Raises:
            Undecided: only the group could tell, and it cannot be read now.
        """
        if not user:
            return False
        if user in self._users:
            return True
        if self._usergroup is None:
            return False
        async with self._lock:
            if self._clock() >= self._fresh_until:
                await self._refresh(self._usergroup)
        return user in self._members

    async def _refresh(self, usergroup: str) -> None:
        if self._clock() < self._retry_at:
            raise Undecided(usergroup)
        try:
            async with asyncio.timeout(DECIDE_SECONDS):
                self._members = await self._fetch(usergroup)
        except (CallFailed, TimeoutError) as failed:
            log.warning("the members of user group %s cannot be read, so nobody of it is obeyed: %s", usergroup, failed)
            self._members = frozenset()
            self._retry_at = self._clock() + RETRY_SECONDS
            raise Undecided(usergroup) from failed
        self._fresh_until = self._clock() + self._seconds

    async def keep_fresh(self) -> None:
        """Ask for the members before they are needed, until cancelled."""
        while self._usergroup is not None:
            try:
                self._members = await self._fetch(self._usergroup)
                self._fresh_until = self._clock() + self._seconds
            except CallFailed as failed:  # what is known is good until its time is over
                log.info("the members of user group %s cannot be read now: %s", self._usergroup, failed)
            await asyncio.sleep(max(self._seconds / 2, 1.0))
