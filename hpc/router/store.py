"""The router's journal file: SQLite, opened by one process alone.

Write-ahead log with ``synchronous=FULL``: what was committed is on the disk. The exclusive locking
mode keeps the index of the log in the process's memory instead of a shared mapping, which is what
lets the file lie on a network filesystem: the journal is in the run directory, so a router that is
started again on another node finds every message that was ever acknowledged. Which router may open
which file is the business of `hpc.router.succession`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hpc.core.errors import HpcError

SCHEMA_VERSION = 3

# Alerts have no index that every one of them must be entered in: see `hpc.router.catalog`.
_SCHEMA = """
create table if not exists meta (name text primary key, value integer not null) without rowid;
create table if not exists episode (
    episode text primary key, run text not null, number integer not null, task text not null,
    epoch integer not null, state text not null, step integer not null, drift real not null, score real,
    seen_at real not null, ended_at real, ended_epoch integer, thread text, cursor text not null default ''
) without rowid;
create unique index if not exists episode_thread on episode (thread);
create table if not exists alert (
    number integer primary key, alert text not null, episode text not null, task text not null,
    detector text not null, score real not null, step integer not null, reason text not null,
    priority text not null, sent_at real not null, stored_at real not null,
    state text not null, closed_by text, closed_at real, owner text, claimed_until real,
    merged_into text, merged integer not null default 0, held text, digest text,
    waiting_since real, escalated_to text not null default '[]', reference text,
    evidence blob not null
);
drop index if exists post_episode;
create index if not exists alert_merged on alert (merged_into) where merged_into is not null;
create index if not exists alert_claimed on alert (claimed_until) where claimed_until is not null;
create index if not exists alert_shown on alert (stored_at)
    where priority = 'drift' and held is null and merged_into is null;
create index if not exists alert_unanswered on alert (waiting_since) where waiting_since is not null and state = 'open';
create table if not exists guidance (
    number integer primary key, guidance text not null unique, key text not null unique,
    episode text not null, alert text, annotator text not null, text text not null, kind text not null,
    control text, sent_at real not null, taken_at real not null, delivered_at real, applied_at real,
    applied_step integer, state text not null, valid_until_step integer, valid_until real, replaces text
);
create index if not exists guidance_episode on guidance (episode);
create index if not exists guidance_replaces on guidance (replaces) where replaces is not null;
create table if not exists post (
    number integer primary key, post text not null unique, kind text not null, episode text not null,
    priority integer not null, attempted_at real, alert text, guidance text, status text,
    done_at real, reference text, dropped text, target text
);
create index if not exists post_alerts_waiting on post (number) where kind = 'alert' and done_at is null;
create index if not exists post_alert on post (alert) where alert is not null;
create index if not exists post_due on post (priority, number) where done_at is null;
create index if not exists post_waiting on post (episode, kind) where done_at is null;
"""

_SETTINGS = (
    "locking_mode=exclusive",
    "journal_mode=wal",
    "synchronous=full",
    "cache_size=-65536",  # KiB: a batch touches the rows of hundreds of episodes
    "wal_autocheckpoint=12000",  # pages, 48 MB: a page that many commits touch is copied once
    "journal_size_limit=67108864",  # bytes: a log that one huge transaction blew up shrinks again
)

_MIGRATIONS = {
    1: """
alter table alert add column closed_at real;
alter table alert add column owner text;
alter table alert add column claimed_until real;
alter table alert add column merged_into text;
alter table alert add column merged integer not null default 0;
alter table alert add column held text;
alter table alert add column digest text;
alter table alert add column waiting_since real;
alter table alert add column escalated_to text not null default '[]';
alter table alert add column reference text;
update alert set reference = (select reference from post where post.alert = alert.alert and kind = 'alert'
    and dropped is null), waiting_since = stored_at;
alter table guidance add column valid_until_step integer;
alter table guidance add column valid_until real;
alter table guidance add column replaces text;
alter table post add column target text;
""",
    2: """
