"""The Slack frontend, with the unmodified slack-sdk, against the local Slack server as a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from hpc.core.errors import AnnotatorError
from hpc.router.annotators import slack_replies, slack_sockets
from hpc.router.annotators.slack import SlackFrontend
from hpc.router.annotators.slack_allow import AllowList
from hpc.router.annotators.slack_home import Home
from hpc.router.annotators.slack_lists import Lists
from hpc.router.annotators.slack_replies import Replies
from hpc.router.annotators.slack_tokens import SlackTokens
from hpc.router.annotators.slack_web import Postponed, SlackWeb
from hpc.router.desk import Verdict
from hpc.wire.messages import StepBrief

from .slack_fixtures import EPISODE, FakeDesk, Server, connected, frontend, local_slack, until


async def test_alert_is_shown_and_a_thread_reply_reaches_the_desk(tmp_path: Path) -> None:
    desk = FakeDesk()
    desk.open_episode()
    desk.raise_alert()
    async with local_slack(tmp_path, "--no-limits") as server, frontend(server, desk):
        await connected(server)
        await until(lambda: "alert:al-1" in desk.published)
        ts = await server.say("alice", "for cobalt set anneal to 450C & see <here>", desk.thread_ts())
        await until(lambda: desk.replies)
        reply = desk.replies[0]
        assert reply.key == f"{server.ready['channel']}:{ts}"
        assert (reply.episode, reply.annotator) == (EPISODE, "U0ALICE")
        assert reply.text == "for cobalt set anneal to 450C & see <here>"
        assert reply.sent_at == float(ts)
        (alert,) = await server.posts("alert")
        assert alert["thread_ts"] == desk.thread_ts()
        assert alert["metadata"]["event_payload"] == {"post_id": "alert:al-1", "alert_id": "al-1", "episode": EPISODE}
        shown = json.dumps(alert["blocks"])
        assert "failed twice at a stage" in shown
        assert "stage 2 metric 31 low" in shown


# ---- publishing once --------------------------------------------------------------------------


@pytest.mark.parametrize("drop", ["before", "after"])
async def test_a_lost_request_or_answer_leads_to_one_post(tmp_path: Path, drop: str) -> None:
    desk = FakeDesk()
    async with local_slack(tmp_path, "--no-limits") as server, frontend(server, desk):
        await server.ctl("fault", method="chat.postMessage", drop=drop)
        desk.open_episode()
        await until(lambda: f"thread:{EPISODE}" in desk.published)
        await server.ctl("fault", method="chat.postMessage", drop=drop)
        desk.raise_alert()
        await until(lambda: "alert:al-1" in desk.published)
        posts = await server.posts()
        assert [post["metadata"]["event_payload"]["post_id"] for post in posts] == [f"thread:{EPISODE}", "alert:al-1"]
        assert desk.published["alert:al-1"] == f"{server.ready['channel']}:{posts[1]['ts']}"


async def test_a_post_is_found_again_after_a_restart(tmp_path: Path) -> None:
    desk = FakeDesk()
    desk.open_episode()
    async with local_slack(tmp_path, "--no-limits") as server:
        await server.ctl("fault", method="chat.postMessage", drop="after")
        async with frontend(server, desk):
            await until(server.posts)
        assert desk.published == {}
        async with frontend(server, desk):
            await until(lambda: desk.published)
            assert len(await server.posts()) == 1


async def test_waits_as_long_as_slack_says(tmp_path: Path) -> None:
    desk = FakeDesk()
    async with local_slack(tmp_path, "--no-limits") as server, frontend(server, desk):
        await server.ctl("fault", method="chat.postMessage", status=429, retry_after=2)
        desk.open_episode()
        await until(lambda: desk.published)
        state = await server.ctl("state")
        assert state["calls"]["chat.postMessage"] == 2
        assert len(await server.posts()) == 1


async def test_stays_within_slacks_limit_of_posts(tmp_path: Path) -> None:
    desk = FakeDesk()
    for index in range(6):
        desk.open_episode(f"demo-{index:05d}")
    async with local_slack(tmp_path) as server, frontend(server, desk, posts_per_second=1.0, post_burst=3):
        await until(lambda: len(desk.published) == 6)
        assert (await server.ctl("state"))["refused"] == 0


async def test_more_urgent_posts_overtake(tmp_path: Path) -> None:
    desk = FakeDesk()
    desk.open_episode()
    async with local_slack(tmp_path, "--no-limits") as server:
        async with frontend(server, desk, posts_per_second=5.0, post_burst=1):
            await until(lambda: desk.published)
            for index in range(1, 5):
                desk.open_episode(f"demo-{index:05d}")
            desk.raise_alert()
            await until(lambda: len(desk.published) == 6)
        order = [post["metadata"]["event_payload"]["post_id"] for post in await server.posts()]
        assert order.index("alert:al-1") <= 2


async def test_the_board_shows_the_newest_state(tmp_path: Path) -> None:
    desk = FakeDesk()
    desk.open_episode()
    async with local_slack(tmp_path, "--no-limits") as server, frontend(server, desk):
        await until(lambda: desk.published)
        desk.show_board(state="paused", step=9)
        await until(lambda: len(desk.published) == 2)
        (board,) = await server.posts()
        shown = json.dumps(board["blocks"])
        assert "state: paused" in shown
        assert "apollo_resume" in shown
        assert board["metadata"]["event_payload"]["episode"] == EPISODE


async def test_a_deleted_board_is_given_up(tmp_path: Path) -> None:
    desk = FakeDesk()
    desk.open_episode()
    async with local_slack(tmp_path, "--no-limits") as server, frontend(server, desk):
        await until(lambda: desk.published)
        await server.ctl("delete", ts=desk.thread_ts())
        desk.show_board(step=9)
        await until(lambda: desk.dropped)
        assert "message_not_found" in next(iter(desk.dropped.values()))


async def test_what_agents_write_is_harmless(tmp_path: Path) -> None:
    secret = "hf_" + "a" * 34
    desk = FakeDesk()
    desk.open_episode()
    desk.raise_alert(
        reason=f'<!channel> <@U0ALICE> "}}]}} {secret} <https://evil.example|click> ' + "&" * 5000,
        evidence=[StepBrief(step=1, action="x" * 9000, observation=f"<!here> {secret} " + "y<&>" * 9000)] * 9,
        earlier_guidance=["z" * 4000] * 40,
    )
    async with local_slack(tmp_path, "--no-limits") as server, frontend(server, desk):
        await until(lambda: "alert:al-1" in desk.published)
        (alert,) = await server.posts("alert")
        whole = json.dumps(alert)
        assert secret not in whole
        assert "[redacted]" in whole
        assert "&lt;!channel&gt;" in alert["text"]
        marked = [*_texts(alert["blocks"], "mrkdwn"), *_texts(alert["blocks"], "plain_text"), alert["text"]]
        assert not [text for text in marked if "<" in re.sub(r"<!date\^[^<>]*>", "", text)]


def _texts(value: Any, kind: str) -> list[str]:
    """Texts of text objects of a kind."""
    if isinstance(value, dict):
        own = [value["text"]] if value.get("type") == kind else []
        return own + [text for item in value.values() for text in _texts(item, kind)]
    return [text for item in value for text in _texts(item, kind)] if isinstance(value, list) else []


# ---- taking replies in once -------------------------------------------------------------------


@contextlib.asynccontextmanager
async def thread(tmp_path: Path, *options: str, desk: FakeDesk | None = None, **fields: Any) -> Any:
    """(server, desk) with one open thread and all sockets connected."""
    desk = desk or FakeDesk()
    async with local_slack(tmp_path, "--no-limits", *options) as server, frontend(server, desk, **fields):
        await connected(server)
        desk.open_episode()
        await until(lambda: desk.published)
        await _answered(server, 1)  # the event of the thread's own message
        yield server, desk


async def _answered(server: Server, count: int) -> None:
    async def enough() -> bool:
        deliveries = (await server.ctl("state"))["deliveries"]
        return len([d for d in deliveries if d["acked"]]) >= count

    await until(enough)


async def test_a_duplicate_envelope_makes_one_reply(tmp_path: Path) -> None:
    async with thread(tmp_path) as (server, desk):
        await server.ctl("sockets", duplicates=1)
        await server.say("alice", "once", desk.thread_ts())
        await _answered(server, 3)
        assert [reply.text for reply in desk.replies] == ["once"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost connections are noticed sooner than in earnest."""
    for name, seconds in {"PING_SECONDS": 1, "WATCH_SECONDS": 0.2, "STUCK_SECONDS": 1.5}.items():
        monkeypatch.setattr(slack_sockets, name, seconds)


