"""What annotators do in Slack, on the router's real journal, with slack-sdk and the local server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpc.config.attention import AttentionConfig
from hpc.router.annotators import slack_sockets
from hpc.router.annotators.slack import SlackFrontend
from hpc.router.journal import JournalDesk
from hpc.router.state import Applied, Delivered, Joined, Moved, Raised, Unused
from hpc.wire.messages import Alert, Guidance, Hello, Progress, StepBrief

from .slack_fixtures import EPISODE, Server, connected, local_slack, until

ALERT = f"{EPISODE}-a7"


def raised(step: int = 7, episode: str = EPISODE, **fields: Any) -> Raised:
    values: dict[str, Any] = {"detector": "stuck", "score": 0.9, "reason": f"failed at step {step}"}
    values |= {"evidence": [StepBrief(step=step, action="run", observation=f"seen at {step}")]}
    alert = Alert(id=f"{episode}-a{step}", sent_at=2.0, episode=episode, epoch=1, step=step, **(values | fields))
    return Raised(alert, time.time())


class Office:
    """A router without its wire: journal, Slack frontend, and the server that people use."""

    def __init__(self, server: Server, desk: JournalDesk) -> None:
        self.server = server
        self.desk = desk
        self.guidance: list[Guidance] = []
        desk.on_reply = self.guidance.append

    def join(self, episode: str = EPISODE, index: int = 0) -> None:
        hello = Hello(
            id="he", sent_at=1.0, run="demo", episode=episode, epoch=1, token="x", task="minilab", index=index
        )
        self.desk.record([Joined(hello, time.time())])

    def move(self, step: int, state: str = "running", episode: str = EPISODE) -> None:
        progress = Progress(id="pr", sent_at=1.0, episode=episode, epoch=1, step=step, state=state, drift=0.4)
        self.desk.record([Moved(progress, time.time())])

    async def quiet(self) -> None:
        """Until everything is published."""
        await until(lambda: self.desk.counts()["posts_due"] == 0)

    async def message(self, alert: str = ALERT) -> dict[str, Any]:
        """The message that shows an alert."""
        for message in await self.server.posts_of(alert):
            if any(block["type"] == "header" for block in message["blocks"]):
                return message
        raise AssertionError(f"{alert} is not shown")

    async def shows(self, words: str, find: Callable[[], Any] | None = None) -> None:
        """Until ``words`` are in the alert's message, or in what ``find`` finds."""

        async def there() -> bool:
            return words in json.dumps(await (find or self.message)())

        await until(there)

    async def click(self, user: str, action: str, **more: Any) -> Any:
        ts = more.pop("ts", None) or (await self.message())["ts"]
        return await self.server.ctl("click", user=user, ts=ts, action_id=f"apollo_{action}", **more)

    async def modal(self) -> dict[str, Any]:
        async def views() -> Any:
            return (await self.server.ctl("state"))["views"]

        found: dict[str, Any] = (await until(views))[-1]
        return found

    async def notes(self, user: str = "") -> list[str]:
        """What people were told privately."""
        notes = (await self.server.ctl("state"))["channels"][0]["ephemeral"]
        return [json.dumps(note) for note in notes if not user or note["user"] == user]

    async def told(self, user: str, words: str) -> None:
        async def there() -> bool:
            return any(words in note for note in await self.notes(user))

        await until(there)

    @property
    def thread(self) -> str:
        card = self.desk.episode(EPISODE)
        assert card is not None
        return (card.thread or "").partition(":")[2]


@asynccontextmanager
async def office(
    folder: Path, *options: str, attention: dict[str, Any] | None = None, **fields: Any
) -> AsyncIterator[Office]:
    """An episode with its thread, everything published and connected."""
    async with local_slack(folder, "--no-limits", *options) as server:
        config = msgspec.convert(attention or {}, AttentionConfig)
        desk = JournalDesk(folder / "journal.sqlite", attention=config, board_seconds=0.0)
        task = asyncio.create_task(
            SlackFrontend(server.config(annotators=("U0ALICE", "U0BOB"), **fields), server.tokens).run(desk)
        )
        try:
            await connected(server)
            at = Office(server, desk)
            at.join()
            await at.quiet()
            yield at
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            desk.close()


