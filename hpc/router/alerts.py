"""Alerts in the journal: taken in, merged or held back, claimed, escalated, closed.

The methods that change something expect or open a transaction; cards are read as annotators see them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from hpc.config.attention import AttentionConfig
from hpc.router.attention import HOUR, HeldBack, Hold, Waiting, digest_due, escalations_due, hold
from hpc.router.desk import AlertCard, Claim
from hpc.router.posts import WAITING_ALERTS, Posts
from hpc.router.stats import AlertFact
from hpc.router.store import Store
from hpc.wire.messages import Alert, StepBrief

_ALERTS = "select a.*, e.run as run from alert a join episode e using (episode)"

HELD_BOARD_SECONDS = 10.0
"""An alert that was held back shows on its episode's board, but not more often than this."""

_evidence = msgspec.msgpack.Decoder(list[StepBrief])


class Alerts:
    """All alerts of a run.

    Args:
        attention: when and how often annotators are called.
    """

    def __init__(self, store: Store, posts: Posts, *, attention: AttentionConfig, clock: Callable[[], float]) -> None:
        self._store = store
        self._posts = posts
        self._attention = attention
        self._clock = clock

    # ---- what agents say (inside the caller's transaction)

    def raised(self, alert: Alert, at: float) -> None:
        """Take an alert in, once per id: show it, merge it into an open one, or hold it back."""
        found = self._store.one(  # one question: an alert storm is when the journal has the most to do
            "select ended_at, exists (select 1 from alert where alert = ?1) as known, (select alert from alert"
            " where episode = ?2 and state = 'open' and detector = ?3 and priority = 'drift') as duplicated,"
            f" ({WAITING_ALERTS}) as queued from episode where episode = ?2",
            *(alert.id, alert.episode, alert.detector, self._attention.budget.queue),
        )
        if found is not None and found["known"]:
            return
        over = found is None or found["ended_at"] is not None
        main: str | None = None
        if found is not None and not over and self._attention.budget.merge and alert.priority == "drift":
            main = found["duplicated"]
        held = None if found is None or over or main is not None else self._hold(alert, at, found["queued"])
        self._store.run(
            "insert or ignore into alert (alert, episode, task, detector, score, step, reason, priority, evidence,"
            " sent_at, stored_at, state, merged_into, held) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(alert.id, alert.episode, alert.task, alert.detector, alert.score, alert.step, alert.reason),
            *(alert.priority, msgspec.msgpack.encode(alert.evidence), alert.sent_at, at),
            *("expired" if over else "open" if main is None else "merged", main, held),
        )
        if over:
            return
        if main is not None:
            self._store.run("update alert set merged = merged + 1 where alert = ?", main)
            self._posts.want_update(main)
        elif held is not None:
            if self._posts.board_age(alert.episode, at) >= HELD_BOARD_SECONDS:
                self._posts.want_board(alert.episode)
        else:
            self._posts.alert(alert.episode, alert.id, alert.priority)

    def _hold(self, alert: Alert, at: float, queued: int) -> Hold | None:
        shown = 0
        if self._attention.budget.alerts_per_hour and alert.priority == "drift":
            row = self._store.one(
                "select count(*) as shown from alert where priority = 'drift' and held is null"
                " and merged_into is null and stored_at > ?",
                at - HOUR,
            )
            shown = int(row["shown"]) if row is not None else 0
        return hold(self._attention, alert.priority, at, shown=shown, queued=queued)

    def expire(self, episode: str, at: float) -> None:
        """The episode has ended: nobody needs to answer any more."""
        self._posts.withdraw_alerts(episode)
        for row in self._store.all("select alert from alert where episode = ? and state = 'open'", episode):
            self._close(row["alert"], "expired", None, at)

    # ---- what annotators do

    def main(self, alert: str) -> str:
        """The alert itself, or the one that it was merged into."""
        row = self._store.one("select merged_into from alert where alert = ?", alert)
        return alert if row is None or row["merged_into"] is None else str(row["merged_into"])

    def claim(self, alert: str, annotator: str) -> Claim:
        """See `hpc.router.desk.Desk.claim`."""
        now = self._clock()
        until = now + 60.0 * self._attention.claim_minutes
        with self._store.transaction():
            alert = self.main(alert)
            won = self._store.run(
                "update alert set owner = ?, claimed_until = ? where alert = ? and state = 'open'"
                " and (owner is null or owner = ? or claimed_until <= ?)",
                *(annotator, until, alert, annotator, now),
            )
            if won:
                self._posts.withdraw_escalations(alert)
                self._posts.want_update(alert)
                return Claim(result="claimed", owner=annotator, until=until)
        row = self._store.one("select state, owner, claimed_until from alert where alert = ?", alert)
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
                " where alert = ? and state = 'open' and owner = ?",
                *(self._clock(), alert, annotator),
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
        closed = self._store.run(
            "update alert set state = ?, closed_by = ?, closed_at = ? where alert = ? and state = 'open'",
            *(state, annotator, at, alert),
        )
        row = self._store.one("select episode from alert where alert = ?", alert)
        if closed and row is not None:
            self._posts.withdraw_escalations(alert)
            self._posts.want_update(alert)
            self._posts.want_board(row["episode"])
        return bool(closed)

    # ---- what time brings

    def attend(self) -> None:
        """Let claims lapse, escalate and make digests: whatever is due now."""
        now = self._clock()
        with self._store.transaction():
            lapsed = self._store.all(
                "select alert from alert where claimed_until is not null and claimed_until <= ? and state = 'open'",
                now,
            )
            for row in lapsed:
                self._store.run(
                    "update alert set owner = null, waiting_since = claimed_until, claimed_until = null"
                    " where alert = ?",
                    row["alert"],
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
                "update alert set escalated_to = ?, waiting_since = ? where alert = ?",
                *(json.dumps([*called[alert], target]), now, alert),
            )
            self._posts.escalation(episodes[alert], alert, target)
            self._posts.want_update(alert)

    def _make_digest(self, now: float) -> None:
        rows = self._store.all(
            "select held, count(*) as alerts, min(stored_at) as since from alert"
            " where state = 'open' and held is not null and digest is null group by held"
        )
        if not rows:
            return
        last = self._store.one("select value from meta where name = 'digest_at'")
        held = [HeldBack(row["held"], row["alerts"], row["since"]) for row in rows]
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
            "update alert set digest = ? where state = 'open' and held is not null and digest is null",
            self._posts.digest(),
        )
        self._store.run("insert or replace into meta values ('digest_at', ?)", int(now))

    # ---- cards

    def card(self, alert: str) -> AlertCard | None:
        """One alert's card."""
        row = self._store.one(f"{_ALERTS} where a.alert = ?", alert)
        return None if row is None else self._card(row)

    def cards(self, *, open_only: bool) -> list[AlertCard]:
        """Alerts, oldest first."""
        clause = "where a.state = 'open'" if open_only else ""
        return [self._card(row) for row in self._store.all(f"{_ALERTS} {clause} order by a.number")]

    def facts(self, after: int, also: Sequence[str]) -> tuple[list[AlertFact], int]:
        """What statistics want to know of the alerts beyond row ``after`` and of those named; the last row."""
        rows = self._store.all(
            f"select number, {', '.join(AlertFact.__struct_fields__)} from alert"
            " where number > ? or alert in (select value from json_each(?)) order by number",
            *(after, json.dumps(also)),
        )
        facts = [AlertFact(**{name: row[name] for name in AlertFact.__struct_fields__}) for row in rows]
        return facts, max((row["number"] for row in rows), default=after)

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