@pytest.mark.usefixtures("impatient")
async def test_replies_during_an_outage_are_caught_up_once(tmp_path: Path) -> None:
    async with thread(tmp_path, "--retries") as (server, desk):
        await server.ctl("sockets", ticket_faults=[503] * 2)
        await server.ctl("disconnect", hard=True)
        for number in range(3):
            await server.say("alice", f"reply {number}", desk.thread_ts())
        await server.say("bob", "not an annotator", desk.thread_ts())
        await until(lambda: len(desk.replies) == 3)
        await connected(server)
        await server.say("alice", "live again", desk.thread_ts())
        await until(lambda: len(desk.replies) == 4)
        assert [reply.text for reply in desk.replies] == ["reply 0", "reply 1", "reply 2", "live again"]


async def test_slack_renewing_its_sockets_loses_nothing(tmp_path: Path) -> None:
    async with thread(tmp_path) as (server, desk):
        for number in range(4):
            await server.ctl("disconnect", reason="refresh_requested", close=number % 2 == 1)
            await server.say("alice", f"reply {number}", desk.thread_ts())
        await until(lambda: len(desk.replies) == 4)
        assert sorted(reply.text for reply in desk.replies) == [f"reply {number}" for number in range(4)]


async def test_periodic_reading_finds_what_sockets_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that looks alive but brings nothing: replies arrive by reading, and it is replaced."""
    monkeypatch.setattr(slack_replies, "MISSED_SECONDS", 0.0)
    async with thread(tmp_path, "--retries", catch_up_seconds=0.5) as (server, desk):
        assert (await server.ctl("sockets", mute=True))["muted"] == 2
        await server.say("alice", "found by reading", desk.thread_ts())
        await until(lambda: len(desk.replies) == 1)

        async def brought_live() -> bool:
            await server.say("alice", "ping", desk.thread_ts())
            state = await server.ctl("state")
            return any(d["acked"] and d["event_id"] > last for d in state["deliveries"])

        last = max(d["event_id"] for d in (await server.ctl("state"))["deliveries"])
        await until(brought_live)


async def test_many_threads_are_caught_up_with_few_calls(tmp_path: Path) -> None:
    desk = FakeDesk()
    for index in range(12):
        desk.open_episode(f"demo-{index:05d}")
    async with local_slack(tmp_path, "--no-limits", "--retries") as server:
        async with frontend(server, desk):
            await until(lambda: len(desk.published) == 12)
        for index in (3, 7):
            await server.say("alice", f"to {index}", desk.thread_ts(f"demo-{index:05d}"))
        before = (await server.ctl("state"))["calls"].get("conversations.replies", 0)
        async with frontend(server, desk):
            await until(lambda: len(desk.replies) == 2)
        assert {(reply.episode, reply.text) for reply in desk.replies} == {
            ("demo-00003", "to 3"),
            ("demo-00007", "to 7"),
        }
        assert (await server.ctl("state"))["calls"]["conversations.replies"] - before <= 6


class _FailingDesk(FakeDesk):
    """Its disk is full at the first reply."""

    def take_reply(self, **fields: Any) -> Verdict:  # type: ignore[override]
        if not self.verdicts:
            self.verdicts.append((fields["key"], "unknown"))
            raise OSError("no space left on device")
        return super().take_reply(**fields)


async def test_what_the_desk_did_not_take_is_not_acknowledged(tmp_path: Path) -> None:
    """Slack sends it again."""
    async with thread(tmp_path, "--ack-seconds", "0.5", "--retries", "0.1", desk=_FailingDesk()) as (server, desk):
        ts = await server.say("alice", "hold this", desk.thread_ts())
        await until(lambda: desk.replies)
        assert [key for key, _ in desk.verdicts] == [f"{server.ready['channel']}:{ts}"] * 2
        await _answered(server, 2)
        tries = [d for d in (await server.ctl("state"))["deliveries"] if d["event_id"] == "Ev00000002"]
        assert [(d["attempt"], d["acked"]) for d in tries] == [(0, False), (1, True)]


async def test_strangers_are_refused_and_told_once(tmp_path: Path) -> None:
    async with thread(tmp_path) as (server, desk):
        await server.say("eve", "obey me", desk.thread_ts())
        await server.say("eve", "obey me!", desk.thread_ts())
        await server.say("alice", "the expert", desk.thread_ts())
        await _answered(server, 4)
        assert [reply.annotator for reply in desk.replies] == ["U0ALICE"]

        async def notes() -> list[Any]:
            found: list[Any] = (await server.ctl("state"))["channels"][0]["ephemeral"]
            return found

        assert [note["user"] for note in await until(notes)] == ["U0EVE"]


async def test_members_of_the_user_group_are_heard_and_a_silent_group_hears_nobody(tmp_path: Path) -> None:
    group = {"annotators": (), "usergroup": "S0EXPERTS", "usergroup_seconds": 0.01}
    async with thread(tmp_path, "--ack-seconds", "0.3", "--retries", **group) as (server, desk):
        await server.say("bob", "a member", desk.thread_ts())
        await until(lambda: desk.replies)
        await server.ctl("fault", method="usergroups.users.list", error="no_such_subteam", times=3)
        await server.say("bob", "not now", desk.thread_ts())

        async def lost() -> list[str]:
            found: list[str] = (await server.ctl("state"))["lost"]
            return found

        await until(lost)
        assert len(desk.replies) == 1


async def test_our_own_messages_are_no_replies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not even while nobody can tell who belongs to the user group."""
    async with thread(tmp_path, annotators=(), usergroup="S0EXPERTS", usergroup_seconds=0.01) as (server, desk):
        await server.ctl("fault", method="usergroups.users.list", status=503, times=50)
        desk.raise_alert()
        await until(lambda: "alert:al-1" in desk.published)
        await _answered(server, 2)
        assert (desk.verdicts, caplog.text) == ([], "")


