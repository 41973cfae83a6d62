"""The app's Home and the answers to ``status``: all live episodes at a glance."""

from __future__ import annotations

from typing import Any

from hpc.router.annotators.slack_allow import AllowList, Undecided
from hpc.router.annotators.slack_lists import Lists
from hpc.router.annotators.slack_web import SlackWeb
from hpc.router.desk import Desk


class Home:
    """Shows annotators the run."""

    def __init__(self, desk: Desk, web: SlackWeb, allow: AllowList, lists: Lists) -> None:
        self._desk = desk
        self._web = web
        self._allow = allow
        self._lists = lists

    async def opened(self, event: dict[str, Any]) -> None:
        """Somebody looks at the app's Home."""
        if event.get("tab") == "home":
            await self.show(str(event.get("user", "")))

    async def show(self, user: str) -> None:
        """Show the Home to whoever looks at it; the episodes to annotators alone."""
        try:
            allowed = await self._allow.allows(user)
        except Undecided:
            allowed = False
        view = self._lists.home(self._desk.episodes()) if allowed else self._lists.stranger_home()
        await self._web.publish_home(user, view)

    async def tell_status(self, channel: str, user: str, thread: str | None) -> None:
        """Tell one annotator, who was allowed to ask, how the episodes are."""
        await self._web.note(channel, user, thread, self._lists.status(self._desk.episodes()))
