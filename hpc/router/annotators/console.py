"""Annotators at a terminal: alerts wait in the journal until `hpc inbox` answers them."""

from __future__ import annotations

import asyncio
import logging

from hpc.router.desk import Desk, Post

POSTS = 500
PAUSE_SECONDS = 0.05

log = logging.getLogger(__name__)


def plain(text: str) -> str:
    """Agent text as a terminal may show it: control characters, which could move the cursor or
    forge lines, become ``?``; newlines and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


class ConsoleFrontend:
    """A frontend that publishes nowhere: each alert becomes a line of the router's log.

    Args:
        announce: whether to write those lines.
    """

    def __init__(self, *, announce: bool = True) -> None:
        self._announce = announce

    async def run(self, desk: Desk) -> None:
        """Finish every post at once, until cancelled."""
        while True:
            posts = await desk.wait_posts(POSTS)
            for post in posts if self._announce else ():
                _announce(desk, post)
            desk.finish_posts({post.post: post.episode for post in posts})
            await asyncio.sleep(PAUSE_SECONDS)  # agents come first, and many posts cost little more than one


def _announce(desk: Desk, post: Post) -> None:
    if post.kind == "digest":
        held = [card.alert for card in desk.digest(post.post) if card.state == "open"]
        log.warning("%d alerts were held back: %s; see `hpc inbox list`", len(held), ", ".join(held))
        return
    alert = desk.alert(post.alert) if post.alert else None
    if alert is not None and post.kind == "escalation":
        log.warning("alert %s is unanswered: calling %s", alert.alert, plain(post.target or "nobody"))
    elif alert is not None and post.kind == "alert":
        log.warning(
            "alert %s (%s %.2f at step %d): %s; answer with: hpc inbox reply %s TEXT",
            *(alert.alert, alert.detector, alert.score, alert.step, plain(alert.reason), alert.alert),
        )
