"""The router's core on its journal: records what agents say and serves the annotators' frontend.

Every public method is one transaction, durable when it returns.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec

from hpc.core.errors import AnnotatorError
from hpc.core.ids import new_id
from hpc.router.desk import AlertCard, EpisodeCard, GuidanceCard, Post, Verdict
from hpc.router.ledger import Ledger
from hpc.router.posts import Posts
from hpc.router.state import Fact
from hpc.router.store import Store
from hpc.wire.messages import Guidance, StepBrief

MAX_REPLY = 100_000
"""Longest reply, characters."""

LATE_SECONDS = 900.0
"""So long after its end an episode's thread is still read."""

_evidence = msgspec.msgpack.Decoder(list[StepBrief])


class JournalDesk:
    """`hpc.router.desk.Desk` on a journal file.

    Args:
        on_reply: called with guidance right after it became durable, to be delivered.
        threads: whether an episode gets its thread as it starts or at its first alert.
        board_seconds: how often mere progress is shown anew.

    Raises:
        HpcError: another router has the journal open, or it cannot be used (so for all methods).
    """

    def __init__(
        self,
        path: Path,
        *,
        on_reply: Callable[[Guidance], None] = lambda guidance: None,
        threads: Literal["start", "alert"] = "start",
        board_seconds: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = Store(path)
        self.generation = self._store.count_start()
        self.on_reply = on_reply
        self._clock = clock
        self._posts = Posts(self._store, clock=clock)
        self._ledger = Ledger(self._store, self._posts, threads=threads, board_seconds=board_seconds)

    def close(self) -> None:
        """Release the journal."""
        self._store.close()

    # ---- what the router's state is rebuilt from

    def epochs(self) -> dict[str, int]:
        """Highest epoch seen of each episode."""
        return {row["episode"]: row["epoch"] for row in self._store.all("select episode, epoch from episode")}

    def pending(self) -> list[Guidance]:
        """Guidance still to be delivered, oldest first."""
        return [
            _guidance(row) for row in self._store.all("select * from guidance where state = 'queued' order by number")
        ]

    def counts(self) -> dict[str, int]:
        """How many alerts are open, replies undelivered and posts due."""
        row = self._store.one(
            "select (select count(*) from alert where state = 'open') as alerts_open,"
            " (select count(*) from guidance where state = 'queued') as guidance_queued"
        )
        return {**(dict(row) if row is not None else {}), "posts_due": self._posts.count()}

    # ---- what agents say

    def record(self, facts: Iterable[Fact]) -> None:
        """Record what agents said, as one transaction."""
        self._ledger.record(facts)

    def live_episodes(self) -> list[EpisodeCard]:
        """Episodes whose end is not recorded."""
        return self._cards("where e.ended_at is null order by e.number")

    # ---- what is to be published

    async def wait_posts(self, limit: int = 20) -> list[Post]:
        """The most urgent posts that are due; waits until there is one."""
        return await self._posts.wait(limit)

    def begin_post(self, post: str) -> None:
        """Note that publication starts now."""
        self._posts.begin(post)

    def finish_post(self, post: str, reference: str) -> None:
        """Note the published message; of kind "thread", ``reference`` becomes the episode's thread."""
        self._posts.finish(post, reference)

    def drop_post(self, post: str, why: str) -> None:
        """Give a post up. What needs a thread that can never be opened is given up with it; the next
        alert tries anew."""
        self._posts.drop(post, why)

    # ---- what annotators ask and say

    def episode(self, episode: str) -> EpisodeCard | None:
        """One episode's card."""
        cards = self._cards("where e.episode = ?", episode)
        return cards[0] if cards else None

    def episodes(self) -> list[EpisodeCard]:
        """All episodes that ever said Hello, by index."""
        return self._cards("order by e.number, e.episode")

    def _cards(self, clause: str, *values: object) -> list[EpisodeCard]:
        rows = self._store.all(
            "select e.*, (select count(*) from alert a where a.episode = e.episode and a.state = 'open') as open_alerts"
            f" from episode e {clause}",
            *values,
        )
        return [
            EpisodeCard(
                episode=row["episode"],
                run=row["run"],
                index=row["number"],
                task=row["task"],
                state=row["state"],
                step=row["step"],
                drift=row["drift"],
                score=row["score"],
                open_alerts=row["open_alerts"],
                seen_at=row["seen_at"],
                thread=row["thread"],
            )
            for row in rows
        ]

    def alert(self, alert: str) -> AlertCard | None:
        """One alert's card."""
        row = self._store.one(f"{_ALERTS} where a.alert = ?", alert)
        return None if row is None else self._alert_card(row)

    def alerts(self, *, open_only: bool = True) -> list[AlertCard]:
        """Alerts, oldest first."""
        clause = "where a.state = 'open'" if open_only else ""
        return [self._alert_card(row) for row in self._store.all(f"{_ALERTS} {clause} order by a.number")]

    def _alert_card(self, row: sqlite3.Row) -> AlertCard:
        earlier = self._store.all(
            "select text from guidance where episode = ? and control is null and taken_at < ?"
            " and state in ('delivered', 'applied') order by number",
            *(row["episode"], row["stored_at"]),
        )
        return AlertCard(
            alert=row["alert"],
            episode=row["episode"],
            run=row["run"],
            task=row["task"],
            detector=row["detector"],
            score=row["score"],
            step=row["step"],
            reason=row["reason"],
            priority=row["priority"],
            evidence=_evidence.decode(row["evidence"]),
            sent_at=row["sent_at"],
            state=row["state"],
            earlier_guidance=[text["text"] for text in earlier],
        )

    def guidance(self, guidance: str) -> GuidanceCard | None:
        """One reply's card."""
        row = self._store.one("select * from guidance where guidance = ?", guidance)
        return None if row is None else _guidance_card(row)

    def guidance_of_key(self, key: str) -> GuidanceCard | None:
        """The reply that the frontend knows as ``key``."""
        row = self._store.one("select * from guidance where key = ?", key)
        return None if row is None else _guidance_card(row)

    def guidance_of_alert(self, alert: str) -> list[GuidanceCard]:
        """The replies to an alert, oldest first."""
        rows = self._store.all("select * from guidance where alert = ? order by number", alert)
        return [_guidance_card(row) for row in rows]

    def episode_of_thread(self, thread: str) -> str | None:
        """Whose thread it is."""
        row = self._store.one("select episode from episode where thread = ?", thread)
        return None if row is None else str(row["episode"])

    def open_threads(self) -> list[tuple[str, str]]:
        """(thread, cursor) of each episode that lives or ended a short while ago: a late reply gets an
        answer, too."""
        rows = self._store.all(
            "select thread, cursor from episode where thread is not null and coalesce(ended_at, ?) >= ?"
            " order by number",
            *(self._clock(), self._clock() - LATE_SECONDS),
        )
        return [(row["thread"], row["cursor"]) for row in rows]

    def advance_cursor(self, thread: str, cursor: str) -> None:
        """Note up to where a thread has been read; never moves back."""
        with self._store.transaction():
            self._store.run("update episode set cursor = max(cursor, ?) where thread = ?", cursor, thread)

    def take_reply(
        self,
        *,
        key: str,
        episode: str,
        alert: str | None,
        annotator: str,
        text: str,
        sent_at: float,
        kind: Literal["knowledge", "strategy", "correction", "control"] = "strategy",
        control: Literal["pause", "resume", "stop"] | None = None,
    ) -> Verdict:
        """Take a reply in, once per ``key``.

        A reply without an alert answers the episode's newest open one, if there is one; control
        messages answer none. ``alert`` must be the episode's own, else the verdict is "unknown".

        Raises:
            AnnotatorError: the text is longer than `MAX_REPLY`.
        """
        if len(text) > MAX_REPLY:
            raise AnnotatorError(
                f"the reply has {len(text)} characters, the limit is {MAX_REPLY}", "put it in a file and send its path"
            )
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be stored or sent
        with self._store.transaction():
            verdict, guidance = self._take(key, episode, alert, annotator, text, sent_at, kind, control)
        if guidance is not None:
            self.on_reply(guidance)
        return verdict

    def _take(
        self,
        key: str,
        episode: str,
        alert: str | None,
        annotator: str,
        text: str,
        sent_at: float,
        kind: str,
        control: str | None,
    ) -> tuple[Verdict, Guidance | None]:
        if self._store.one("select 1 from guidance where key = ?", key) is not None:
            return "duplicate", None
        owner = self._store.one("select ended_at from episode where episode = ?", episode)
        if owner is None:
            return "unknown", None
        if alert is not None:
            if self._store.one("select 1 from alert where alert = ? and episode = ?", alert, episode) is None:
                return "unknown", None
        elif control is None:
            newest = self._store.one(
                "select alert from alert where episode = ? and state = 'open' order by number desc", episode
            )
            alert = newest["alert"] if newest is not None else None
        late = owner["ended_at"] is not None
        guidance = new_id("gu")
        self._store.run(
            "insert into guidance (guidance, key, episode, alert, annotator, text, kind, control, sent_at, taken_at,"
            " state) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(guidance, key, episode, alert, annotator, text, "control" if control else kind, control, sent_at),
            *(self._clock(), "too_late" if late else "queued"),
        )
        if late:
            self._posts.receipt(episode, guidance, "too_late")
            return "too_late", None
        if alert is not None and control is None:
            self._store.run(
                "update alert set state = 'answered', closed_by = ? where alert = ? and state = 'open'",
                *(annotator, alert),
            )
            self._posts.want_board(episode)
        row = self._store.one("select * from guidance where guidance = ?", guidance)
        return "accepted", None if row is None else _guidance(row)

    def resolve(self, alert: str, annotator: str, verdict: Literal["resolved", "false_alarm"]) -> bool:
        """Close an alert without guidance; False when it is not open."""
        with self._store.transaction():
            closed = self._store.run(
                "update alert set state = ?, closed_by = ? where alert = ? and state = 'open'",
                *(verdict, annotator, alert),
            )
            row = self._store.one("select episode from alert where alert = ?", alert)
            if closed and row is not None:
                self._posts.want_board(row["episode"])
        return bool(closed)


_ALERTS = "select a.*, e.run as run from alert a join episode e using (episode)"


def _guidance(row: sqlite3.Row) -> Guidance:
    return Guidance(
        id=row["guidance"],
        sent_at=row["sent_at"],
        episode=row["episode"],
        alert=row["alert"],
        annotator=row["annotator"],
        text=row["text"],
        kind=row["kind"],
        control=row["control"],
    )


def _guidance_card(row: sqlite3.Row) -> GuidanceCard:
    return GuidanceCard(
        guidance=row["guidance"],
        key=row["key"],
        episode=row["episode"],
        alert=row["alert"],
        annotator=row["annotator"],
        text=row["text"],
        sent_at=row["sent_at"],
        delivered_at=row["delivered_at"],
        applied_at=row["applied_at"],
        applied_step=row["applied_step"],
        state=row["state"],
    )
