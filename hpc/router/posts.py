"""What the annotators' frontend must publish, kept in the journal until it is.

A post is written in the transaction of the fact that makes it due, so neither can be without the
other. One that needs its episode's thread is due once that thread exists.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import Literal

from hpc.core.ids import Sequence
from hpc.router.catalog import Catalog
from hpc.router.desk import Post, Receipt
from hpc.router.store import Store

RECEIPT_PRIORITY = 0
ESCALATION_PRIORITY = 1
ALERT_PRIORITY = {"ask": 1, "drift": 2, "milestone": 3}
DIGEST_PRIORITY = 3
THREAD_PRIORITY = 4
UPDATE_PRIORITY = 5
BOARD_PRIORITY = 6

_DUE = (  # what brings an alert's message up to date comes after the message itself
    "from post p left join episode e using (episode) where p.done_at is null"
    " and (p.kind in ('thread', 'digest') or e.thread is not null)"
    " and (p.kind <> 'update' or not exists"
    " (select 1 from post m where m.alert = p.alert and m.kind = 'alert' and m.done_at is null))"
)


class Posts:
    """The queue of posts. The methods that add expect the caller's transaction."""

    def __init__(self, store: Store, catalog: Catalog, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._catalog = catalog
        self._clock = clock
        # what was asked for last; forgotten when it may have changed, for each alert of a storm asks again
        self._threadless: set[str] = set()
        self._waiting: int | None = None
        store.on_rollback.append(self._forget)
        self._make_id = Sequence()
        self._board_at: dict[str, float] = {}
        self._changed = asyncio.Event()

    def _forget(self) -> None:
        self._threadless.clear()
        self._waiting = None

    # ---- the frontend's side

    async def wait(self, limit: int = 20) -> list[Post]:
        """The most urgent posts that are due; waits until there is one."""
        while True:
            self._changed.clear()
            rows = self._store.all(f"select p.* {_DUE} order by p.priority, p.number limit ?", limit)
            if rows:
                return [_post(row) for row in rows]
            await self._changed.wait()

    def begin(self, post: str) -> None:
        """Note that publication starts now."""
        with self._store.transaction():
            self._store.run("update post set attempted_at = ? where post = ? and done_at is null", self._clock(), post)
        self._forget()

    def finish(self, post: str, reference: str) -> None:
        """Note the published message; of kind "thread", ``reference`` becomes the episode's thread, of
        kind "alert" the alert's reference: it has been shown, and begins to wait for an answer."""
        with self._store.transaction():
            self._store.run(
                "update post set done_at = ?, reference = ? where post = ? and done_at is null",
                *(self._clock(), reference, post),
            )
            row = self._store.one("select kind, episode, alert from post where post = ?", post)
            if row is not None and row["kind"] == "thread":
                self._store.run("update episode set thread = ? where episode = ?", reference, row["episode"])
            elif row is not None and row["kind"] == "alert":
                self._store.run(
                    "update alert set reference = ?, waiting_since = ? where number = ?",
                    *(reference, self._clock(), self._catalog.number(row["alert"])),
                )
        self._forget()
        self._changed.set()

    def drop(self, post: str, why: str) -> None:
        """Give a post up. What needs a thread that can never be opened is given up with it; the next
        alert tries anew."""
        with self._store.transaction():
            row = self._store.one("select kind, episode, alert from post where post = ?", post)
            if row is None:
                return
            if row["kind"] == "alert":  # without its message there is nothing to bring up to date
                self._store.run(
                    "delete from post where alert = ? and kind = 'update' and done_at is null", row["alert"]
                )
            condition, value = ("episode", row["episode"]) if row["kind"] == "thread" else ("post", post)
            self._store.run(
                f"update post set done_at = ?, dropped = ? where {condition} = ? and done_at is null",
                *(self._clock(), why, value),
            )
        self._forget()

    def count(self) -> int:
        """How many posts are due."""
        row = self._store.one(f"select count(*) as posts {_DUE}")
        return int(row["posts"]) if row is not None else 0

    def waiting_alerts(self, limit: int) -> int:
        """How many alerts wait to be published, counted up to ``limit``, always the same."""
        if self._waiting is None:
            row = self._store.one(
                "select count(*) as posts from (select 1 from post where kind = 'alert' and done_at is null limit ?)",
                limit,
            )
            self._waiting = int(row["posts"]) if row is not None else 0
        return self._waiting

    # ---- the journal's side

    def want_thread(self, episode: str, priority: int = THREAD_PRIORITY) -> None:
        """The episode's thread shall be opened, if it is not; at the highest priority asked for."""
        row = self._store.one("select thread from episode where episode = ?", episode)
        if row is None or row["thread"] is not None:
            return
        waiting = self._store.run(
            "update post set priority = min(priority, ?) where episode = ? and kind = 'thread' and done_at is null",
            *(priority, episode),
        )
        if not waiting:
            self._add("thread", episode, priority)

    def want_board(self, episode: str) -> None:
        """The episode's state shall be shown anew; one that waits already does that."""
        if episode in self._threadless:
            return
        shown = self._store.one(
            "select exists (select 1 from post where episode = ?1 and kind = 'board' and done_at is null"
            " and attempted_at is null) as waiting from episode where episode = ?1 and (thread is not null or exists"
            " (select 1 from post where episode = ?1 and kind = 'thread' and done_at is null"
            " and attempted_at is not null))",
            episode,
        )
        if shown is None:
            self._threadless.add(episode)
            return  # the thread will open with the newest state
        self._board_at[episode] = self._clock()
        if shown["waiting"]:
            return  # it will show the newest state
        self._store.run("delete from post where episode = ? and kind = 'board' and done_at is null", episode)
        self._add("board", episode, BOARD_PRIORITY)

    def alert(self, episode: str, alert: str, priority: Literal["ask", "drift", "milestone"]) -> None:
        """An alert shall be shown, in the episode's thread."""
        self.want_thread(episode, ALERT_PRIORITY[priority])
        self._add("alert", episode, ALERT_PRIORITY[priority], alert=alert)
        self.want_board(episode)

    def want_update(self, alert: str) -> None:
        """The message of an alert shall be brought up to date, if there is one or one is under way."""
        shown = self._store.one(
            "select episode from post where alert = ? and kind = 'alert' and dropped is null"
            " and (done_at is not null or attempted_at is not null)",
            alert,
        ) or self._store.one(
            "select episode from alert where number = ? and reference is not null", self._catalog.number(alert)
        )
        if shown is None:
            return  # it will be published with the newest state
        self._store.run("delete from post where alert = ? and kind = 'update' and done_at is null", alert)
        self._add("update", shown["episode"], UPDATE_PRIORITY, alert=alert)

    def escalation(self, episode: str, alert: str, target: str) -> None:
        """``target`` shall be called to an alert."""
        self.want_thread(episode, ESCALATION_PRIORITY)
        self._add("escalation", episode, ESCALATION_PRIORITY, alert=alert, target=target)

    def withdraw_escalations(self, alert: str) -> None:
        """Nobody needs to be called any more: somebody has taken care of the alert."""
        self._store.run(
            "delete from post where alert = ? and kind = 'escalation' and done_at is null and attempted_at is null",
            alert,
        )

    def digest(self) -> str:
        """The post of the digest that is to be published next; made if there is none."""
        row = self._store.one(
            "select post from post where kind = 'digest' and done_at is null and attempted_at is null"
        )
        return str(row["post"]) if row is not None else self._add("digest", "", DIGEST_PRIORITY)

    def withdraw_alerts(self, episode: str) -> None:
        """Alerts that nobody has seen yet need not be shown any more."""
        self._store.run(
            "delete from post where episode = ? and kind in ('alert', 'escalation') and done_at is null"
            " and attempted_at is null",
            episode,
        )
        self._forget()

    def board_age(self, episode: str, now: float) -> float:
        """Seconds since the episode's state was last to be shown."""
        return now - self._board_at.get(episode, 0.0)

    def receipt(self, episode: str, guidance: str, status: Receipt) -> None:
        """The annotator shall see what became of a reply."""
        self._add("receipt", episode, RECEIPT_PRIORITY, guidance=guidance, status=status)

    def _add(
        self,
        kind: str,
        episode: str,
        priority: int,
        *,
        alert: str | None = None,
        guidance: str | None = None,
        status: str | None = None,
        target: str | None = None,
    ) -> str:
        post = self._make_id("po")
        self._store.run(
            "insert into post (post, kind, episode, priority, alert, guidance, status, target)"
            " values (?, ?, ?, ?, ?, ?, ?, ?)",
            *(post, kind, episode, priority, alert, guidance, status, target),
        )
        self._waiting = None
        self._changed.set()
        return post


def _post(row: sqlite3.Row) -> Post:
    return Post(
        post=row["post"],
        kind=row["kind"],
        episode=row["episode"],
        priority=row["priority"],
        attempted_at=row["attempted_at"],
        alert=row["alert"],
        guidance=row["guidance"],
        status=row["status"],
        target=row["target"],
    )
