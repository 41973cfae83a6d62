"""The router's core on its journal: records what agents say and serves the annotators' frontend.

Every public method is one transaction, durable when it returns.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from hpc.config.attention import AttentionConfig
from hpc.router.alerts import Alerts
from hpc.router.annals import Annalist
from hpc.router.catalog import Catalog
from hpc.router.compaction import compact
from hpc.router.desk import AlertCard, Claim, EpisodeCard, GuidanceCard, Post, Verdict
from hpc.router.ledger import Ledger
from hpc.router.posts import Posts
from hpc.router.replies import Replies, Reply
from hpc.router.state import Fact
from hpc.router.store import Store
from hpc.wire.messages import Guidance

FACTS = 1000
"""Most alerts that statistics are told of in one go: agents wait meanwhile."""
LATE_SECONDS = 900.0
"""So long after its end an episode's thread is still read."""


class JournalDesk:
    """`hpc.router.desk.Desk` on a journal file.

    Args:
        on_reply: called with guidance right after it became durable, to be delivered.
        threads: whether an episode gets its thread as it starts or at its first alert.
        board_seconds: how often mere progress is shown anew.
        attention: when and how often annotators are called.
        verify: see `hpc.router.store.Store`.

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
        attention: AttentionConfig | None = None,
        verify: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store = Store(path, verify=verify)
        self.on_reply = on_reply
        self._clock = clock
        try:
            self._catalog = catalog = Catalog(store)
        except BaseException:
            store.close()
            raise
        self._posts = Posts(store, catalog, clock=clock)
        self._alerts = Alerts(store, catalog, self._posts, attention=attention or AttentionConfig(), clock=clock)
        self._replies = Replies(store, self._posts, self._alerts, clock=clock)
        self._ledger = Ledger(store, catalog, self._posts, self._alerts, threads=threads, board_seconds=board_seconds)

    def close(self) -> None:
        """Release the journal."""
        self._store.close()

    # ---- what the router's state is rebuilt from

    def epochs(self) -> dict[str, int]:
        """Highest epoch seen of each episode."""
        return {row["episode"]: row["epoch"] for row in self._store.all("select episode, epoch from episode")}

    def pending(self) -> list[Guidance]:
        """Guidance still to be delivered, oldest first."""
        return self._replies.pending()

    def counts(self) -> dict[str, int]:
        """How many alerts are open, replies undelivered and posts due."""
        row = self._store.one("select count(*) as queued from guidance where state = 'queued'")
        return {
            "alerts_open": self._catalog.count_open(),
            "guidance_queued": int(row["queued"]) if row is not None else 0,
            "posts_due": self._posts.count(),
        }

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Make what is done inside one transaction: all or nothing, durable at the end."""
        with self._store.transaction():
            yield

    def gather(self, annalist: Annalist) -> bool:
        """Let statistics know a slice of what is new; whether that was all."""
        alerts, last, all_of_it = self._alerts.facts(annalist.bookmark.alert, FACTS)
        annalist.learn_alerts(alerts, last)
        if all_of_it:
            annalist.learn_replies(*self._replies.facts(annalist.bookmark.reply, annalist.bookmark.replies))
        return all_of_it

    def chronicle(self, run: str, annalist: Annalist) -> None:
        """Leave for statistics what there is: from the first Hello until an episode was last heard of."""
        while not self.gather(annalist):
            pass
        heard = self._store.one(
            "select (select value from meta where name = 'hello_at') as since, max(seen_at) as until from episode"
        )
        until = heard["until"] if heard is not None and heard["until"] is not None else self._clock()
        since = heard["since"] if heard is not None and heard["since"] is not None else until
        annalist.write(run, since=since, until=until)

    # ---- what agents say

    def record(self, facts: Iterable[Fact]) -> None:
        """Record what agents said, as one transaction."""
        self._ledger.record(facts)

    def attend(self) -> None:
        """Do what time has made due: claims lapse, alerts escalate, digests are made."""
        self._alerts.attend()

    def compact(self) -> int:
        """Forget a slice of what nobody will ask for again; how many rows it touched."""
        return compact(self._store, self._catalog, self._clock())

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
        """Note the published message; of kind "thread", ``reference`` becomes the episode's thread, of
        kind "alert" the alert's reference."""
        self._posts.finish(post, reference)

    def finish_posts(self, references: Mapping[str, str]) -> None:
        """`finish_post` for many: a post's name -> its reference."""
        with self.together():
            for post, reference in references.items():
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
        rows = self._store.all(f"select e.* from episode e {clause}", *values)
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
                open_alerts=self._catalog.count_open(row["episode"]),
                seen_at=row["seen_at"],
                thread=row["thread"],
            )
            for row in rows
        ]

    def alert(self, alert: str) -> AlertCard | None:
        """One alert's card."""
        return self._alerts.card(alert)

    def alerts(self, *, open_only: bool = True) -> list[AlertCard]:
        """Alerts, oldest first."""
        return self._alerts.cards(open_only=open_only)

    def digest(self, post: str) -> list[AlertCard]:
        """What a post of kind "digest" lists, oldest first."""
        return self._alerts.digest(post)

    def guidance(self, guidance: str) -> GuidanceCard | None:
        """One reply's card."""
        return self._replies.card(guidance)

    def guidance_of_key(self, key: str) -> GuidanceCard | None:
        """The reply that the frontend knows as ``key``."""
        return self._replies.card_of_key(key)

    def guidance_of_alert(self, alert: str) -> list[GuidanceCard]:
        """The replies to an alert, oldest first."""
        return self._replies.cards_of_alert(alert)

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
        valid_until_step: int | None = None,
        valid_until: float | None = None,
        replaces: str | None = None,
    ) -> Verdict:
        """Take a reply in, once per ``key``.

        A reply without an alert answers the one that the reply it ``replaces`` answered, else the
        episode's newest open one, if there is one; control messages answer none. ``alert`` must be the
        episode's own, else the verdict is "unknown".

        Raises:
            AnnotatorError: the text is longer than `hpc.router.replies.MAX_REPLY`.
        """
        verdict, guidance = self._replies.take(
            Reply(
                key=key,
                episode=episode,
                alert=alert,
                annotator=annotator,
                text=text,
                sent_at=sent_at,
                kind=kind,
                control=control,
                valid_until_step=valid_until_step,
                valid_until=valid_until,
                replaces=replaces,
            )
        )
        if guidance is not None:
            self.on_reply(guidance)
        return verdict

    def claim(self, alert: str, annotator: str) -> Claim:
        """Say that ``annotator`` will answer; the first claim wins."""
        return self._alerts.claim(alert, annotator)

    def release(self, alert: str, annotator: str) -> bool:
        """Give one's claim up; False when it is not this annotator's, or the alert is closed."""
        return self._alerts.release(alert, annotator)

    def resolve(self, alert: str, annotator: str, verdict: Literal["resolved", "false_alarm"]) -> bool:
        """Close an alert without guidance; False when it is not open."""
        return self._alerts.resolve(alert, annotator, verdict)
