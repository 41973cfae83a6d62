"""Alerts in the journal: taken in, merged or held back, claimed, escalated, closed.

The methods that change something expect or open a transaction; cards are read as annotators see them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Literal

import msgspec

from hpc.config.attention import AttentionConfig
from hpc.router.attention import HOUR, Hold, Waiting, digest_due, escalations_due, hold
from hpc.router.catalog import Catalog
from hpc.router.desk import AlertCard, Claim
from hpc.router.posts import Posts
from hpc.router.stats import AlertFact
from hpc.router.store import Store
from hpc.wire.messages import Alert, StepBrief

_ALERTS = "select a.*, e.run as run from alert a join episode e using (episode)"
_FACTS = f"select {', '.join(AlertFact.__struct_fields__)}, number from alert"

HELD_BOARD_SECONDS = 10.0
"""An alert that was held back shows on its episode's board, but not more often than this."""

_encoder = msgspec.msgpack.Encoder()
_evidence = msgspec.msgpack.Decoder(list[StepBrief])


class Alerts:
    """All alerts of a run.

    Args:
        attention: when and how often annotators are called.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        posts: Posts,
        *,
        attention: AttentionConfig,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._posts = posts
        self._attention = attention
        self._clock = clock

    # ---- what agents say (inside the caller's transaction)

    def raised(self, alert: Alert, at: float) -> None:
        """Take an alert in, once per id: show it, merge it into an open one, or hold it back."""
        if self._catalog.number(alert.id) is not None:
            return
        drift = alert.priority == "drift"
        lives = self._catalog.lives(alert.episode)
        main: int | None = None
        if lives and drift and self._attention.budget.merge:
            main = self._catalog.first_open(alert.episode, alert.detector)
        held = self._hold(alert, at) if lives and main is None else None
        name = None if main is None else self._name(main)
        number = self._store.insert(
            "insert into alert (alert, episode, task, detector, score, step, reason, priority, evidence,"
            " sent_at, stored_at, state, merged_into, held) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(alert.id, alert.episode, alert.task, alert.detector, alert.score, alert.step, alert.reason),
            *(alert.priority, _encoder.encode(alert.evidence), alert.sent_at, at),
            *("expired" if not lives else "open" if main is None else "merged", name, held),
        )
        self._catalog.added(alert.id, number)
        if not lives:
            return
        if name is not None:
            self._store.run("update alert set merged = merged + 1 where number = ?", main)
            self._posts.want_update(name)
            return
        self._catalog.opened(number, alert.episode, alert.detector, drift=drift, held=held, at=at)
        if held is None:
            self._posts.alert(alert.episode, alert.id, alert.priority)
        elif self._posts.board_age(alert.episode, at) >= HELD_BOARD_SECONDS:
            self._posts.want_board(alert.episode)

    def _hold(self, alert: Alert, at: float) -> Hold | None:
        shown, budget = 0, self._attention.budget
        if budget.alerts_per_hour and alert.priority == "drift":
            row = self._store.one(
                "select count(*) as shown from alert where priority = 'drift' and held is null"
                " and merged_into is null and stored_at > ?",
                at - HOUR,
            )
            shown = int(row["shown"]) if row is not None else 0
        return hold(self._attention, alert.priority, at, shown=shown, queued=self._posts.waiting_alerts(budget.queue))

    def expire(self, episode: str, at: float) -> None:
        """The episode has ended: nobody needs to answer any more."""
        self._posts.withdraw_alerts(episode)
        for number in self._catalog.open_of(episode):
            self._close(self._name(number), "expired", None, at)

    # ---- what annotators do

    def main(self, alert: str) -> str:
        """The alert itself, or the one that it was merged into."""
        row = self._store.one("select merged_into from alert where number = ?", self._catalog.number(alert))
        return alert if row is None or row["merged_into"] is None else str(row["merged_into"])

    def _name(self, number: int) -> str:
        row = self._store.one("select alert from alert where number = ?", number)
        assert row is not None
        return str(row["alert"])

    def of_episode(self, alert: str, episode: str) -> bool:
        """Whether there is such an alert of that episode."""
        row = self._store.one("select episode from alert where number = ?", self._catalog.number(alert))
        return row is not None and row["episode"] == episode

    def newest_open(self, episode: str) -> str | None:
        """The episode's newest open alert."""
        numbers = self._catalog.open_of(episode)
        return self._name(numbers[-1]) if numbers else None

    def claim(self, alert: str, annotator: str) -> Claim:
        """See `hpc.router.desk.Desk.claim`."""
        now = self._clock()
        until = now + 60.0 * self._attention.claim_minutes
        with self._store.transaction():
            alert = self.main(alert)
            won = self._store.run(
                "update alert set owner = ?, claimed_until = ? where number = ? and state = 'open'"
                " and (owner is null or owner = ? or claimed_until <= ?)",
                *(annotator, until, self._catalog.number(alert), annotator, now),
            )
            if won:
                self._posts.withdraw_escalations(alert)
                self._posts.want_update(alert)
                return Claim(result="claimed", owner=annotator, until=until)
        row = self._store.one(
            "select state, owner, claimed_until from alert where number = ?", self._catalog.number(alert)
        )
        if row is None:
            return Claim(result="unknown")
        result: Literal["held", "closed"] = "held" if row["state"] == "open" else "closed"
        return Claim(result=result, owner=row["owner"], until=row["claimed_until"])

    def release(self, alert: str, annotator: str) -> bool:
        """See `hpc.router.desk.Desk.release`."""
        with self._store.transaction():
            alert = self.main(alert)
            released = self._store.run(
                "update alert set owner = null, claimed_until = null, waiting_since = ?"
                " where number = ? and state = 'open' and owner = ?",
                *(self._clock(), self._catalog.number(alert), annotator),
            )
            if released:
                self._posts.want_update(alert)
        return bool(released)

    def resolve(self, alert: str, annotator: str, verdict: Literal["resolved", "false_alarm"]) -> bool:
        """See `hpc.router.desk.Desk.resolve`."""
        with self._store.transaction():
            return self._close(self.main(alert), verdict, annotator, self._clock())

    def answer(self, alert: str, annotator: str) -> None:
        """A reply answers an alert; without effect on one that is closed."""
        self._close(alert, "answered", annotator, self._clock())

    def _close(self, alert: str, state: str, annotator: str | None, at: float) -> bool:
        number = self._catalog.number(alert)
        row = self._store.one("select episode from alert where number = ? and state = 'open'", number)
        if number is None or row is None:
            return False
        self._store.run(
            "update alert set state = ?, closed_by = ?, closed_at = ? where number = ?", state, annotator, at, number
        )
        self._catalog.closed(number, row["episode"])
        self._posts.withdraw_escalations(alert)
        self._posts.want_update(alert)
        self._posts.want_board(row["episode"])
        return True

    # ---- what time brings

    def attend(self) -> None:
        """Let claims lapse, escalate and make digests: whatever is due now."""
        now = self._clock()
        with self._store.transaction():
            lapsed = self._store.all(
                "select number, alert from alert"
                " where claimed_until is not null and claimed_until <= ? and state = 'open'",
                now,
            )
            for row in lapsed:
                self._store.run(
                    "update alert set owner = null, waiting_since = claimed_until, claimed_until = null"
                    " where number = ?",
                    row["number"],
                )
                self._posts.want_update(row["alert"])
            self._escalate(now)
            self._make_digest(now)

    def _escalate(self, now: float) -> None:
        if not self._attention.escalation.to:
            return
        rows = self._store.all(
            "select alert, episode, waiting_since, escalated_to from alert where state = 'open' and owner is null"
            " and held is null and priority <> 'milestone' and waiting_since is not null order by number"
        )
        called = {row["alert"]: json.loads(row["escalated_to"]) for row in rows}
        episodes = {row["alert"]: str(row["episode"]) for row in rows}
        waiting = [
            Waiting(alert=row["alert"], since=row["waiting_since"], escalated_to=called[row["alert"]]) for row in rows
        ]
        for alert, target in escalations_due(self._attention, waiting, now):
            self._store.run(
                "update alert set escalated_to = ?, waiting_since = ? where number = ?",
                *(json.dumps([*called[alert], target]), now, self._catalog.number(alert)),
            )
            self._posts.escalation(episodes[alert], alert, target)
            self._posts.want_update(alert)

    def _make_digest(self, now: float) -> None:
        held = self._catalog.held_back()
        if not held:
            return
        last = self._store.one("select value from meta where name = 'digest_at'")
        attention = self._attention
        if not digest_due(
            attention.budget,
            attention.quiet,
            now,
            held=held,
            last_digest=None if last is None else float(last["value"]),
        ):
            return
        self._store.run(
            "update alert set digest = ? where number in (select value from json_each(?))",
            *(self._posts.digest(), json.dumps(self._catalog.unlisted())),
        )
        self._catalog.listed()
        self._store.run("insert or replace into meta values ('digest_at', ?)", int(now))

    # ---- cards

    def card(self, alert: str) -> AlertCard | None:
        """One alert's card."""
        row = self._store.one(f"{_ALERTS} where a.number = ?", self._catalog.number(alert))
        return None if row is None else self._card(row)

    def cards(self, *, open_only: bool) -> list[AlertCard]:
        """Alerts, oldest first."""
        if not open_only:
            return [self._card(row) for row in self._store.all(f"{_ALERTS} order by a.number")]
        rows = (self._store.one(f"{_ALERTS} where a.number = ?", number) for number in self._catalog.all_open())
        return [self._card(row) for row in rows if row is not None]

    def facts(self, after: int, limit: int) -> tuple[list[AlertFact], int, bool]:
        """What statistics want to know, ``limit`` alerts at most of either kind: of those beyond row ``after``, and
        of older ones that were closed since this was last asked. Also the last row, and whether that was all."""
        closed = self._catalog.closed_since(limit)
        rows = self._store.all(f"{_FACTS} where number in (select value from json_each(?))", json.dumps(closed))
        new = self._store.all(f"{_FACTS} where number > ? order by number limit ?", after, limit)
        self._catalog.told(closed)
        facts = [AlertFact(**dict(zip(AlertFact.__struct_fields__, row, strict=False))) for row in rows + new]
        return facts, new[-1]["number"] if new else after, len(new) < limit and len(closed) < limit

    def digest(self, post: str) -> list[AlertCard]:
        """What a digest lists, oldest first."""
        return [self._card(row) for row in self._store.all(f"{_ALERTS} where a.digest = ? order by a.number", post)]

    def _card(self, row: sqlite3.Row) -> AlertCard:
        earlier = self._store.all(
            "select text from guidance where episode = ? and control is null and taken_at < ?"
            " and state in ('delivered', 'applied') order by number",
            *(row["episode"], row["stored_at"]),
        )
        newest = row
        held_until = row["claimed_until"]
        lapsed = row["state"] == "open" and held_until is not None and held_until <= self._clock()
        if row["merged"]:
            newest = (
                self._store.one("select * from alert where merged_into = ? order by number desc limit 1", row["alert"])
                or row
            )
        return AlertCard(
            alert=row["alert"],
            episode=row["episode"],
            run=row["run"],
            task=row["task"],
            detector=row["detector"],
            score=newest["score"],
            step=row["step"],
            reason=newest["reason"],
            priority=row["priority"],
            evidence=_evidence.decode(newest["evidence"]),
            sent_at=row["sent_at"],
            state=row["state"],
            earlier_guidance=[text["text"] for text in earlier],
            owner=None if lapsed else row["owner"],
            claimed_until=None if lapsed else held_until,
            count=1 + row["merged"],
            last_step=newest["step"],
            last_at=newest["sent_at"],
            merged_into=row["merged_into"],
            held=row["held"],
            escalated_to=json.loads(row["escalated_to"]),
            closed_by=row["closed_by"],
            closed_at=row["closed_at"],
            reference=row["reference"],
        )
