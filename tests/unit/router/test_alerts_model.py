"""Whatever agents and annotators do in whatever order, annotators are called as the rules say."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hpc.config.attention import AttentionConfig, BudgetConfig, EscalationConfig, QuietConfig, QuietWindow
from hpc.router.attention import HOUR, is_quiet
from hpc.router.desk import AlertCard
from hpc.router.journal import JournalDesk
from hpc.router.state import Ended, Joined, Raised
from hpc.wire.messages import Alert, Hello

EXAMPLES = int(os.environ.get("ATTENTION_EXAMPLES", "15"))
NOON = 1_764_244_800.0
RULES = AttentionConfig(
    claim_minutes=20,
    escalation=EscalationConfig(minutes=15, to=("U1", "S2")),
    quiet=QuietConfig(windows=(QuietWindow(),)),
    budget=BudgetConfig(alerts_per_hour=3, queue=4, digest_alerts=2),
)
EPISODES = ("r-00000", "r-00001", "r-00002")

STEPS = st.one_of(
    st.tuples(st.just("raise"), st.sampled_from(EPISODES), st.sampled_from(["loop", "errors"]), st.just("drift")),
    st.tuples(st.just("raise"), st.sampled_from(EPISODES), st.just("agent"), st.sampled_from(["ask", "milestone"])),
    st.tuples(st.just("claim"), st.integers(0, 9), st.sampled_from(["ada", "bob"])),
    st.tuples(st.just("release"), st.integers(0, 9), st.sampled_from(["ada", "bob"])),
    st.tuples(st.just("resolve"), st.integers(0, 9), st.sampled_from(["resolved", "false_alarm"])),
    st.tuples(st.just("reply"), st.integers(0, 9), st.sampled_from(["ada", "bob"])),
    st.tuples(st.just("wait"), st.sampled_from([30.0, 600.0, 1200.0, 3600.0, 6 * 3600.0])),
    st.tuples(st.just("publish")),
    st.tuples(st.just("end"), st.sampled_from(EPISODES)),
)


class World:
    """A desk, its clock, and a frontend that notes what it published."""

    def __init__(self, folder: Path) -> None:
        self.now = NOON
        self.desk = JournalDesk(folder / "j.sqlite3", clock=lambda: self.now, attention=RULES)
        for number, episode in enumerate(EPISODES):
            hello = Hello(id="h", sent_at=NOON, run="r", episode=episode, epoch=1, token="t", index=number)
            self.desk.record([Joined(hello, NOON)])
        self.raised: list[str] = []
        self.published: list[tuple[float, str, str | None, str | None]] = []
        self.digests: list[list[AlertCard]] = []

    def step(self, kind: str, *values: Any) -> None:
        if kind == "raise":
            self.raise_(*values)
        elif kind == "wait":
            self.now += values[0]
            self.desk.attend()
        elif kind == "publish":
            asyncio.run(self.publish())
        elif kind == "end":
            self.desk.record([Ended(values[0], "finished", 9, None, self.now)])
        elif self.raised:
            name, value = self.raised[values[0] % len(self.raised)], values[1]
            before = self.card(self.card(name).merged_into or name)
            if kind == "claim":
                won = self.desk.claim(name, value).result == "claimed"
                assert won == (before.state == "open" and before.owner in (None, value))
            elif kind == "release":
                assert self.desk.release(name, value) == (before.state == "open" and before.owner == value)
            elif kind == "resolve":
                assert self.desk.resolve(name, "ada", value) == (before.state == "open")
            else:
                self.desk.take_reply(
                    key=f"k{self.now}{len(self.raised)}{name}{value}",
                    episode=before.episode,
                    alert=name,
                    annotator=value,
                    text="left",
                    sent_at=self.now,
                )

    def raise_(self, episode: str, detector: str, priority: Any) -> None:
        name = f"{episode}-a{len(self.raised)}"
        alert = Alert(
            id=name,
            sent_at=self.now,
            episode=episode,
            epoch=1,
            detector=detector,
            score=0.5,
            step=len(self.raised),
            reason="stuck",
            priority=priority,
        )
        self.desk.record([Raised(alert, self.now), Raised(alert, self.now)])
        self.raised.append(name)

    def card(self, name: str) -> AlertCard:
        card = self.desk.alert(name)
        assert card is not None
        return card

    async def publish(self) -> None:
        while self.desk.counts()["posts_due"]:
            post = (await self.desk.wait_posts())[0]
            self.desk.begin_post(post.post)
            self.desk.finish_post(post.post, f"T-{post.episode}" if post.kind == "thread" else f"M-{post.alert}")
            self.published.append((self.now, post.kind, post.alert, post.target))
            if post.kind == "digest":
                self.digests.append(self.desk.digest(post.post))

    def check(self) -> None:
        cards = {card.alert: card for card in self.desk.alerts(open_only=False)}
        assert sorted(cards) == sorted(self.raised), "every alert is in the inbox, once"
        shown = Counter(alert for _, kind, alert, _ in self.published if kind == "alert")
        listed = Counter(card.alert for digest in self.digests for card in digest)
        called = Counter((alert, target) for _, kind, alert, target in self.published if kind == "escalation")
        assert max([*shown.values(), *listed.values(), *called.values()], default=1) == 1, "said twice"
        assert not shown.keys() & listed.keys()
        for card in cards.values():
            if card.merged_into is not None:
                main = cards[card.merged_into]
                assert (main.merged_into, main.episode, main.detector) == (None, card.episode, card.detector)
                assert card.alert not in shown.keys() | listed.keys()
            if card.held is not None:
                assert card.alert not in shown
                assert not card.escalated_to
            assert card.priority != "milestone" or not card.escalated_to
        for name, card in cards.items():
            assert card.count == 1 + sum(other.merged_into == name for other in cards.values())
        drift = sorted(card.sent_at for card in cards.values() if card.priority == "drift" and card.alert in shown)
        for later, earlier in zip(drift[3:], drift, strict=False):
            assert later - earlier >= HOUR, "more than the hour's budget"
        for card in cards.values():
            if card.priority != "ask" and card.state != "expired" and is_quiet(RULES.quiet, card.sent_at):
                assert card.held == "quiet" or card.merged_into is not None


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.lists(STEPS, min_size=5, max_size=40))
def test_annotators_are_called_as_the_rules_say(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            for step in steps:
                world.step(*step)
            world.step("publish")
            world.check()
        finally:
            world.desk.close()