async def test_the_first_claim_wins_and_everybody_sees_it(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        at.desk.record([raised()])
        await at.quiet()
        assert (await at.click("alice", "claim"))["acked"]
        await at.shows("Claimed by <@U0ALICE> until <!date^")

        async def board() -> Any:
            return [message for message in await at.server.messages() if message["ts"] == at.thread]

        await at.shows("owner: <@U0ALICE>", board)
        await at.click("bob", "release")
        await at.told("U0BOB", "You have not claimed")
        await at.server.ctl("react", user="bob", ts=(await at.message())["ts"], name="eyes")
        await at.click("alice", "release")
        await at.shows("apollo_claim")
        for user in ("eve", "bob", "alice"):  # the emoji of a stranger is only an emoji
            if user != "bob":
                await at.server.ctl("react", user=user, ts=(await at.message())["ts"], name="eyes")
        await at.shows("Claimed by <@U0ALICE>")
        await at.server.ctl("unreact", user="alice", ts=(await at.message())["ts"], name="eyes")
        await at.shows("apollo_claim")
        await at.click("bob", "fine")
        await at.shows("false alarm by <@U0BOB>")
        await at.quiet()
        await at.click("alice", "guide", ts=at.thread)  # the board still guides
        assert at.desk.alerts() == []


async def test_a_thumb_up_says_that_nothing_is_wrong(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        at.desk.record([raised()])
        await at.quiet()
        shown = (await at.message())["ts"]
        await at.server.ctl("react", user="eve", ts=shown, name="+1")
        await at.server.ctl("react", user="bob", ts=shown, name="+1::skin-tone-3")
        await at.shows("false alarm by <@U0BOB>")
        await at.server.ctl("unreact", user="bob", ts=shown, name="+1::skin-tone-3")
        await at.quiet()
        assert at.desk.alerts() == []


async def test_somebody_elses_claim_is_told_and_does_not_lock(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        at.desk.record([raised()])
        await at.quiet()
        shown = (await at.message())["ts"]
        at.desk.claim(ALERT, "U0BOB")
        at.desk.release(ALERT, "U0BOB")
        await at.quiet()
        assert at.desk.claim(ALERT, "U0BOB").result == "claimed"
        await at.server.ctl("fault", method="chat.update", delay=0.5)  # the buttons are old for a moment
        await at.click("alice", "claim", ts=shown)
        await at.told("U0ALICE", "<@U0BOB> has claimed this alert until")
        await at.server.say("alice", "use 450C", at.thread)
        await until(lambda: at.guidance)
        await at.shows("closed: answered by <@U0ALICE>")


async def test_the_modal_limits_how_long_guidance_is_valid(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        at.move(20)
        at.desk.record([raised()])
        await at.quiet()
        await at.click("alice", "guide")
        view = await at.modal()

        async def submit(**values: Any) -> Any:
            answer = await at.server.ctl(
                "submit", user="alice", view_id=view["id"], values={"guidance": "go", **values}
            )
            return (answer["answer"] or {}).get("errors")

        assert "step 20" in (await submit(until_step="19"))["until_step"]
        assert "number" in (await submit(until_step="soon"))["until_step"]
        assert "future" in (await submit(until_time=int(time.time()) - 5))["until_time"]
        assert at.guidance == []
        until_time = int(time.time()) + 3600
        assert await submit(until_step="40", until_time=until_time, kind="correction") is None
        (guidance,) = at.guidance
        assert (guidance.alert, guidance.text, guidance.kind) == (ALERT, "go", "correction")
        assert (guidance.valid_until_step, guidance.valid_until) == (40, until_time)
        at.desk.record([Delivered(guidance.id, EPISODE, 3.0), Unused(guidance.id, EPISODE, "expired", 4.0)])
        await at.shows("Expired: the agent got there too late", at.server.messages)


async def test_merged_alerts_are_one_message(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        at.desk.record([raised(7)])
        await at.quiet()
        at.desk.record([raised(9), raised(12)])
        await at.shows("raised 3 times")
        shown = json.dumps(await at.message())
        assert "steps: 7 to 12" in shown
        assert "seen at 12" in shown
        await at.quiet()
        assert len(await at.server.messages()) == 2


async def test_an_alert_that_nobody_takes_care_of_calls_the_next(tmp_path: Path) -> None:
    attention = {"escalation": {"minutes": 1e-4, "to": ["S0EXPERTS"]}}
    async with office(tmp_path, attention=attention) as at:
        at.desk.record([raised(reason="<@U0EVE> <!channel> look")])
        await at.quiet()

        async def calls() -> list[dict[str, Any]]:
            at.desk.attend()
            return [m for m in await at.server.posts_of(ALERT) if "Can you look" in json.dumps(m)]

        (call,) = await until(calls)
        assert call["thread_ts"] == at.thread
        assert call["blocks"][0]["text"]["text"].startswith("<!subteam^S0EXPERTS>, nobody has")
        assert call["text"].startswith("<!subteam^S0EXPERTS>, ")
        assert "<@U0EVE>" not in json.dumps(call)
        assert "<!channel>" not in json.dumps(call)
        await at.shows("Called: <!subteam^S0EXPERTS>")
        await at.click("bob", "claim", ts=call["ts"])
        await at.shows("Claimed by <@U0BOB>")
        assert len(await calls()) == 1


async def test_what_is_held_back_is_listed_and_can_be_answered(tmp_path: Path) -> None:
    attention = {"budget": {"alerts_per_hour": 1, "merge": False, "digest_minutes": 1e-4}}
    async with office(tmp_path, attention=attention) as at:
        at.desk.record([raised(7), raised(8), raised(9)])
        await at.quiet()

        async def digests() -> list[dict[str, Any]]:
            at.desk.attend()
            return [message for message in await at.server.messages() if "Held back" in message["text"]]

        (digest,) = await until(digests)
        assert "thread_ts" not in digest
        shown = json.dumps(digest["blocks"], ensure_ascii=False)
        assert f"|{EPISODE}> · Drift at step 8" in shown
        assert "failed at step 9" in shown
        assert "failed at step 7" not in shown
        await at.click("alice", "guide", ts=digest["ts"], value=f"{EPISODE}-a9")
        view = await at.modal()
        await at.server.ctl("submit", user="alice", view_id=view["id"], values={"guidance": "rest"})
        assert [(g.alert, g.text) for g in at.guidance] == [(f"{EPISODE}-a9", "rest")]


async def test_an_edit_takes_the_place_of_what_the_agent_has_not_read(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        at.desk.record([raised()])
        await at.quiet()
        ts = await at.server.say("alice", "use 350C", at.thread)
        await until(lambda: at.guidance)
        await at.server.ctl("edit", ts=ts, text="use 450C")
        await until(lambda: len(at.guidance) == 2)
        first, second = at.guidance
        assert (second.text, second.replaces, second.alert) == ("use 450C", first.id, ALERT)
        assert [guidance.text for guidance in at.desk.pending()] == ["use 450C"]
        await at.shows("Superseded: a newer text took its place", at.server.messages)
        at.desk.record([Delivered(second.id, EPISODE, 3.0), Applied(second.id, EPISODE, 8, 4.0)])
        await at.shows("Applied at step 8", at.server.messages)
        (reply,) = [message for message in await at.server.messages() if message["ts"] == ts]
        assert [reaction["name"] for reaction in reply["reactions"]] == ["white_check_mark"]


async def test_home_shows_annotators_the_live_episodes(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        at.join("demo-00001", 1)
        at.desk.record([raised()])
        at.move(12, "paused", "demo-00001")
        await at.quiet()

        async def home(user: str) -> Any:
            return (await at.server.ctl("state"))["homes"].get(user)

        for user in ("alice", "eve"):
            await at.server.ctl("home", user=user)
            await until(lambda user=user: home(f"U0{user.upper()}"))
        shown = json.dumps(await home("U0ALICE"))
        assert "2 live episodes, 1 open alert" in shown
        assert f"https://local.slack.test/archives/C0ALERTS0/p{at.thread.replace('.', '')}|{EPISODE}>" in shown
        assert "paused, step 12" in shown
        stranger = json.dumps(await home("U0EVE"))
        assert EPISODE not in stranger
        assert "Only this run" in stranger
        at.move(13, "running", "demo-00001")
        await at.server.ctl("click", user="alice", action_id="apollo_refresh")
        await at.shows("running, step 13", lambda: home("U0ALICE"))
        await at.server.ctl("click", user="alice", action_id="apollo_guide", value="demo-00001")
        view = await at.modal()
        await at.server.ctl(
            "submit", user="alice", view_id=view["id"], values={"guidance": "unasked", "kind": "knowledge"}
        )
        (guidance,) = at.guidance
        assert (guidance.episode, guidance.alert, guidance.kind) == ("demo-00001", None, "knowledge")


async def test_mentions_guide_episodes_and_ask_for_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slack_sockets, "PING_SECONDS", 1)
    async with office(tmp_path, "--retries") as at:
        at.join("demo-00001", 1)
        await at.quiet()
        ts = await at.server.say("alice", "@apollo demo-00001: look at <the> log")
        await until(lambda: at.guidance)
        await at.server.say("bob", "@apollo #0 try 450C")
        await until(lambda: len(at.guidance) == 2)
        first, second = at.guidance
        assert (first.episode, first.text, first.annotator) == ("demo-00001", "look at <the> log", "U0ALICE")
        assert (second.episode, second.text) == (EPISODE, "try 450C")
        at.desk.record([Delivered(first.id, "demo-00001", 3.0)])
        await at.quiet()
        (message,) = [message for message in await at.server.messages() if message["ts"] == ts]
        assert message["reactions"][0]["name"] == "white_check_mark"

        await at.server.say("alice", "@apollo status")
        await at.told("U0ALICE", "2 live episodes")
        await at.server.say("bob", "status?", at.thread)
        await at.told("U0BOB", "2 live episodes")
        await at.server.say("alice", "@apollo demo-77777 go")
        await at.told("U0ALICE", "There is no such episode")
        await at.server.say("eve", "@apollo 0 obey me")
        await at.told("U0EVE", "annotators are heard")
        await at.server.ctl("edit", ts=ts, text="@apollo 1 something else")
        await at.told("U0ALICE", "An edit here does not reach")
        await at.server.say("alice", "@apollo in the thread it is a plain reply", at.thread)
        await until(lambda: len(at.guidance) == 3)
        assert at.guidance[2].text == "in the thread it is a plain reply"

        await at.server.ctl("sockets", mute=True)
        await at.server.say("alice", "@apollo 1 said while nobody heard")
        await at.server.ctl("disconnect", hard=True)
        await until(lambda: len(at.guidance) == 4)
        assert (at.guidance[3].episode, at.guidance[3].text) == ("demo-00001", "said while nobody heard")


async def test_strangers_are_obeyed_on_no_path(tmp_path: Path) -> None:
    """Also not while Slack does not tell who belongs to the user group."""
    async with office(
        tmp_path, "--ack-seconds", "0.3", "--retries", usergroup="S0EXPERTS", usergroup_seconds=0.01
    ) as at:
        at.desk.record([raised()])
        await at.quiet()
        shown = (await at.message())["ts"]
        await at.click("alice", "guide")
        view = await at.modal()
        for blind in (False, True):
            if blind:
                await at.server.ctl("fault", method="usergroups.users.list", status=503, times=1000)
            ts = await at.server.say("eve", "obey me", at.thread)
            await at.server.ctl("edit", ts=ts, text="obey me now")
            await at.server.say("eve", "@apollo 0 obey me")
            await at.server.say("eve", "status", at.thread)
            await at.server.ctl("home", user="eve")
            for action in ("guide", "claim", "fine", "pause", "stop"):
                await at.click("eve", action, ts=shown)
            if not blind:
                await at.server.ctl("react", user="eve", ts=shown, name="eyes")
            answer = await at.server.ctl("submit", user="eve", view_id=view["id"], values={"guidance": "obey"})
            assert answer["answer"]["response_action"] == "errors"
        await at.server.say("alice", "the expert", at.thread)
        await until(lambda: at.guidance)
        assert [guidance.annotator for guidance in at.guidance] == ["U0ALICE"]
        alert = at.desk.alert(ALERT)
        assert alert is not None
        assert (alert.owner, alert.closed_by) == (None, "U0ALICE")
        assert EPISODE not in json.dumps((await at.server.ctl("state"))["homes"])
        assert not any("live episode" in note for note in await at.notes())


async def test_sockets_that_bring_not_even_our_own_messages_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slack_sockets, "ECHO_SECONDS", 0.3)
    monkeypatch.setattr(slack_sockets, "WATCH_SECONDS", 0.1)
    async with office(tmp_path, "--ack-seconds", "0.3", "--retries") as at:
        await at.server.ctl("sockets", mute=True)
        at.desk.record([raised()])
        await at.quiet()

        async def pressed() -> bool:
            answer = await at.click("alice", "claim")
            return bool(answer["acked"])

        await until(pressed)
        await at.shows("Claimed by <@U0ALICE>")