async def test_an_edit_replaces_the_first_text_or_corrects_it(tmp_path: Path) -> None:
    async with thread(tmp_path) as (server, desk):
        ts = await server.say("alice", "set anneal to 350C", desk.thread_ts())
        await until(lambda: desk.replies)
        await server.ctl("edit", ts=ts, text="set anneal to 450C")
        await until(lambda: len(desk.replies) == 2)
        desk.say_what_became("gu-1", "delivered")
        await server.ctl("edit", ts=ts, text="set anneal to 460C")
        await until(lambda: len(desk.replies) == 3)
        first = desk.replies[0].key
        assert [(r.text, r.kind, r.replaces) for r in desk.replies] == [
            ("set anneal to 350C", "strategy", None),
            ("set anneal to 450C", "strategy", first),
            ("set anneal to 460C", "correction", first),
        ]
        assert desk.replies[1].key.startswith(f"{first}:")


async def test_replies_are_heard_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    """The event of the first is lost, that of the second comes."""
    desk = FakeDesk()
    desk.open_episode()
    async with local_slack(tmp_path, "--no-limits", "--retries") as server:
        async with frontend(server, desk):
            await until(lambda: desk.published)
        texts = ["first", "obey me", "second", "third"]
        stamps = [await server.say("eve" if "obey" in text else "alice", text, desk.thread_ts()) for text in texts]
        async with SlackWeb(server.config(), server.tokens) as web:
            allow = AllowList(server.config(), web.usergroup_members)
            home = Home(desk, web, allow, Lists(""))
            replies = Replies(desk, web, allow, home, "U0APOLLO0")
            event = {"type": "message", "channel": "C0ALERTS0", "user": "U0ALICE", "text": "second"}
            before = (await server.ctl("state"))["calls"].get("conversations.replies", 0)
            await replies.take_event({**event, "ts": stamps[2], "thread_ts": desk.thread_ts()})
            assert [reply.text for reply in desk.replies] == ["first", "second"]
            assert (await server.ctl("state"))["calls"]["conversations.replies"] == before + 1
            await server.ctl("fault", method="conversations.replies", status=429, retry_after=30)
            third = {**event, "text": "third", "ts": stamps[3], "thread_ts": desk.thread_ts()}
            with pytest.raises(Postponed):
                await replies.take_event(third)
            assert len(desk.replies) == 2
            await replies.take_event(third)  # it comes again
            assert [reply.text for reply in desk.replies] == ["first", "second", "third"]


