"""The local Slack server itself, as the unmodified slack-sdk and Bolt see it."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from slack_bolt.adapter.socket_mode.async_handler import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_sdk.errors import SlackApiError
from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.async_client import AsyncBaseSocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web.async_client import AsyncWebClient

from .slack_fixtures import ROOT, Server, connected, local_slack, until

sys.path.insert(0, str(ROOT / "scripts"))
from local_slack.workspace import Refused, Workspace


def client(server: Server, token: str | None = None) -> AsyncWebClient:
    return AsyncWebClient(
        token=token or server.ready["bot_token"], base_url=server.ready["base_url"], retry_handlers=[]
    )


async def refused(call: Any) -> dict[str, Any]:
    with pytest.raises(SlackApiError) as caught:
        await call
    answer: dict[str, Any] = caught.value.response.data
    return answer


@asynccontextmanager
async def socket(server: Server, *, answer: bool = True) -> AsyncIterator[list[SocketModeRequest]]:
    """A Socket Mode client of slack-sdk; what it got."""
    got: list[SocketModeRequest] = []

    async def take(source: AsyncBaseSocketModeClient, request: SocketModeRequest) -> None:
        got.append(request)
        if answer:
            await source.send_socket_mode_response(SocketModeResponse(request.envelope_id))

    app_token = server.ready["app_token"]
    sockets = SocketModeClient(app_token=app_token, web_client=client(server, app_token), ping_interval=1)
    sockets.socket_mode_request_listeners.append(take)
    await sockets.connect()
    await connected(server, 1)
    try:
        yield got
    finally:
        await sockets.close()


async def test_the_ready_file_is_private_and_complete(tmp_path: Path) -> None:
    async with local_slack(tmp_path) as server:
        assert stat.S_IMODE((tmp_path / "slack.json").stat().st_mode) == 0o600
        assert {"base_url", "bot_token", "app_token", "channel", "users"} <= set(server.ready)
        async with aiohttp.ClientSession() as session, session.get(server.ready["url"]) as page:
            assert page.status == 200
            assert "<title>Local Slack</title>" in await page.text()


# ---- Web API ----------------------------------------------------------------------------------


async def test_tokens_are_checked(tmp_path: Path) -> None:
    async with local_slack(tmp_path) as server:
        bot, app = server.ready["bot_token"], server.ready["app_token"]
        assert (await client(server).auth_test())["user_id"] == "U0APOLLO0"
        assert (await client(server, server.ready["users"]["bob"]["token"]).auth_test())["user_id"] == "U0BOB"
        assert (await refused(client(server, "xoxb-wrong").auth_test()))["error"] == "invalid_auth"
        assert (await refused(client(server, app).chat_postMessage(channel="C0ALERTS0", text="x")))["error"] == (
            "not_allowed_token_type"
        )
        assert (await refused(client(server).apps_connections_open(app_token=bot)))["error"] == "not_allowed_token_type"
        assert (await refused(client(server).users_info(user="U0EVE")))["error"] == "missing_scope"
        assert (await refused(client(server).api_call("chat.unheardOf")))["error"] == "unknown_method"
        async with aiohttp.ClientSession() as session, session.post(f"{server.ready['base_url']}auth.test") as answer:
            assert (await answer.json())["error"] == "not_authed"


async def test_posts_into_a_channel_are_limited(tmp_path: Path) -> None:
    async with local_slack(tmp_path) as server:
        web = client(server)
        with pytest.raises(SlackApiError) as caught:
            for number in range(20):
                await web.chat_postMessage(channel="C0ALERTS0", text=str(number))
        assert caught.value.response.status_code == 429
        assert int(caught.value.response.headers["Retry-After"]) >= 1
        assert caught.value.response["error"] == "ratelimited"
        assert 3 <= len(await server.messages()) <= 8


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([{"type": "section", "text": {"type": "mrkdwn", "text": "x" * 3001}}], "3001"),
        ([{"type": "divider"}] * 51, "50 items"),
        ([{"type": "header", "text": {"type": "mrkdwn", "text": "x"}}], "mrkdwn"),
        ([{"type": "context", "elements": []}], "1 to 10"),
        ([{"type": "spinner"}], "spinner"),
    ],
)
async def test_blocks_beyond_slacks_limits_are_refused(tmp_path: Path, blocks: list[Any], words: str) -> None:
    async with local_slack(tmp_path) as server:
        answer = await refused(client(server).chat_postMessage(channel="C0ALERTS0", text="x", blocks=blocks))
        assert answer["error"] == "invalid_blocks"
        assert words in answer["errors"][0]


async def test_threads_pages_and_metadata(tmp_path: Path) -> None:
    async with local_slack(tmp_path, "--no-limits") as server:
        web = client(server)
        metadata = {"event_type": "test_event", "event_payload": {"n": 1}}
        root = await web.chat_postMessage(channel="C0ALERTS0", text="root", metadata=metadata)
        for number in range(5):
            await web.chat_postMessage(channel="C0ALERTS0", text=str(number), thread_ts=root["ts"])
        plain = await web.conversations_history(channel="C0ALERTS0")
        assert [message["text"] for message in plain["messages"]] == ["root"]
        assert "metadata" not in plain["messages"][0]
        assert plain["messages"][0]["reply_count"] == 5
        full = await web.conversations_history(channel="C0ALERTS0", include_all_metadata=True)
        assert full["messages"][0]["metadata"] == metadata
        texts: list[str] = []
        cursor = None
        while True:
            page = await web.conversations_replies(channel="C0ALERTS0", ts=root["ts"], limit=2, cursor=cursor)
            texts += [message["text"] for message in page["messages"]]
            cursor = page["response_metadata"]["next_cursor"]
            if not cursor:
                break
        assert texts == ["root", "0", "1", "2", "3", "4"]
        third = (await server.messages())[3]["ts"]
        newer = await web.conversations_replies(channel="C0ALERTS0", ts=root["ts"], oldest=third)
        assert [message["text"] for message in newer["messages"]] == ["root", "3", "4"]
        assert (await refused(web.conversations_replies(channel="C0ALERTS0", ts="1.000001")))["error"] == (
            "thread_not_found"
        )
        assert (await refused(web.chat_postMessage(channel="C0NOWHERE", text="x")))["error"] == "channel_not_found"
        assert (await refused(web.chat_update(channel="C0ALERTS0", ts=await server.say("bob", "mine"), text="x")))[
            "error"
        ] == "cant_update_message"


async def test_a_lost_answer_leaves_the_message(tmp_path: Path) -> None:
    async with local_slack(tmp_path) as server:
        await server.ctl("fault", method="chat.postMessage", drop="after")
        await server.ctl("fault", method="chat.postMessage", drop="before")
        for _ in range(2):
            with pytest.raises(aiohttp.ClientError):
                await client(server).chat_postMessage(channel="C0ALERTS0", text="once")
        assert [message["text"] for message in await server.messages()] == ["once"]


async def test_bad_control_requests_are_answered(tmp_path: Path) -> None:
    async with local_slack(tmp_path) as server, aiohttp.ClientSession() as session:
        for verb, body, status in [
            ("say", b'{"user": "nobody", "text": "x"}', 400),
            ("say", b"{}", 400),
            ("say", b"not json", 400),
            ("dance", b"{}", 404),
        ]:
            async with session.post(f"{server.ready['url']}_ctl/{verb}", data=body) as answer:
                assert (answer.status, "error" in await answer.json()) == (status, True)


# ---- Socket Mode ------------------------------------------------------------------------------


async def test_a_ticket_is_good_once(tmp_path: Path) -> None:
    async with local_slack(tmp_path) as server, aiohttp.ClientSession() as session:
        app_token = server.ready["app_token"]
        url = (await client(server, app_token).apps_connections_open(app_token=app_token))["url"]
        async with session.ws_connect(url) as first:
            hello = await first.receive_json()
            assert (hello["type"], hello["num_connections"]) == ("hello", 1)
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(url)


async def test_an_unanswered_event_comes_again_with_the_same_event_id(tmp_path: Path) -> None:
    async with (
        local_slack(tmp_path, "--ack-seconds", "0.2", "--retries", "0", "0.2") as server,
        socket(server, answer=False) as got,
    ):
        await server.say("alice", "hello")
        await until(lambda: len(got) == 3)
        assert len({request.payload["event_id"] for request in got}) == 1
        assert len({request.envelope_id for request in got}) == 3
        assert [request.retry_attempt for request in got] == [None, 1, 2]

        async def lost() -> Any:
            return (await server.ctl("state"))["lost"]

        assert await until(lost) == [got[0].payload["event_id"]]


async def test_events_go_to_one_connection_each(tmp_path: Path) -> None:
    async with local_slack(tmp_path) as server, socket(server) as first, socket(server) as second:
        await connected(server, 2)
        for number in range(20):
            await server.say("alice", str(number))
        await until(lambda: len(first) + len(second) == 20)
        assert first
        assert second
        texts = {request.payload["event"]["text"] for request in [*first, *second]}
        assert texts == {str(number) for number in range(20)}


async def test_slack_sdk_survives_a_renewal_of_its_connection(tmp_path: Path) -> None:
    async with (
        local_slack(tmp_path, "--ack-seconds", "0.5", "--retries", *["0.2"] * 20) as server,
        socket(server) as got,
    ):
        await server.ctl("disconnect", reason="warning", close=False)
        for number in range(6):
            await server.say("alice", str(number))
        await until(lambda: len({request.payload["event_id"] for request in got}) == 6)


async def test_triggers_open_one_view(tmp_path: Path) -> None:
    view = {
        "type": "modal",
        "title": {"type": "plain_text", "text": "Title"},
        "submit": {"type": "plain_text", "text": "Send"},
        "blocks": [
            {
                "type": "input",
                "block_id": "answer",
                "label": {"type": "plain_text", "text": "Say"},
                "element": {"type": "plain_text_input", "action_id": "text"},
            }
        ],
    }
    button = {"type": "button", "action_id": "go", "text": {"type": "plain_text", "text": "Go"}, "value": "v"}
    async with local_slack(tmp_path) as server, socket(server) as got:
        web = client(server)
        blocks = [{"type": "actions", "elements": [button]}]
        posted = await web.chat_postMessage(channel="C0ALERTS0", text="x", blocks=blocks)
        assert (await server.ctl("click", user="bob", ts=posted["ts"], action_id="go"))["acked"]
        (click,) = [request for request in got if request.type == "interactive"]
        assert (click.payload["user"]["id"], click.payload["actions"][0]["value"]) == ("U0BOB", "v")
        trigger = click.payload["trigger_id"]
        long_title = {**view, "title": {"type": "plain_text", "text": "x" * 25}}
        assert (await refused(web.views_open(trigger_id=trigger, view=long_title)))["error"] == "invalid_arguments"
        opened = await web.views_open(trigger_id=trigger, view=view)
        assert (await refused(web.views_open(trigger_id=trigger, view=view)))["error"] == "invalid_trigger_id"
        await server.ctl("submit", user="bob", view_id=opened["view"]["id"], values={"answer": "yes"})
        submission = next(request for request in got if request.payload["type"] == "view_submission")
        assert submission.payload["view"]["state"]["values"]["answer"]["text"]["value"] == "yes"


async def test_bolt_talks_to_it(tmp_path: Path) -> None:
    async with local_slack(tmp_path) as server:
        app = AsyncApp(token=server.ready["bot_token"], client=client(server))
        heard: list[str] = []

        @app.event("message")
        async def answer(event: dict[str, Any], say: Any) -> None:
            heard.append(event["text"])
            await say(text=f"you said {event['text']}", thread_ts=event["ts"])

        app_token = server.ready["app_token"]
        handler = AsyncSocketModeHandler(app, app_token, web_client=client(server, app_token))
        await handler.connect_async()
        try:
            await connected(server, 1)
            await server.say("alice", "hello bolt")

            async def answered() -> list[Any]:
                return [m for m in await server.messages() if m["text"] == "you said hello bolt"]

            (reply,) = await until(answered)
            assert reply["thread_ts"] == (await server.messages())[0]["ts"]
            assert heard == ["hello bolt"]
        finally:
            await handler.close_async()


HOME = {"type": "home", "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "hello"}}]}


async def test_bolt_serves_home_mentions_buttons_and_modals(tmp_path: Path) -> None:
    """Bolt's own listeners, as its documentation shows them."""
    async with local_slack(tmp_path, "--no-limits") as server:
        app = AsyncApp(token=server.ready["bot_token"], client=client(server))
        button = {"type": "button", "action_id": "go", "text": {"type": "plain_text", "text": "Go"}}
        fields = [
            {"type": "number_input", "action_id": "n", "is_decimal_allowed": False},
            {"type": "datetimepicker", "action_id": "t"},
            {"type": "plain_text_input", "action_id": "w"},
        ]
        modal = {
            "type": "modal",
            "callback_id": "form",
            "title": {"type": "plain_text", "text": "Form"},
            "submit": {"type": "plain_text", "text": "Send"},
            "blocks": [
                {"type": "input", "block_id": field["action_id"], "optional": True, "element": field}
                | {"label": {"type": "plain_text", "text": "x"}}
                for field in fields
            ],
        }
        heard: list[Any] = []

        @app.event("app_home_opened")
        async def show_home(event: dict[str, Any], client: AsyncWebClient) -> None:
            await client.views_publish(user_id=event["user"], view=HOME)

        @app.event("app_mention")
        async def answer(event: dict[str, Any], say: Any) -> None:
            blocks = [{"type": "actions", "elements": [button]}]
            await say(text="press", blocks=blocks, thread_ts=event["ts"])

        @app.action("go")
        async def open_form(ack: Any, body: dict[str, Any], client: AsyncWebClient) -> None:
            await ack()
            opened = await client.views_open(trigger_id=body["trigger_id"], view=modal)
            await client.views_update(view_id=opened["view"]["id"], hash=opened["view"]["hash"], view=modal)

        @app.view("form")
        async def take(ack: Any, view: dict[str, Any]) -> None:
            values = view["state"]["values"]
            if not values["w"]["w"]["value"]:
                await ack(response_action="errors", errors={"w": "Say something"})
                return
            await ack()
            heard.append((values["n"]["n"]["value"], values["t"]["t"]["selected_date_time"], values["w"]["w"]["value"]))

        @app.event("reaction_added")
        async def see(event: dict[str, Any]) -> None:
            heard.append(event["reaction"])

        @app.event("reaction_removed")
        async def miss(event: dict[str, Any]) -> None:
            heard.append("no " + event["reaction"])

        @app.event("message")
        async def ignore(event: dict[str, Any]) -> None:
            return

        app_token = server.ready["app_token"]
        handler = AsyncSocketModeHandler(app, app_token, web_client=client(server, app_token))
        await handler.connect_async()
        try:
            await connected(server, 1)
            assert (await server.ctl("home", user="bob"))["view"] is None

            async def found(what: str) -> Any:
                return (await server.ctl("state"))[what]

            homes = await until(lambda: found("homes"))
            assert homes["U0BOB"]["blocks"][0]["text"]["text"] == "hello"

            ts = await server.say("alice", "hey @apollo")

            async def pressed() -> list[Any]:
                return [m for m in await server.messages() if m["text"] == "press"]

            (message,) = await until(pressed)
            await server.ctl("click", user="alice", ts=message["ts"], action_id="go")
            view = (await until(lambda: found("views")))[0]
            refusal = await server.ctl("submit", user="alice", view_id=view["id"], values={"n": "4"})
            assert refusal["answer"]["errors"] == {"w": "Say something"}
            values = {"n": "4", "t": 1_900_000_000, "w": "words"}
            await server.ctl("submit", user="alice", view_id=view["id"], values=values)
            await until(lambda: heard == [("4", 1_900_000_000, "words")])
            await server.ctl("react", user="alice", ts=ts, name="eyes")
            await until(lambda: heard[-1] == "eyes")
            await server.ctl("unreact", user="alice", ts=ts, name="eyes")
            await until(lambda: heard[-1] == "no eyes")
        finally:
            await handler.close_async()


