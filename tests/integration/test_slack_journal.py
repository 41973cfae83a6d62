"""The Slack frontend on the router's real journal: nothing is lost or doubled when either is restarted."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path

from hpc.router.annotators.slack import SlackFrontend
from hpc.router.journal import JournalDesk
from hpc.router.state import Applied, Delivered, Ended, Joined, Raised
from hpc.wire.messages import Alert, Guidance, Hello, StepBrief

from .slack_fixtures import EPISODE, Server, connected, local_slack, until

HELLO = Hello(id="he-1", sent_at=1.0, run="demo", episode=EPISODE, epoch=1, token="x", task="minilab")
ALERT = Alert(
    id=f"{EPISODE}-al-1",
    sent_at=2.0,
    episode=EPISODE,
    epoch=1,
    detector="stuck",
    score=0.9,
    step=7,
    reason="failed twice at a stage",
    evidence=[StepBrief(step=7, action="run", observation="next anneal for cobalt")],
)


class Router:
    """A router without its wire: journal and frontend."""

    def __init__(self, server: Server, path: Path) -> None:
        self.guidance: list[Guidance] = []
        self.desk = JournalDesk(path, on_reply=self.guidance.append)
        frontend = SlackFrontend(server.config(), server.tokens)
        self._task = asyncio.create_task(frontend.run(self.desk))

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self.desk.close()


async def test_an_alert_makes_its_way_to_an_applied_receipt_over_restarts(tmp_path: Path) -> None:
    async with local_slack(tmp_path, "--no-limits", "--retries") as server:
        router = Router(server, tmp_path / "journal.sqlite")
        router.desk.record([Joined(HELLO, 1.0), Raised(ALERT, 2.0)])
        await server.ctl("fault", method="chat.postMessage", drop="after")

        async def alert_shown() -> bool:
            return any(message.get("thread_ts") for message in await server.posts_of(ALERT.id))

        await until(alert_shown)
        await router.stop()

        (shown,) = await server.posts_of(ALERT.id)
        await server.say("alice", "for cobalt set anneal to 450C", shown["thread_ts"])  # nobody listens
        router = Router(server, tmp_path / "journal.sqlite")
        await connected(server)
        await until(lambda: router.guidance)
        guidance = router.guidance[0]
        assert (guidance.episode, guidance.alert) == (EPISODE, ALERT.id)
        assert (guidance.annotator, guidance.text) == ("U0ALICE", "for cobalt set anneal to 450C")
        router.desk.record([Delivered(guidance.id, EPISODE, 3.0), Applied(guidance.id, EPISODE, 9, 4.0)])
        await until(lambda: router.desk.counts()["posts_due"] == 0)

        router.desk.record([Ended(EPISODE, "finished", 20, 80.0, 5.0)])
        await server.say("alice", "one more thing", shown["thread_ts"])
        receipts = "Too late"

        async def told() -> bool:
            return receipts in json.dumps(await server.messages())

        await until(told)
        await until(lambda: router.desk.counts()["posts_due"] == 0)
        await router.stop()

        assert len(router.guidance) == 1
        messages = await server.messages()
        texts = [message["text"] for message in messages]
        assert len([text for text in texts if text.startswith("Drift in")]) == 1
        assert len([text for text in texts if text.startswith("Applied")]) == 1
        assert len([text for text in texts if text.startswith("Too late")]) == 1
        assert len([m for m in messages if m.get("thread_ts") is None or m["thread_ts"] == m["ts"]]) == 1
        (reply,) = [message for message in messages if message["text"] == "for cobalt set anneal to 450C"]
        assert [reaction["name"] for reaction in reply["reactions"]] == ["white_check_mark"]
        assert "state: finished" in json.dumps(messages[0]["blocks"])