async def test_the_newest_edit_stays_in_whatever_order_edits_come(tmp_path: Path) -> None:
    """A text that was read after its edit is not taken again when the event of the edit comes late."""
    desk = FakeDesk()
    desk.open_episode()
    async with local_slack(tmp_path, "--no-limits", "--retries", "0.5", "--ack-seconds", "0.2") as server:
        async with frontend(server, desk):
            await until(lambda: desk.published)
        ts = await server.say("alice", "one", desk.thread_ts())
        await server.ctl("edit", ts=ts, text="two")  # both events are still on their way
        async with frontend(server, desk):
            await until(lambda: desk.replies)
            await connected(server)
            await server.ctl("edit", ts=ts, text="three")
            await until(lambda: len(desk.replies) == 2)

            async def settled() -> bool:
                state = await server.ctl("state")
                return len({d["event_id"] for d in state["deliveries"] if d["acked"]} | set(state["lost"])) >= 4

            await until(settled)
        assert [reply.text for reply in desk.replies] == ["two", "three"]


@pytest.mark.usefixtures("impatient")
async def test_edits_during_an_outage_are_caught_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slack_replies, "OVERLAP_SECONDS", 0.0)
    async with thread(tmp_path, "--retries") as (server, desk):
        ts = await server.say("alice", "set anneal to 350C", desk.thread_ts())
        await server.say("alice", "and more", desk.thread_ts())
        await until(lambda: len(desk.replies) == 2)
        await server.ctl("disconnect", hard=True)
        await server.ctl("edit", ts=ts, text="set anneal to 450C")
        await until(lambda: len(desk.replies) == 3)
        assert (desk.replies[2].text, desk.replies[2].replaces) == ("set anneal to 450C", desk.replies[0].key)


