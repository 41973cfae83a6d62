"""What people do, and what goes wrong: ``/_ctl/…`` for tests and for the page at ``/``."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from local_slack.sockets import Sockets
from local_slack.web_api import Fault, WebApi
from local_slack.workspace import APP, BOT_USER, CHANNEL, TEAM, Refused, Workspace, type_text

Body = dict[str, Any]


@dataclass
class Control:
    """POST /_ctl/VERB with a JSON body; a refusal is status 400 with ``{"error": …}``."""

    space: Workspace
    sockets: Sockets
    api: WebApi

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        verbs: dict[str, Callable[[Body], Awaitable[Any]]] = {
            "say": self.say,
            "react": self.react,
            "unreact": self.unreact,
            "home": self.home,
            "edit": self.edit,
            "delete": self.delete,
            "click": self.click,
            "submit": self.submit,
            "close": self.close,
            "fault": self.fault,
            "disconnect": self.disconnect,
            "sockets": self.trouble,
            "messages": self.messages,
            "state": self.state,
        }
        verb = verbs.get(request.match_info["verb"])
        if verb is None:
            return web.json_response({"error": f"one of {', '.join(verbs)}"}, status=404)
        try:
            body = await request.json() if request.can_read_body else {}
            return web.json_response(await verb(body))
        except Refused as refused:
            return web.json_response({"error": refused.error}, status=400)
        except (KeyError, TypeError, ValueError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)

    # ---- people
    async def say(self, body: Body) -> Any:
        """{user, text, thread_ts?, channel?}: a person writes a message."""
        channel = self.space.channel(body.get("channel", CHANNEL))
        message = self.space.post(
            channel,
            self.space.user(body["user"]),
            type_text(body["text"], self.space.names),
            body.get("thread_ts"),
            client_msg_id="ui",
        )
        return {"ts": message["ts"]}

    async def react(self, body: Body) -> Any:
        """{user, ts, name, channel?}: a person adds a reaction."""
        channel = self.space.channel(body.get("channel", CHANNEL))
        message = self.space.message(channel, body["ts"])
        self.space.react(channel, message, self.space.user(body["user"]), body["name"])
        return {}

    async def unreact(self, body: Body) -> Any:
        """{user, ts, name, channel?}: a person takes a reaction away."""
        channel = self.space.channel(body.get("channel", CHANNEL))
        message = self.space.message(channel, body["ts"])
        self.space.unreact(channel, message, self.space.user(body["user"]), body["name"])
        return {}

    async def home(self, body: Body) -> Any:
        """{user}: a person opens the app's Home; what it showed before the app answers."""
        user = self.space.user(body["user"])
        self.space.open_home(user)
        return {"view": self.space.homes.get(user)}

    async def edit(self, body: Body) -> Any:
        """{ts, text, channel?}: the author edits a message."""
        channel = self.space.channel(body.get("channel", CHANNEL))
        message = self.space.message(channel, body["ts"])
        self.space.change(channel, message, message["user"], text=type_text(body["text"], self.space.names))
        return {}

    async def delete(self, body: Body) -> Any:
        """{ts, channel?}: the author deletes a message."""
        channel = self.space.channel(body.get("channel", CHANNEL))
        self.space.delete(channel, self.space.message(channel, body["ts"]))
        return {}

    async def click(self, body: Body) -> Any:
        """{user, action_id, value?, ts, channel?}: a person presses a button of a message; without ``ts``
        one of the app's Home."""
        if not self.space.interactive:
            raise Refused("interactivity_is_off")
        user = self.space.user(body["user"])
        if body.get("ts"):
            blocks, place = self._on_message(body)
        else:
            view = self.space.homes.get(user)
            if view is None:
                raise Refused("view_not_found")
            blocks, place = view["blocks"], {"container": {"type": "view", "view_id": view["id"]}, "view": view}
        block_id, element = _find_element(blocks, body["action_id"], body.get("value"))
        action = {
            "type": element["type"],
            "block_id": block_id,
            "action_id": element["action_id"],
            "text": element.get("text"),
            "value": element.get("value", ""),
            "action_ts": self.space.ts(),
        }
        payload = {
            "type": "block_actions",
            "user": self._person(user),
            "api_app_id": APP,
            "token": "local",
            "trigger_id": self.space.new_trigger(),
            "team": {"id": TEAM, "domain": "local"},
            **place,
            "actions": [action],
        }
        acked, answer = await self.sockets.deliver("interactive", payload)
        return {"acked": acked, "answer": answer}

    def _on_message(self, body: Body) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The blocks of a message, and how an interaction names it."""
        channel = self.space.channel(body.get("channel", CHANNEL))
        message = self.space.message(channel, body["ts"])
        container = {"type": "message", "message_ts": message["ts"], "channel_id": channel.id, "is_ephemeral": False}
        return message.get("blocks", []), {
            "container": container,
            "channel": {"id": channel.id, "name": channel.name},
            "message": self.space.shown(channel, message),
            "state": {"values": {}},
        }

    async def submit(self, body: Body) -> Any:
        """{user, view_id, values: {block_id: text}}: a person submits a modal."""
        view = self._view(body)
        values = body.get("values", {})
        state: dict[str, Any] = {}
        for block in view["blocks"]:
            if block["type"] != "input":
                continue
            element, given = block["element"], values.get(block["block_id"])
            if not given and not block.get("optional") and "initial_option" not in element:
                raise Refused(f"required: {block['block_id']}")
            state[block["block_id"]] = {element.get("action_id", "input"): _state(element, given)}
        payload = {
            "type": "view_submission",
            "user": self._person(self.space.user(body["user"])),
            "api_app_id": APP,
            "token": "local",
            "team": {"id": TEAM, "domain": "local"},
            "view": {**view, "state": {"values": state}},
            "response_urls": [],
        }
        acked, answer = await self.sockets.deliver("interactive", payload)
        if acked and (answer or {}).get("response_action") not in ("errors", "update", "push"):
            self.space.views.pop(view["id"], None)
        return {"acked": acked, "answer": answer}

    async def close(self, body: Body) -> Any:
        """{view_id}: a person closes a modal."""
        self.space.views.pop(self._view(body)["id"])
        return {}

    # ---- trouble
    async def fault(self, body: Body) -> Any:
        """{method, times?, delay?, status?, retry_after?, error?, drop?: before|after}."""
        method, times = body.pop("method"), body.pop("times", 1)
        self.api.faults[method].extend([Fault(**body)] * times)
        return {}

    async def disconnect(self, body: Body) -> Any:
        """{reason?, hard?, close?}: end the sockets. No reason: without a notice."""
        reason = body.get("reason", "refresh_requested")
        ended = await self.sockets.disconnect(reason, hard=bool(body.get("hard")), close=bool(body.get("close", True)))
        return {"connections": ended}

    async def trouble(self, body: Body) -> Any:
        """{duplicates?, mute?, ticket_faults?: [status]}: what the sockets do wrong from now on."""
        self.sockets.duplicates += body.get("duplicates", 0)
        self.sockets.ticket_faults.extend(body.get("ticket_faults", []))
        return {"muted": self.sockets.mute() if body.get("mute") else 0}

    # ---- looking
    async def messages(self, body: Body) -> Any:
        """{channel?}: all messages of a channel, in order."""
        channel = self.space.channel(body.get("channel", CHANNEL))
        return [self.space.shown(channel, message) for message in channel.messages.values()]

    async def state(self, body: Body) -> Any:
        """Everything a test or the page may want to know."""
        channels = [
            {
                "id": channel.id,
                "name": channel.name,
                "messages": [self.space.shown(channel, message) for message in channel.messages.values()],
                "ephemeral": channel.ephemeral,
            }
            for channel in self.space.channels.values()
        ]
        return {
            "connections": len(self.sockets.connections),
            "calls": dict(self.api.calls),
            "refused": self.api.limits.refused,
            "deliveries": [dataclasses.asdict(delivery) for delivery in self.sockets.deliveries],
            "lost": self.sockets.lost,
            "views": list(self.space.views.values()),
            "homes": self.space.homes,
            "people": {**self.space.people, BOT_USER: "apollo"},
            "channels": channels,
        }

    def _person(self, user: str) -> dict[str, str]:
        name = self.space.people[user]
        return {"id": user, "username": name, "name": name, "team_id": TEAM}

    def _view(self, body: Body) -> dict[str, Any]:
        view = self.space.views.get(body["view_id"])
        if view is None:
            raise Refused("view_not_found")
        return view


def _find_element(blocks: list[dict[str, Any]], action_id: str, value: str | None = None) -> tuple[str, dict[str, Any]]:
    for block in blocks:
        elements = block.get("elements", []) if block["type"] == "actions" else [block.get("accessory") or {}]
        for element in elements:
            if element.get("action_id") == action_id and value in (None, element.get("value")):
                return block["block_id"], element
    raise Refused("no_such_button")


def _state(element: dict[str, Any], given: Any) -> dict[str, Any]:
    """The value of an input as a submission carries it."""
    if element["type"] in ("plain_text_input", "number_input"):
        return {"type": element["type"], "value": str(given) if given else None}
    if element["type"] == "datetimepicker":
        return {"type": element["type"], "selected_date_time": int(given) if given else None}
    options = [option for option in element["options"] if option["value"] == given]
    chosen = options[0] if options else element.get("initial_option")
    return {"type": element["type"], "selected_option": chosen}
