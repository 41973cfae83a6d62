"""Replies in the journal: what annotators said, once a key, and what became of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from hpc.core.errors import AnnotatorError
from hpc.core.ids import new_id
from hpc.router.alerts import Alerts
from hpc.router.desk import GuidanceCard, Verdict
from hpc.router.posts import Posts
from hpc.router.stats import ReplyFact
from hpc.router.store import Store
from hpc.wire.messages import Guidance

MAX_REPLY = 100_000
"""Longest reply, characters."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What an annotator says; the fields are those of `hpc.router.desk.Desk.take_reply`."""

    key: str
    episode: str
    alert: str | None
    annotator: str
    text: str
    sent_at: float
    kind: Literal["knowledge", "strategy", "correction", "control"] = "strategy"
    control: Literal["pause", "resume", "stop"] | None = None
    valid_until_step: int | None = None
    valid_until: float | None = None
    replaces: str | None = None


class Replies:
    """All replies of a run."""

    def __init__(self, store: Store, posts: Posts, alerts: Alerts, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._posts = posts
        self._alerts = alerts
        self._clock = clock

    def take(self, reply: Reply) -> tuple[Verdict, Guidance | None]:
        """Take a reply in; also the guidance to deliver, if it is to be delivered.

        Raises:
            AnnotatorError: the text is longer than `MAX_REPLY`.
        """
        if len(reply.text) > MAX_REPLY:
            raise AnnotatorError(
                f"the reply has {len(reply.text)} characters, the limit is {MAX_REPLY}",
                "put it in a file and send its path",
            )
        with self._store.transaction():
            return self._take(reply)

    def _take(self, reply: Reply) -> tuple[Verdict, Guidance | None]:
        if self._store.one("select 1 from guidance where key = ?", reply.key) is not None:
            return "duplicate", None
        owner = self._store.one("select ended_at from episode where episode = ?", reply.episode)
        if owner is None:
            return "unknown", None
        alert = reply.alert
        if alert is not None:
            if not self._alerts.of_episode(alert, reply.episode):
                return "unknown", None
            alert = self._alerts.main(alert)
        replaced = self._replaced(reply)
        if alert is None and reply.control is None:
            alert = replaced["alert"] if replaced is not None else self._alerts.newest_open(reply.episode)
        late = owner["ended_at"] is not None
        guidance = new_id("gu")
        self._store.run(
            "insert into guidance (guidance, key, episode, alert, annotator, text, kind, control, sent_at, taken_at,"
            " state, valid_until_step, valid_until, replaces) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(guidance, reply.key, reply.episode, alert, reply.annotator),
            reply.text.encode("utf-8", "replace").decode(),  # half a surrogate pair cannot be stored or sent
            *("control" if reply.control else reply.kind, reply.control, reply.sent_at, self._clock()),
            *("too_late" if late else "queued", reply.valid_until_step, reply.valid_until),
            replaced["guidance"] if replaced is not None else None,
        )
        self._posts.want_thread(reply.episode)  # an episode whose alerts were held back may have none
        if late:
            self._posts.receipt(reply.episode, guidance, "too_late")
            return "too_late", None
        if replaced is not None and replaced["state"] == "queued":
            self._store.run("update guidance set state = 'superseded' where guidance = ?", replaced["guidance"])
            self._posts.receipt(reply.episode, replaced["guidance"], "superseded")
        if alert is not None and reply.control is None:
            self._alerts.answer(alert, reply.annotator)
        row = self._store.one("select * from guidance where guidance = ?", guidance)
        return "accepted", None if row is None else _guidance(row)

    def _replaced(self, reply: Reply) -> sqlite3.Row | None:
        """The reply to the same episode that this one corrects, in its newest version; None where it
        corrects none that could still be replaced."""
        if reply.replaces is None:
            return None
        row = self._store.one(
            "select * from guidance where (key = ? or guidance = ?) and episode = ? and control is null",
            *(reply.replaces, reply.replaces, reply.episode),
        )
        while row is not None:
            newer = self._store.one("select * from guidance where replaces = ? order by number desc", row["guidance"])
            if newer is None:
                break
            row = newer
        return row

    def pending(self) -> list[Guidance]:
        """What is still to be delivered, oldest first."""
        return [
            _guidance(row) for row in self._store.all("select * from guidance where state = 'queued' order by number")
        ]

    def facts(self, after: int, also: Sequence[str]) -> tuple[list[ReplyFact], int]:
        """What statistics want to know of the replies beyond row ``after`` and of those named; the last row."""
        rows = self._store.all(
            f"select number, {', '.join(ReplyFact.__struct_fields__)} from guidance"
            " where number > ? or guidance in (select value from json_each(?)) order by number",
            *(after, json.dumps(also)),
        )
        facts = [ReplyFact(**{name: row[name] for name in ReplyFact.__struct_fields__}) for row in rows]
        return facts, max((row["number"] for row in rows), default=after)

    # ---- cards

    def card(self, guidance: str) -> GuidanceCard | None:
        """One reply's card."""
        row = self._store.one("select * from guidance where guidance = ?", guidance)
        return None if row is None else _card(row)

    def card_of_key(self, key: str) -> GuidanceCard | None:
        """The reply that the frontend knows as ``key``."""
        row = self._store.one("select * from guidance where key = ?", key)
        return None if row is None else _card(row)

    def cards_of_alert(self, alert: str) -> list[GuidanceCard]:
        """The replies to an alert, oldest first."""
        rows = self._store.all("select * from guidance where alert = ? order by number", alert)
        return [_card(row) for row in rows]


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
        valid_until_step=row["valid_until_step"],
        valid_until=row["valid_until"],
        replaces=row["replaces"],
    )


def _card(row: sqlite3.Row) -> GuidanceCard:
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
        kind=row["kind"],
        control=row["control"],
        valid_until_step=row["valid_until_step"],
        valid_until=row["valid_until"],
        replaces=row["replaces"],
    )