async def test_views_have_versions_and_limits(tmp_path: Path) -> None:
    async with local_slack(tmp_path) as server:
        web = client(server)
        first = await web.views_publish(user_id="U0BOB", view=HOME)
        await web.views_publish(user_id="U0BOB", view=HOME, hash=first["view"]["hash"])
        stale = await refused(web.views_publish(user_id="U0BOB", view=HOME, hash=first["view"]["hash"]))
        assert stale["error"] == "hash_conflict"
        for view, words in [
            ({**HOME, "blocks": [{"type": "divider"}] * 101}, "100 items"),
            ({**HOME, "type": "modal"}, "must be a home"),
            ({**HOME, "submit": {"type": "plain_text", "text": "x"}}, "no submit"),
        ]:
            answer = await refused(web.views_publish(user_id="U0BOB", view=view))
            assert words in answer["response_metadata"]["messages"][0]
        assert (await refused(web.views_publish(user_id="U0NOBODY", view=HOME)))["error"] == "user_not_found"
        modal = {"type": "modal", "title": {"type": "plain_text", "text": "T"}, "blocks": [{"type": "divider"}]}
        assert (await refused(web.views_update(view_id="V0", view=modal)))["error"] == "not_found"


async def test_a_trigger_is_too_old_after_three_seconds(tmp_path: Path) -> None:
    workspace = Workspace()
    trigger = workspace.new_trigger()
    workspace.triggers[trigger] -= 3.1
    with pytest.raises(Refused, match="expired_trigger_id"):
        workspace.use_trigger(trigger)


async def test_state_shows_who_is_told_privately(tmp_path: Path) -> None:
    async with local_slack(tmp_path) as server:
        await client(server).chat_postEphemeral(channel="C0ALERTS0", user="U0EVE", text="psst")
        state = await server.ctl("state")
        assert [note["text"] for note in state["channels"][0]["ephemeral"]] == ["psst"]
        assert "psst" not in json.dumps(await server.messages())
