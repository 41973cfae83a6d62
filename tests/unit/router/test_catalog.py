"""What the router remembers of its alerts is what its journal holds, whatever was done or failed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc.config.attention import AttentionConfig, BudgetConfig
from hpc.core.errors import HpcError
from hpc.router.catalog import Catalog
from hpc.router.compaction import HISTORY_SECONDS
from hpc.router.journal import JournalDesk
from hpc.router.posts import Posts
from hpc.router.state import Ended, Fact, Joined, Raised
from hpc.wire.messages import Alert, Hello, StepBrief

EXAMPLES = int(os.environ.get("CATALOG_EXAMPLES", "25"))
QUEUE = 3
EPISODES = ("r-00000", "r-00001")
DETECTORS = ("loop", "errors")

ONE = st.one_of(
    st.tuples(st.just("raise"), st.sampled_from(EPISODES), st.sampled_from(DETECTORS), st.just("drift")),
    st.tuples(st.just("raise"), st.sampled_from(EPISODES), st.just("loop"), st.sampled_from(["ask", "milestone"])),
    st.tuples(st.just("again"), st.integers(0, 9)),
    st.tuples(st.just("join"), st.sampled_from(EPISODES), st.integers(1, 3)),
    st.tuples(st.just("end"), st.sampled_from(EPISODES)),
    st.tuples(st.just("resolve"), st.integers(0, 9)),
    st.tuples(st.just("publish"), st.integers(1, 4)),
    st.tuples(st.just("begin"), st.integers(1, 2)),
    st.tuples(st.just("drop")),
    st.tuples(st.just("wait"), st.sampled_from([60.0, 3601.0, HISTORY_SECONDS + 1])),
)
STEPS = st.lists(
    st.one_of(ONE, st.tuples(st.just("fail"), st.lists(ONE, min_size=1, max_size=4)), st.just(("restart",))),
    min_size=5,
    max_size=40,
)


def alert_of(episode: str, number: int, detector: str = "loop", priority: Any = "drift", **fields: Any) -> Alert:
    named: dict[str, Any] = {"id": f"{episode}-a{number}", "episode": episode, "epoch": 1, "step": number}
    named |= {"detector": detector, "priority": priority, "reason": "stuck", **fields}
    return Alert(sent_at=1.0, score=0.5, **named)


def join(episode: str, epoch: int = 1) -> Joined:
    return Joined(Hello(id="h", sent_at=1.0, run="r", episode=episode, epoch=epoch, token="t"), 1.0)


class Broken(Exception):
    """Something goes wrong in the middle of a transaction."""


class World:
    """A desk whose memory is held against its file after everything that happens."""

    def __init__(self, folder: Path, *, merge: bool) -> None:
        self.now = 1_000_000.0
        self.path = folder / "j.sqlite3"
        self.rules = AttentionConfig(budget=BudgetConfig(merge=merge, queue=QUEUE, digest_alerts=2))
        self.desk = self.open()
        self.raised: list[Alert] = []

    def open(self) -> JournalDesk:
        return JournalDesk(self.path, clock=lambda: self.now, attention=self.rules, threads="alert")

    def step(self, kind: str, *values: Any) -> None:
        if kind == "restart":
            self.desk.close()
            self.desk = self.open()
        elif kind == "fail":
            before = self.remembered(self.desk._catalog)
            with contextlib.suppress(Broken), self.desk.together():
                for value in values[0]:
                    self.step(*value)
                raise Broken
            assert self.remembered(self.desk._catalog)[1:] == before[1:], "the alerts of it are gone"
        elif kind == "raise":
            self.raised.append(alert_of(values[0], len(self.raised), *values[1:]))
            self.desk.record([Raised(self.raised[-1], self.now)])
        elif kind == "join":
            self.desk.record([join(*values)])
        elif kind == "end":
            self.desk.record([Ended(values[0], "finished", 9, None, self.now)])
        elif kind == "publish":
            for post in self.due()[: values[0]]:
                self.desk.begin_post(post.post)
                self.desk.finish_post(post.post, f"T-{post.post}")
        elif kind == "begin":
            for post in self.due()[: values[0]]:
                self.desk.begin_post(post.post)
        elif kind == "drop":
            for post in self.due()[:1]:
                self.desk.drop_post(post.post, "refused")
        elif kind == "wait":
            self.now += values[0]
            self.desk.attend()
            self.desk.compact()
        elif self.raised:
            alert = self.raised[values[0] % len(self.raised)]
            if kind == "again":
                self.desk.record([Raised(alert, self.now)])
            else:
                self.desk.resolve(alert.id, "ada", "resolved")

    def due(self) -> list[Any]:
        return asyncio.run(self.desk.wait_posts()) if self.desk.counts()["posts_due"] else []

    def remembered(self, catalog: Catalog) -> tuple[Any, ...]:
        """All that a catalog answers."""
        return (
            [catalog.number(alert.id) for alert in self.raised],
            [(catalog.lives(episode), catalog.open_of(episode), catalog.count_open(episode)) for episode in EPISODES],
            [catalog.first_open(episode, detector) for episode in EPISODES for detector in DETECTORS],
            (catalog.all_open(), catalog.count_open()),
            (sorted(catalog.unlisted()), sorted(catalog.held_back(), key=lambda group: group.why)),
        )

    def check(self) -> None:
        desk, fresh = self.desk, Catalog(self.desk._store)
        assert self.remembered(desk._catalog) == self.remembered(fresh)
        names = [row["alert"] for row in desk._store.all("select alert from alert")]
        assert len(names) == len(set(names)), "an alert is in the journal twice"
        posts = Posts(desk._store, fresh, clock=lambda: self.now)
        assert desk._posts.waiting_alerts(QUEUE) == posts.waiting_alerts(QUEUE)
        shown = desk._store.all(
            "select episode from episode where thread is not null union select episode from post"
            " where kind = 'thread' and done_at is null and attempted_at is not null"
        )
        assert not desk._posts._threadless & {row["episode"] for row in shown}, "a board would never be shown"


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.booleans(), STEPS)
def test_memory_is_a_mirror_of_the_file(merge: bool, steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), merge=merge)
        try:
            for episode in EPISODES:
                world.step("join", episode, 1)
            for step in steps:
                world.step(*step)
                world.check()
        finally:
            world.desk.close()


@pytest.mark.parametrize(
    "steps",
    [
        [("raise", EPISODES[0], f"d{n}", "drift") for n in range(QUEUE + 2)]
        + [("wait", 3601.0), ("resolve", QUEUE + 1), ("resolve", QUEUE), ("restart",)],
        [("raise", EPISODES[0], "loop", "drift"), ("begin", 1), ("publish", 1)],
    ],
    ids=["closed after a digest listed it", "a thread is under way"],
)
def test_memory_is_a_mirror_of_the_file_also_when(steps: list[tuple[Any, ...]], tmp_path: Path) -> None:
    world = World(tmp_path, merge=True)
    try:
        for step in [("join", EPISODES[0], 1), *steps]:
            world.step(*step)
            world.check()
    finally:
        world.desk.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[JournalDesk]:
    with contextlib.closing(JournalDesk(tmp_path / "j.sqlite3", threads="alert")) as desk:
        desk.record([join(episode) for episode in EPISODES])
        yield desk


def test_an_alert_whose_transaction_failed_is_new_when_it_comes_again(desk: JournalDesk, tmp_path: Path) -> None:
    """Else its repetition would be acknowledged without ever having been stored."""
    raised = Raised(alert_of(EPISODES[0], 1), 1.0)
    with pytest.raises(Broken), desk.together():
        desk.record([raised])
        raise Broken
    assert desk.alert(raised.alert.id) is None
    desk.record([raised])
    desk.close()
    with contextlib.closing(JournalDesk(tmp_path / "j.sqlite3")) as again:
        assert [card.alert for card in again.alerts()] == [raised.alert.id]
        again.record([raised])
        assert [card.alert for card in again.alerts(open_only=False)] == [raised.alert.id]


def test_a_storm_writes_little_more_than_its_alerts(tmp_path: Path) -> None:
    """Alerts of many episodes at once are appended: none of them changes pages of its own."""
    path = tmp_path / "j.sqlite3"
    episodes = [f"r-{number:05d}" for number in range(1000)]
    evidence = [StepBrief(step=step, action="a" * 40, observation="o" * 200) for step in range(4)]
    with contextlib.closing(JournalDesk(path, threads="alert")) as desk:
        desk.record([join(episode) for episode in episodes])
        for number in range(4):
            facts: list[Fact] = []
            for episode in episodes:
                fields: dict[str, Any] = {"detector": f"d{number}", "evidence": evidence}
                facts.append(Raised(alert_of(episode, number, **fields), 1.0))
            before = path.with_name(f"{path.name}-wal").stat().st_size
            for at in range(0, len(facts), 100):
                desk.record(facts[at : at + 100])
        written = path.with_name(f"{path.name}-wal").stat().st_size - before
    assert written / len(episodes) < 2500, "bytes written for an alert of about 1,200"


def test_a_journal_that_cannot_be_read_is_let_go_of(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite3"
    with contextlib.closing(JournalDesk(path, threads="alert")) as desk:
        desk.record([join(EPISODES[0])])
        desk.record([Raised(alert_of(EPISODES[0], number, reason="r" * 900), 1.0) for number in range(50)])
        root = int(desk._store.all("select rootpage from sqlite_master where name = 'alert'")[0]["rootpage"])
        size = int(desk._store.all("pragma page_size")[0][0])
    whole = path.read_bytes()
    path.write_bytes(whole[: (root - 1) * size] + b"\xff" * size + whole[root * size :])
    with pytest.raises(HpcError, match="journal"):
        JournalDesk(path)
    path.write_bytes(whole)
    JournalDesk(path).close()