create table new_alert (
    number integer primary key, alert text not null, episode text not null, task text not null,
    detector text not null, score real not null, step integer not null, reason text not null,
    priority text not null, sent_at real not null, stored_at real not null,
    state text not null, closed_by text, closed_at real, owner text, claimed_until real,
    merged_into text, merged integer not null default 0, held text, digest text,
    waiting_since real, escalated_to text not null default '[]', reference text,
    evidence blob not null
);
insert into new_alert select number, alert, episode, task, detector, score, step, reason, priority, sent_at, stored_at,
    state, closed_by, closed_at, owner, claimed_until, merged_into, merged, held, digest, waiting_since, escalated_to,
    reference, evidence from alert order by number;
drop table alert;
alter table new_alert rename to alert;
""",
}
"""What makes a journal of one version one of the next."""


class Store:
    """One open journal file.

    Args:
        verify: called after each commit, before anybody learns of it; raises where nobody may.

    Attributes:
        on_rollback: called when a transaction failed: what was remembered of it may be wrong.

    Raises:
        HpcError: another router has it open, it is damaged, or the disk is full (so for all methods).
    """

    def __init__(self, path: Path, *, verify: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.on_rollback: list[Callable[[], None]] = []
        self._verify = verify
        self._depth = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None)
            self._db.row_factory = sqlite3.Row
        except sqlite3.Error as error:
            raise HpcError(f"cannot open the journal {path}: {error}", "free space or mend the permissions") from error
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        if self.one("select 1 from sqlite_master") is None:
            self.run("pragma auto_vacuum=incremental")  # only a new file takes it; an inherited one has it
        for statement in _SETTINGS:
            self.run(f"pragma {statement}")
        with self.transaction():
            version = self._version()
            if not 1 <= version <= SCHEMA_VERSION:
                raise HpcError(
                    f"the journal {self.path} has format {version}, this version writes {SCHEMA_VERSION}",
                    "serve the run with the version that made it, or a newer one",
                )
            for older in range(version, SCHEMA_VERSION):
                self._run_all(_MIGRATIONS[older])
            self._run_all(_SCHEMA)
            self.run("insert or replace into meta values ('schema', ?)", SCHEMA_VERSION)

    def _version(self) -> int:
        """The format of the file; that of this version where it is new."""
        if self.one("select 1 from sqlite_master where name = 'meta'") is None:
            return SCHEMA_VERSION
        found = self.one("select value from meta where name = 'schema'")
        return int(found["value"]) if found is not None else 0

    def _run_all(self, script: str) -> None:
        for statement in filter(str.strip, script.split(";")):
            self.run(statement)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, durable at the end. A transaction inside another belongs to that one."""
        if self._depth:
            yield
            return
        self.run("begin immediate")
        self._depth = 1
        try:
            yield
            self._depth = 0
            self.run("commit")
            self._verify()
        except BaseException:
            self._depth = 0
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("rollback")
            for forget in self.on_rollback:
                forget()
            raise

    def run(self, sql: str, *values: Any) -> int:
        """Carry a statement out; how many rows it changed."""
        return self._execute(sql, values).rowcount

    def insert(self, sql: str, *values: Any) -> int:
        """Insert a row; its number."""
        number = self._execute(sql, values).lastrowid
        assert number is not None
        return number

    def one(self, sql: str, *values: Any) -> sqlite3.Row | None:
        """The first row of a query."""
        row: sqlite3.Row | None = self._execute(sql, values).fetchone()
        return row

    def all(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """All rows of a query."""
        return self._execute(sql, values).fetchall()

    def each(self, sql: str, *values: Any) -> Iterator[sqlite3.Row]:
        """The rows of a query, one after the other; the journal must not be changed meanwhile."""
        cursor = self._execute(sql, values)
        try:
            yield from cursor
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _execute(self, sql: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> HpcError:
        if "locked" in str(error):
            return HpcError(f"another router is serving this run: {self.path} is in use", "`hpc router stop` ends it")
        return HpcError(f"the journal {self.path} failed: {error}", "free space on that disk, or restore the file")

    def close(self) -> None:
        """Fold the write-ahead log into the file and release it."""
        self._db.close()
