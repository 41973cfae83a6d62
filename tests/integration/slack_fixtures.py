"""The local Slack server as a process, and an in-memory desk, for the tests of the Slack frontend."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec

from hpc.config.annotators import SlackConfig
from hpc.router.annotators.slack import SlackFrontend
from hpc.router.annotators.slack_tokens import SlackTokens
from hpc.router.desk import AlertCard, Claim, EpisodeCard, GuidanceCard, Post, Receipt, Verdict
from hpc.wire.messages import StepBrief

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 30.0
EPISODE = "demo-00000"


async def until(probe: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """The first true result of ``probe``, which may be a coroutine function."""
    end = time.monotonic() + seconds
    while True:
        found = probe()
        result = await found if isinstance(found, Awaitable) else found
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s for {getattr(probe, '__name__', probe)}")
        await asyncio.sleep(0.02)


class Server:
    """A running local Slack, and what people do in it."""

    def __init__(self, ready: dict[str, Any], session: aiohttp.ClientSession) -> None:
        self.ready = ready
        self._session = session

    async def ctl(self, verb: str, **body: Any) -> Any:
        async with self._session.post(f"{self.ready['url']}_ctl/{verb}", json=body) as answer:
            value = await answer.json()
            assert answer.status == 200, value
            return value

    async def say(self, user: str, text: str, thread_ts: str | None = None) -> str:
        return str((await self.ctl("say", user=user, text=text, thread_ts=thread_ts))["ts"])

    async def messages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.ctl("messages")
        return found

    async def posts(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Messages of the bot; ``kind`` as the fake desk names its posts."""
        mine = [message for message in await self.messages() if message["user"] not in self.people]
        if kind is None:
            return mine
        return [m for m in mine if m["metadata"]["event_payload"]["post_id"].startswith(kind)]

    async def posts_of(self, alert: str) -> list[dict[str, Any]]:
        """Messages that show an alert."""
        return [m for m in await self.posts() if m["metadata"]["event_payload"]["alert_id"] == alert]

    @property
    def people(self) -> set[str]:
        return {person["id"] for person in self.ready["users"].values()}

    def config(self, **fields: Any) -> SlackConfig:
        values = {"base_url": self.ready["base_url"], "channel": self.ready["channel"], "annotators": ("U0ALICE",)}
        values |= {"posts_per_second": 50.0, "post_burst": 50, "catch_up_seconds": 60.0}
        return SlackConfig(**(values | fields))

    @property
    def tokens(self) -> SlackTokens:
        return SlackTokens(bot=self.ready["bot_token"], app=self.ready["app_token"])