async def test_only_replies_in_threads_of_episodes_count(tmp_path: Path) -> None:
    async with thread(tmp_path) as (server, desk):
        top = await server.say("alice", "at the top")
        await server.say("alice", "in another thread", top)
        await server.ctl("edit", ts=top, text="edited")
        ts = await server.say("alice", "here", desk.thread_ts())
        await server.ctl("react", user="alice", ts=ts, name="eyes")
        await server.ctl("delete", ts=ts)
        await _answered(server, 6)
        assert [reply.text for reply in desk.replies] == ["here"]


# ---- receipts ---------------------------------------------------------------------------------


async def test_receipts_of_a_reply(tmp_path: Path) -> None:
    async with thread(tmp_path) as (server, desk):
        ts = await server.say("alice", "try 450C", desk.thread_ts())
        await until(lambda: desk.replies)
        desk.say_what_became("gu-1", "delivered")
        desk.say_what_became("gu-1", "applied")
        await until(lambda: len(desk.published) == 3)
        (reply,) = [message for message in await server.messages() if message["ts"] == ts]
        assert [reaction["name"] for reaction in reply["reactions"]] == ["white_check_mark"]
        (receipt,) = await server.posts("receipt")
        assert "Applied at step 12" in json.dumps(receipt["blocks"])
        assert receipt["thread_ts"] == desk.thread_ts()


