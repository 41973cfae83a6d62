"""Random trouble between Slack and the router: every reply is heard once, by its agent alone, in order.

``SLACK_CHAOS`` is the number of replies (default small); ``SLACK_CHAOS_SEED`` repeats a run.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hpc.config.attention import AttentionConfig, BudgetConfig
from hpc.router.annotators import slack_replies, slack_sockets
from hpc.router.annotators.slack import SlackFrontend
from hpc.router.journal import JournalDesk
from hpc.router.state import Joined, Raised
from hpc.wire.messages import Alert, Guidance, Hello, StepBrief

from .slack_fixtures import Server, connected, local_slack, until

REPLIES = int(os.environ.get("SLACK_CHAOS", "15"))
EPISODES = 4


class Chaos:
    """Four episodes, two people, one of them a stranger, and a Slack in trouble."""

    def __init__(self, server: Server, journal: Path, rng: random.Random) -> None:
        self.server = server
        self.rng = rng
        self.said: dict[str, list[tuple[str, str]]] = {f"demo-{index:05d}": [] for index in range(EPISODES)}
        self.heard: list[Guidance] = []
        self.alerts = 0
        self.done: dict[str, int] = {}
        self._journal = journal

    def open(self) -> None:
        each = AttentionConfig(budget=BudgetConfig(queue=0))  # every alert is shown by itself
        self.desk = JournalDesk(self._journal, on_reply=self.heard.append, board_seconds=0.0, attention=each)
        config = self.server.config(catch_up_seconds=1.0, usergroup="S0EXPERTS", annotators=())
        self._task = asyncio.create_task(SlackFrontend(config, self.server.tokens).run(self.desk))

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self.desk.close()

    def join(self) -> None:
        for index, episode in enumerate(self.said):
            hello = Hello(id="he", sent_at=1.0, run="demo", episode=episode, epoch=1, token="x", task="t", index=index)
            self.desk.record([Joined(hello, time.time())])

    def thread(self, episode: str) -> str:
        card = self.desk.episode(episode)
        assert card is not None
        return (card.thread or "").partition(":")[2]

    # ---- what happens
    async def reply(self) -> None:
        episode = self.rng.choice(list(self.said))
        text = f"{episode} advice {len(self.said[episode])}"
        if self.rng.random() < 0.2:
            await self.server.say("eve", f"{text} of a stranger", self.thread(episode))
        self.said[episode].append((await self.server.say("alice", text, self.thread(episode)), text))

    async def alert(self) -> None:
        self.alerts += 1
        episode = self.rng.choice(list(self.said))
        alert = Alert(
            id=f"{episode}-a{self.alerts}",
            sent_at=2.0,
            episode=episode,
            epoch=1,
            detector=f"d{self.alerts}",  # alerts of one detector would be merged
            score=0.9,
            step=self.alerts,
            reason="<!channel>",
            evidence=[StepBrief(step=1, action="run", observation="<@U0EVE>")],
        )
        self.desk.record([Raised(alert, time.time())])

    async def restart(self) -> None:
        await self.close()
        self.open()

    async def trouble(self) -> None:
        method = self.rng.choice(
            [
                "chat.postMessage",
                "chat.update",
                "conversations.replies",
                "conversations.history",
                "usergroups.users.list",
            ]
        )
        fault: dict[str, Any] = self.rng.choice(
            [{"drop": "before"}, {"drop": "after"}, {"status": 429, "retry_after": 1}, {"status": 503}, {"delay": 0.3}]
        )
        await self.server.ctl("fault", method=method, times=self.rng.randint(1, 2), **fault)

    async def cut(self) -> None:
        reasons: list[dict[str, Any]] = [{"hard": True}, {"reason": "refresh_requested"}, {"reason": "", "close": True}]
        await self.server.ctl("disconnect", **self.rng.choice(reasons))

    async def silence(self) -> None:
        await self.server.ctl("sockets", mute=True)

    async def doubles(self) -> None:
        await self.server.ctl("sockets", duplicates=3)

    async def run(self, replies: int) -> None:
        kinds = [self.reply, self.alert, self.trouble, self.cut, self.silence, self.doubles, self.restart]
        weights = [10, 3, 4, 1.5, 0.7, 2, 0.7]
        while self.done.get("reply", 0) < replies:
            (kind,) = self.rng.choices(kinds, weights)
            self.done[kind.__name__] = self.done.get(kind.__name__, 0) + 1
            await kind()
            await asyncio.sleep(self.rng.choice([0, 0, 0.02, 0.1]))


async def test_random_trouble_loses_doubles_and_misleads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in {"PING_SECONDS": 1, "WATCH_SECONDS": 0.2, "STUCK_SECONDS": 1.0, "ECHO_SECONDS": 2.0}.items():
        monkeypatch.setattr(slack_sockets, name, seconds)
    monkeypatch.setattr(slack_replies, "MISSED_SECONDS", 0.5)
    monkeypatch.setattr(slack_replies, "READS_A_SECOND", 1000.0)
    seed = int(os.environ.get("SLACK_CHAOS_SEED", "7"))
    async with local_slack(tmp_path, "--no-limits", "--ack-seconds", "0.5", "--retries", "0", "1") as server:
        chaos = Chaos(server, tmp_path / "journal.sqlite", random.Random(seed))
        chaos.open()
        try:
            await connected(server)
            chaos.join()
            await until(lambda: all(chaos.thread(episode) for episode in chaos.said))
            await chaos.run(REPLIES)
            await until(lambda: len(chaos.heard) >= REPLIES, 120)
            await until(lambda: chaos.desk.counts()["posts_due"] == 0, 120)
            said = {episode: [text for _, text in replies] for episode, replies in chaos.said.items()}
            heard = {episode: [g.text for g in chaos.heard if g.episode == episode] for episode in chaos.said}
            assert heard == said, f"SLACK_CHAOS_SEED={seed}"
            assert {guidance.annotator for guidance in chaos.heard} == {"U0ALICE"}
            posts = [message["metadata"]["event_payload"] for message in await server.posts()]
            assert len({post["post_id"] for post in posts}) == len(posts)
            assert len([post for post in posts if post["alert_id"]]) == chaos.alerts
            print({**chaos.done, "seed": seed, "heard": len(chaos.heard)})
        finally:
            await chaos.close()