@asynccontextmanager
async def local_slack(folder: Path, *options: str) -> AsyncIterator[Server]:
    """The server, from its ready file to its clean end."""
    ready = folder / "slack.json"
    log = folder / "slack.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "scripts/local_slack", "--port", "0", "--ready-file", str(ready), *options],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={key: value for key, value in os.environ.items() if not key.startswith("SLACK_")},
        )
    try:
        await until(lambda: ready.exists() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        async with aiohttp.ClientSession() as session:
            yield Server(json.loads(ready.read_text()), session)
        process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(process.wait, 20)
        assert code == 0, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What the desk was told."""

    key: str
    episode: str
    alert: str | None
    annotator: str
    text: str
    sent_at: float
    kind: str
    control: str | None
    valid_until_step: int | None
    valid_until: float | None
    replaces: str | None


class FakeDesk:
    """`hpc.router.desk.Desk` in memory, as strict as the real one where the frontend can be wrong."""

    def __init__(self) -> None:
        self.cards: dict[str, EpisodeCard] = {}
        self.alert_cards: dict[str, AlertCard] = {}
        self.guidance_cards: dict[str, GuidanceCard] = {}
        self.due: dict[str, Post] = {}
        self.published: dict[str, str] = {}
        self.dropped: dict[str, str] = {}
        self.replies: list[Reply] = []
        self.verdicts: list[tuple[str, Verdict]] = []
        self.resolved: list[tuple[str, str, str]] = []
        self.cursors: dict[str, str] = {}
        self._changed = asyncio.Event()

    # ---- what a test does
    def open_episode(self, episode: str = EPISODE, *, state: str = "running") -> None:
        self.cards[episode] = EpisodeCard(
            episode=episode,
            run="demo",
            index=len(self.cards),
            task="minilab",
            state=state,
            step=7,
            drift=0.5,
            score=None,
            open_alerts=0,
            seen_at=0.0,
        )
        self.add(Post(post=f"thread:{episode}", kind="thread", episode=episode, priority=4))

    def raise_alert(self, name: str = "al-1", episode: str = EPISODE, **fields: Any) -> None:
        values: dict[str, Any] = {
            "detector": "stuck",
            "score": 0.9,
            "step": 7,
            "reason": "failed twice at a stage",
            "priority": "drift",
            "evidence": [
                StepBrief(step=6, action="edit_file recipe.yaml", observation="recipe.yaml lines 1-1 edited, 6 lines"),
                StepBrief(step=7, action="python experiment.py", observation="stage 2 metric 31 low\n[exit 0]"),
            ],
        }
        self.alert_cards[name] = AlertCard(
            alert=name, episode=episode, run="demo", task="minilab", sent_at=0.0, state="open", **(values | fields)
        )
        self.add(Post(post=f"alert:{name}", kind="alert", episode=episode, priority=2, alert=name))

    def change_alert(self, name: str = "al-1", **fields: Any) -> None:
        """An alert has a new state, and its message is to show it."""
        self.alert_cards[name] = msgspec.structs.replace(self.alert_cards[name], **fields)
        number = len(self.published)
        self.add(Post(post=f"update:{name}:{number}", kind="update", episode=EPISODE, priority=5, alert=name))

    def say_what_became(self, guidance: str, status: Receipt) -> None:
        self.guidance_cards[guidance] = msgspec.structs.replace(
            self.guidance_cards[guidance], state=status, applied_step=12 if status == "applied" else None
        )
        self.add(
            Post(
                post=f"receipt:{guidance}:{status}",
                kind="receipt",
                episode=self.guidance_cards[guidance].episode,
                priority=0,
                guidance=guidance,
                status=status,
            )
        )

    def show_board(self, episode: str = EPISODE, **fields: Any) -> None:
        self.cards[episode] = msgspec.structs.replace(self.cards[episode], **fields)
        self.add(Post(post=f"board:{episode}:{len(self.published)}", kind="board", episode=episode, priority=5))

    def add(self, post: Post) -> None:
        self.due[post.post] = post
        self._changed.set()

    def thread_ts(self, episode: str = EPISODE) -> str:
        thread = self.cards[episode].thread
        return thread.partition(":")[2] if thread else ""

    # ---- the protocol
    async def wait_posts(self, limit: int = 20) -> list[Post]:
        while True:
            self._changed.clear()
            posts = [p for p in self.due.values() if p.kind in ("thread", "digest") or self.cards[p.episode].thread]
            if posts:
                return sorted(posts, key=lambda post: post.priority)[:limit]
            await self._changed.wait()

    def begin_post(self, post: str) -> None:
        self.due[post] = msgspec.structs.replace(self.due[post], attempted_at=time.time())

    def finish_post(self, post: str, reference: str) -> None:
        assert post not in self.published
        done = self.due.pop(post)
        self.published[post] = reference
        if done.kind == "thread":
            self.cards[done.episode] = msgspec.structs.replace(self.cards[done.episode], thread=reference)
        if done.kind == "alert" and done.alert:
            card = self.alert_cards[done.alert]
            self.alert_cards[done.alert] = msgspec.structs.replace(card, reference=reference)
        self._changed.set()

    def drop_post(self, post: str, why: str) -> None:
        del self.due[post]
        self.dropped[post] = why

    def episode(self, episode: str) -> EpisodeCard | None:
        return self.cards.get(episode)

    def episodes(self) -> list[EpisodeCard]:
        return list(self.cards.values())

    def alert(self, alert: str) -> AlertCard | None:
        return self.alert_cards.get(alert)

    def alerts(self, *, open_only: bool = True) -> list[AlertCard]:
        return [card for card in self.alert_cards.values() if card.state == "open" or not open_only]

    def digest(self, post: str) -> list[AlertCard]:
        return [card for card in self.alert_cards.values() if card.held]

    def guidance(self, guidance: str) -> GuidanceCard | None:
        return self.guidance_cards.get(guidance)

    def guidance_of_key(self, key: str) -> GuidanceCard | None:
        return next((card for card in self.guidance_cards.values() if card.key == key), None)

    def episode_of_thread(self, thread: str) -> str | None:
        return next((card.episode for card in self.cards.values() if card.thread == thread), None)

    def open_threads(self) -> list[tuple[str, str]]:
        return [(card.thread, self.cursors.get(card.thread, "")) for card in self.cards.values() if card.thread]

    def advance_cursor(self, thread: str, cursor: str) -> None:
        self.cursors[thread] = max(cursor, self.cursors.get(thread, ""))

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
        verdict = self._judge(key, episode)
        self.verdicts.append((key, verdict))
        if verdict == "accepted":
            self.replies.append(
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
            guidance = f"gu-{len(self.replies)}"
            self.guidance_cards[guidance] = GuidanceCard(
                guidance=guidance,
                key=key,
                episode=episode,
                alert=alert,
                annotator=annotator,
                text=text,
                sent_at=sent_at,
                delivered_at=None,
                applied_at=None,
                applied_step=None,
                state="queued",
                kind=kind,
                control=control,
            )
        return verdict

    def _judge(self, key: str, episode: str) -> Verdict:
        if any(reply.key == key for reply in self.replies):
            return "duplicate"
        if episode not in self.cards:
            return "unknown"
        return "too_late" if self.cards[episode].state == "finished" else "accepted"

    def claim(self, alert: str, annotator: str) -> Claim:
        card = self.alert_cards.get(alert)
        if card is None or card.state != "open":
            return Claim(result="closed" if card else "unknown")
        if card.owner not in (None, annotator):
            return Claim(result="held", owner=card.owner, until=card.claimed_until)
        self.change_alert(alert, owner=annotator, claimed_until=2e9)
        return Claim(result="claimed", owner=annotator, until=2e9)

    def release(self, alert: str, annotator: str) -> bool:
        if self.alert_cards[alert].owner != annotator:
            return False
        self.change_alert(alert, owner=None, claimed_until=None)
        return True

    def resolve(self, alert: str, annotator: str, verdict: Literal["resolved", "false_alarm"]) -> bool:
        card = self.alert_cards.get(alert)
        if card is None or card.state != "open":
            return False
        self.change_alert(alert, state=verdict)
        self.resolved.append((alert, annotator, verdict))
        return True


@asynccontextmanager
async def frontend(server: Server, desk: FakeDesk, **fields: Any) -> AsyncIterator[asyncio.Task[None]]:
    """The frontend at work on the server."""
    task = asyncio.create_task(SlackFrontend(server.config(**fields), server.tokens).run(desk))
    try:
        yield task
    finally:
        failed = task.done() and not task.cancelled() and task.exception() is not None
        task.cancel()
        if not failed:
            with suppress(asyncio.CancelledError):
                await task


async def connected(server: Server, count: int = 2) -> None:
    """Until that many sockets are open."""

    async def enough() -> bool:
        return bool((await server.ctl("state"))["connections"] >= count)

    await until(enough)