async def test_a_mark_whose_answer_was_lost_is_not_an_error(tmp_path: Path) -> None:
    async with thread(tmp_path) as (server, desk):
        await server.say("alice", "try 450C", desk.thread_ts())
        await until(lambda: desk.replies)
        await server.ctl("fault", method="reactions.add", drop="after")
        desk.say_what_became("gu-1", "delivered")
        await until(lambda: len(desk.published) == 2)


async def test_a_late_reply_is_told_so(tmp_path: Path) -> None:
    async with thread(tmp_path) as (server, desk):
        await server.say("alice", "try 450C", desk.thread_ts())
        await until(lambda: desk.replies)
        desk.say_what_became("gu-1", "too_late")
        await until(lambda: len(desk.published) == 2)
        (receipt,) = await server.posts("receipt")
        assert "Too late" in json.dumps(receipt["blocks"])


# ---- buttons and modals -----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def alert(tmp_path: Path) -> Any:
    """(server, desk, ts of a shown alert)."""
    async with thread(tmp_path) as (server, desk):
        desk.raise_alert()
        await until(lambda: "alert:al-1" in desk.published)
        yield server, desk, desk.published["alert:al-1"].partition(":")[2]


async def _modal(server: Server) -> dict[str, Any]:
    async def views() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await server.ctl("state"))["views"]
        return found

    view: dict[str, Any] = (await until(views))[0]
    return view


async def test_the_modal_gives_guidance_for_its_alert(tmp_path: Path) -> None:
    async with alert(tmp_path) as (server, desk, ts):
        assert (await server.ctl("click", user="alice", ts=ts, action_id="apollo_guide"))["acked"]
        view = await _modal(server)
        values = {"guidance": "cobalt wants 450C", "kind": "knowledge"}
        assert (await server.ctl("submit", user="alice", view_id=view["id"], values=values))["acked"]
        (reply,) = desk.replies
        assert (reply.alert, reply.text, reply.kind) == ("al-1", "cobalt wants 450C", "knowledge")
        assert (await server.ctl("state"))["views"] == []
        desk.say_what_became("gu-1", "delivered")  # there is no message to mark
        desk.say_what_became("gu-1", "applied")
        await until(lambda: "receipt:gu-1:applied" in desk.published)


async def test_a_modal_sent_too_late_stays_open_with_a_reason(tmp_path: Path) -> None:
    async with alert(tmp_path) as (server, desk, ts):
        await server.ctl("click", user="alice", ts=ts, action_id="apollo_guide")
        view = await _modal(server)
        desk.show_board(state="finished")
        answer = await server.ctl("submit", user="alice", view_id=view["id"], values={"guidance": "hello"})
        assert answer["answer"]["response_action"] == "errors"
        assert len((await server.ctl("state"))["views"]) == 1


async def test_looks_fine_closes_the_alert_and_takes_its_buttons_away(tmp_path: Path) -> None:
    async with alert(tmp_path) as (server, desk, ts):
        assert (await server.ctl("click", user="alice", ts=ts, action_id="apollo_fine"))["acked"]
        assert desk.resolved == [("al-1", "U0ALICE", "false_alarm")]

        async def closed() -> bool:
            (shown,) = await server.posts("alert")
            return "false alarm" in json.dumps(shown["blocks"]) and "apollo_guide" not in json.dumps(shown["blocks"])

        await until(closed)


