"""The annotators of a fault campaign: they look at a local Slack and answer every alert there."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any

from tests.integration.campaign_agent import END
from tests.integration.campaign_verdict import Written
from tests.integration.slack_fixtures import Server

ANNOTATORS = {"U0ALICE": "alice", "U0BOB": "bob"}
FORM_SECONDS = 4.0
"""How long somebody waits for the form before they write in the thread instead."""


class People:
    """Two annotators, and a stranger who is never to be heard.

    Args:
        may_answer: how many alerts may have been answered by now.
    """

    def __init__(self, server: Server, rng: random.Random, may_answer: Callable[[], float]) -> None:
        self.answered: set[str] = set()
        self.ways: Counter[str] = Counter()
        self.shown: Counter[str] = Counter()
        self._server = server
        self._rng = rng
        self._may_answer = may_answer
        self._seen = ""
        self._drafts: dict[str, str] = {}  # final text -> what stood there before
        self._forms: dict[str, list[tuple[float, Written]]] = defaultdict(list)
        self._waiting: deque[dict[str, Any]] = deque()

    async def work(self) -> None:
        """Answer what is shown until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                for message in await self._server.ctl("messages", after=self._seen):
                    self._seen = message["ts"]
                    alert = (message.get("metadata") or {}).get("event_payload", {}).get("alert_id")
                    if alert:
                        self.shown[alert] += 1
                        if self.shown[alert] == 1:
                            self._waiting.append(message)
                while self._waiting and len(self.answered) < self._may_answer():
                    message = self._waiting.popleft()
                    alert = message["metadata"]["event_payload"]["alert_id"]
                    self.answered.add(alert)
                    group.create_task(self._answer(alert, message))
                await asyncio.sleep(0.05)

    async def _answer(self, alert: str, message: dict[str, Any]) -> None:
        thread, user = message["thread_ts"], self._rng.choice(list(ANNOTATORS.values()))
        way = self._rng.choices(("reply", "two replies", "edit", "form"), weights=(9, 4, 4, 3))[0]
        if self._rng.random() < 0.1:
            self.ways["stranger"] += 1
            await self._server.say("eve", f"{alert} nonsense{END}", thread)
        if way == "form" and not await self._fill_form(alert, message, user):
            way = "reply, for the form did not open"
        if way == "two replies":
            await self._server.say(user, f"{alert} first", thread)
            await asyncio.sleep(self._rng.choice((0.0, 0.0, 0.1, 0.5)))
        if way == "edit":
            ts = await self._server.say(user, f"{alert} draft", thread)
            await asyncio.sleep(self._rng.choice((0.0, 0.1, 1.0, 2.0)))
            self._drafts[f"{alert} edited{END}"] = f"{alert} draft"
            await self._server.ctl("edit", ts=ts, text=f"{alert} edited{END}")
        elif way != "form":
            await self._server.say(user, f"{alert} advice{END}", thread)
        self.ways[way] += 1

    async def _fill_form(self, alert: str, message: dict[str, Any], user: str) -> bool:
        """Press Guide and submit the form as often as it takes; False where it does not open."""
        await self._server.ctl("click", user=user, ts=message["ts"], action_id="apollo_guide")
        deadline = time.monotonic() + FORM_SECONDS
        while time.monotonic() < deadline:
            for view in await self._server.ctl("views"):
                if json.loads(view["private_metadata"] or "{}").get("alert") == alert:
                    await self._submit(alert, view["id"], user)
                    return True
            await asyncio.sleep(0.1)
        return False

    async def _submit(self, alert: str, view: str, user: str) -> None:
        text = f"{alert} form{END}"
        self._forms[alert.rpartition("-")[0]].append((time.time(), Written(text)))
        while True:
            done = await self._server.ctl("submit", user=user, view_id=view, values={"guidance": text})
            if done["acked"] and not done["answer"]:
                return
            await asyncio.sleep(0.3)

    async def written(self) -> dict[str, list[Written]]:
        """Episode -> what its annotators said, by what the Slack server holds (and the forms that it took)."""
        messages = await self._server.messages()
        payloads = {m["ts"]: (m.get("metadata") or {}).get("event_payload", {}) for m in messages}
        said = defaultdict(list, {episode: list(forms) for episode, forms in self._forms.items()})
        for message in messages:
            if message["user"] in ANNOTATORS:
                episode = payloads[message["thread_ts"]]["episode"]
                text = message["text"]
                said[episode].append((float(message["ts"]), Written(text, self._drafts.get(text))))
        return {e: [reply for _, reply in sorted(replies, key=lambda r: r[0])] for e, replies in said.items()}
