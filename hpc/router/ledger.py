"""What agents say, as the journal keeps it: facts in, rows and posts out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from hpc.router.alerts import Alerts
from hpc.router.catalog import Catalog
from hpc.router.posts import Posts
from hpc.router.state import Applied, Delivered, Ended, Fact, Joined, Missed, Moved, Raised, Unused
from hpc.router.store import Store

ENDED = ("finished", "truncated", "failed", "stopped")
"""States that an episode does not leave."""


class Ledger:
    """Records facts.

    Args:
        threads: whether an episode gets its thread as it starts or at its first alert.
        board_seconds: how often mere progress is shown anew.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        posts: Posts,
        alerts: Alerts,
        *,
        threads: Literal["start", "alert"],
        board_seconds: float,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._posts = posts
        self._alerts = alerts
        self._threads = threads
        self._board_seconds = board_seconds

    def record(self, facts: Iterable[Fact]) -> None:
        """Record a batch of facts as one transaction."""
        with self._store.transaction():
            for fact in facts:
                self._record(fact)

    def _record(self, fact: Fact) -> None:
        match fact:
            case Joined():
                self._joined(fact)
            case Raised():
                self._alerts.raised(fact.alert, fact.at)
            case Moved():
                self._moved(fact)
            case Delivered():
                self._delivered(fact)
            case Applied():
                self._applied(fact)
            case Unused():
                self._unused(fact)
            case Missed():
                self._missed(fact)
            case Ended():
                self._ended(fact)

    def _joined(self, fact: Joined) -> None:
        hello = fact.hello
        new = self._store.run(
            "insert or ignore into episode (episode, run, number, task, epoch, state, step, drift, seen_at)"
            " values (?, ?, ?, ?, ?, 'running', 0, 0.0, ?)",
            *(hello.episode, hello.run, hello.index, hello.task, hello.epoch, fact.at),
        )
        back = self._store.run(
            "update episode set state = 'running', ended_at = null, ended_epoch = null"
            " where episode = ? and ended_epoch < ?",
            *(hello.episode, hello.epoch),
        )
        self._store.run(
            "update episode set epoch = ?, seen_at = ? where episode = ?", *(hello.epoch, fact.at, hello.episode)
        )
        if new or back:
            self._catalog.joined(hello.episode)
        if new:
            self._store.run("insert or ignore into meta values ('hello_at', ?)", int(fact.at))
            if self._threads == "start":
                self._posts.want_thread(hello.episode)
        if back:
            self._posts.want_board(hello.episode)

    def _moved(self, fact: Moved) -> None:
        progress = fact.progress
        before = self._store.one("select state, ended_at from episode where episode = ?", progress.episode)
        if before is None or before["ended_at"] is not None or progress.state in ENDED:
            return  # only Bye ends an episode
        self._store.run(
            "update episode set state = ?, step = ?, drift = ?, score = ?, seen_at = ? where episode = ?",
            *(progress.state, progress.step, progress.drift, progress.score, fact.at, progress.episode),
        )
        stale = self._posts.board_age(progress.episode, fact.at) >= self._board_seconds
        if before["state"] != progress.state or stale:
            self._posts.want_board(progress.episode)

    def _delivered(self, fact: Delivered) -> None:
        changed = self._store.run(
            "update guidance set state = 'delivered', delivered_at = ?"
            " where guidance = ? and episode = ? and state = 'queued'",
            *(fact.at, fact.guidance, fact.episode),
        )
        if changed:
            self._posts.receipt(fact.episode, fact.guidance, "delivered")

    def _applied(self, fact: Applied) -> None:
        changed = self._store.run(
            "update guidance set state = 'applied', delivered_at = coalesce(delivered_at, ?), applied_at = ?,"
            " applied_step = ? where guidance = ? and episode = ? and state <> 'applied'",
            *(fact.at, fact.at, fact.step, fact.guidance, fact.episode),
        )
        if changed:
            self._posts.receipt(fact.episode, fact.guidance, "applied")

    def _unused(self, fact: Unused) -> None:
        changed = self._store.run(
            "update guidance set state = ?, delivered_at = coalesce(delivered_at, ?)"
            " where guidance = ? and episode = ? and state in ('queued', 'delivered')",
            *(fact.status, fact.at, fact.guidance, fact.episode),
        )
        if changed:
            self._posts.receipt(fact.episode, fact.guidance, fact.status)

    def _missed(self, fact: Missed) -> None:
        changed = self._store.run(
            "update guidance set state = 'too_late' where guidance = ? and episode = ? and state = 'queued'",
            *(fact.guidance, fact.episode),
        )
        if changed:
            self._posts.receipt(fact.episode, fact.guidance, "too_late")

    def _ended(self, fact: Ended) -> None:
        ended = self._store.run(
            "update episode set state = ?, step = coalesce(?, step), score = coalesce(?, score), ended_at = ?,"
            " ended_epoch = epoch, seen_at = ? where episode = ? and ended_at is null",
            *(fact.status, fact.steps, fact.score, fact.at, fact.at, fact.episode),
        )
        if not ended:
            return
        self._catalog.ended(fact.episode)
        self._alerts.expire(fact.episode, fact.at)
        missed = self._store.all(
            "select guidance from guidance where episode = ? and state in ('queued', 'delivered')", fact.episode
        )
        self._store.run(
            "update guidance set state = 'too_late' where episode = ? and state in ('queued', 'delivered')",
            fact.episode,
        )
        for row in missed:
            self._posts.receipt(fact.episode, row["guidance"], "too_late")
        self._posts.want_board(fact.episode)