@pytest.mark.parametrize("control", ["pause", "resume", "stop"])
async def test_controls_reach_the_episode(tmp_path: Path, control: str) -> None:
    async with alert(tmp_path) as (server, desk, ts):
        assert (await server.ctl("click", user="alice", ts=ts, action_id=f"apollo_{control}"))["acked"]
        (reply,) = desk.replies
        assert (reply.episode, reply.kind, reply.control, reply.alert) == (EPISODE, "control", control, None)


async def test_strangers_press_in_vain(tmp_path: Path) -> None:
    async with alert(tmp_path) as (server, desk, ts):
        for action in ("apollo_guide", "apollo_fine", "apollo_stop"):
            assert (await server.ctl("click", user="eve", ts=ts, action_id=action))["acked"]
        await server.ctl("click", user="alice", ts=ts, action_id="apollo_guide")
        view = await _modal(server)
        answer = await server.ctl("submit", user="eve", view_id=view["id"], values={"guidance": "obey"})
        assert answer["answer"]["response_action"] == "errors"
        assert (desk.replies, desk.resolved) == ([], [])


# ---- what can never work ----------------------------------------------------------------------


async def test_check_tells_what_is_there(tmp_path: Path) -> None:
    async with local_slack(tmp_path) as server:
        found = await SlackFrontend(server.config(usergroup="S0EXPERTS"), server.tokens).check()
        assert (found["channel"], found["channel_name"], found["bot"]) == ("C0ALERTS0", "alerts", "apollo")
        assert found["annotators"] == 2
        assert "chat:write" in found["scopes"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"method": "auth.test", "error": "token_revoked"}, "token_revoked"),
        ({"method": "auth.test", "error": "missing_scope"}, "missing_scope"),
        ({"method": "conversations.info", "error": "channel_not_found"}, "C0ALERTS0"),
        ({"method": "usergroups.users.list", "error": "no_such_subteam"}, "S0EXPERTS"),
    ],
)
async def test_what_can_never_work_ends_the_frontend(tmp_path: Path, fault: dict[str, Any], words: str) -> None:
    async with local_slack(tmp_path) as server:
        await server.ctl("fault", **fault)
        with pytest.raises(AnnotatorError, match=words):
            await SlackFrontend(server.config(usergroup="S0EXPERTS"), server.tokens).run(FakeDesk())


async def test_wrong_tokens_end_the_frontend_and_stay_secret(tmp_path: Path) -> None:
    async with local_slack(tmp_path) as server:
        for tokens in (
            SlackTokens(bot="xoxb-wrong-secret", app=server.tokens.app),
            SlackTokens(bot=server.tokens.bot, app="xapp-wrong-secret"),
        ):
            with pytest.raises(AnnotatorError, match="invalid_auth") as caught:
                await SlackFrontend(server.config(), tokens).run(FakeDesk())
            assert "wrong-secret" not in str(caught.value)


async def test_a_slack_that_is_down_is_waited_for(tmp_path: Path) -> None:
    desk = FakeDesk()
    desk.open_episode()
    async with local_slack(tmp_path, "--no-limits") as server:
        await server.ctl("fault", method="auth.test", status=503, times=2)
        await server.ctl("fault", method="apps.connections.open", status=503)
        async with frontend(server, desk):
            await until(lambda: desk.published)
            await connected(server)


async def test_check_of_a_slack_that_is_down_says_so() -> None:
    config = Server({"base_url": "http://127.0.0.1:9/api/", "channel": "C0ALERTS0"}, None).config()  # type: ignore[arg-type]
    with pytest.raises(AnnotatorError, match="cannot be asked now"):
        await asyncio.wait_for(SlackFrontend(config, SlackTokens(bot="xoxb-1", app="xapp-1")).check(), 30)
