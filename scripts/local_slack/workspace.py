"""The workspace: people, tokens, channels, messages and views. What happens in it becomes events."""

from __future__ import annotations

import json
import re
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from local_slack import blockkit

Message = dict[str, Any]
MANIFEST = Path(__file__).resolve().parents[2] / "templates" / "slack" / "manifest.json"

TEAM = "T0LOCAL00"
APP = "A0APOLLO0"
BOT = "B0APOLLO0"
BOT_USER = "U0APOLLO0"
USER_APP = "A0USERAPP"  # the app through which people's own tokens were made
USER_BOT = "B0USERAPP"
CHANNEL = "C0ALERTS0"
USERGROUP = "S0EXPERTS"
TRIGGER_SECONDS = 3.0


class Refused(Exception):
    """The answer ``{"ok": false, "error": …}`` with more fields."""

    def __init__(self, error: str, **more: Any) -> None:
        super().__init__(error)
        self.error = error
        self.more = more


@dataclass(frozen=True)
class Caller:
    """Whom a token stands for."""

    kind: Literal["bot", "app", "user"]
    user: str
    scopes: frozenset[str]


@dataclass
class Channel:
    """A channel and its messages by ``ts``, in order."""

    id: str
    name: str
    members: set[str]
    messages: dict[str, Message] = field(default_factory=dict)
    ephemeral: list[Message] = field(default_factory=list)


def type_text(text: str, names: dict[str, str] | None = None) -> str:
    """What a person types, as Slack stores it: entities escaped, addresses as links, ``@name`` of
    ``names`` (name -> id) as mentions."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"https?://[^\s|<>]+", lambda match: f"<{match.group()}>", text)
    known = names or {}
    return re.sub(r"(?<!\w)@(\w+)", lambda m: f"<@{known[m[1]]}>" if m[1] in known else m[0], text)


class Workspace:
    """One team with one installed app, as its manifest says, and some people.

    ``publish`` is called with every event that the app has subscribed to.
    """

    def __init__(self, manifest: Path = MANIFEST) -> None:
        app = json.loads(manifest.read_text())
        self.subscribed = set(app["settings"]["event_subscriptions"]["bot_events"])
        self.interactive = bool(app["settings"]["interactivity"]["is_enabled"])
        self.has_home = bool(app["features"].get("app_home", {}).get("home_tab_enabled"))
        scopes = frozenset(app["oauth_config"]["scopes"]["bot"])
        secret = secrets.token_hex(12)
        self.bot_token, self.app_token = f"xoxb-local-{secret}", f"xapp-1-{APP}-{secret}"
        self.people = {f"U0{name.upper()}": name for name in ("alice", "bob", "eve")}
        user_scopes = frozenset({"chat:write", "channels:history", "channels:read", "reactions:write", "users:read"})
        self.tokens = {
            self.bot_token: Caller("bot", BOT_USER, scopes),
            self.app_token: Caller("app", BOT_USER, frozenset({"connections:write"})),
        }
        self.user_tokens = {user: f"xoxp-local-{name}-{secret}" for user, name in self.people.items()}
        for user, token in self.user_tokens.items():
            self.tokens[token] = Caller("user", user, user_scopes)
        self.usergroups = {USERGROUP: {"U0ALICE", "U0BOB"}}
        everyone = {BOT_USER, *self.people}
        self.channels = {CHANNEL: Channel(CHANNEL, "alerts", everyone)}
        self.views: dict[str, dict[str, Any]] = {}
        self.homes: dict[str, dict[str, Any]] = {}
        self.publish: Callable[[dict[str, Any]], str] = lambda event: ""
        self.triggers: dict[str, float] = {}
        self._last = 0

    @property
    def names(self) -> dict[str, str]:
        """Ids of everybody who can be mentioned, by name."""
        return {name: user for user, name in {**self.people, BOT_USER: "apollo"}.items()}

    # ---- names
    def ts(self) -> str:
        """A new message id: seconds and microseconds, never twice."""
        self._last = max(time.time_ns() // 1000, self._last + 1)
        return f"{self._last // 1_000_000}.{self._last % 1_000_000:06d}"

    def user(self, name: str) -> str:
        """The id of a person given by id or name."""
        for user, known in self.people.items():
            if name in (user, known):
                return user
        raise Refused("user_not_found")

    def channel(self, name: str, member: str | None = None) -> Channel:
        """A channel by id; only posting takes ``#name`` in Slack, so nothing else does here."""
        channel = self.channels.get(name)
        if channel is None:
            raise Refused("channel_not_found")
        if member is not None and member not in channel.members:
            raise Refused("not_in_channel")
        return channel

    def message(self, channel: Channel, ts: str) -> Message:
        """A message of the channel."""
        if ts not in channel.messages:
            raise Refused("message_not_found")
        return channel.messages[ts]

    # ---- triggers
    def new_trigger(self) -> str:
        """What an interaction hands out to open one view within three seconds."""
        trigger = f"{uuid.uuid4().int % 10**12}.{secrets.token_hex(8)}"
        self.triggers[trigger] = time.monotonic()
        return trigger

    def use_trigger(self, trigger: str) -> None:
        """Spend a trigger."""
        at = self.triggers.pop(trigger, None)
        if at is None:
            raise Refused("invalid_trigger_id")
        if time.monotonic() - at > TRIGGER_SECONDS:
            raise Refused("expired_trigger_id")

    # ---- what happens
    def post(self, channel: Channel, user: str, text: str, thread_ts: str | None = None, **more: Any) -> Message:
        """A new message, and its event."""
        if thread_ts is not None:
            if thread_ts not in channel.messages:
                raise Refused("thread_not_found")
            thread_ts = channel.messages[thread_ts].get("thread_ts") or thread_ts
            channel.messages[thread_ts]["thread_ts"] = thread_ts
        ts = self.ts()
        message: Message = {"type": "message", "user": user, "ts": ts, "team": TEAM, "text": text}
        message |= {key: value for key, value in more.items() if value}
        if thread_ts is not None:
            message["thread_ts"] = thread_ts
        channel.messages[ts] = message
        self._message_event(channel, {**message, "event_ts": ts})
        mentioned = f"<@{BOT_USER}>" in text and user != BOT_USER and BOT_USER in channel.members
        if mentioned and "app_mention" in self.subscribed:
            self.publish({**message, "type": "app_mention", "channel": channel.id, "event_ts": ts})
        return message

    def change(self, channel: Channel, message: Message, by: str, **fields: Any) -> Message:
        """An edit, and its event. Without ``by`` the message does not show as edited."""
        before = dict(message)
        message |= fields
        if by:
            message["edited"] = {"user": by, "ts": self.ts()}
        self._hidden_event(channel, "message_changed", message=dict(message), previous_message=before)
        return message

    def delete(self, channel: Channel, message: Message) -> None:
        """A deletion, and its event."""
        del channel.messages[message["ts"]]
        self._hidden_event(channel, "message_deleted", deleted_ts=message["ts"], previous_message=message)

    def react(self, channel: Channel, message: Message, user: str, name: str) -> None:
        """A reaction, and its event."""
        if not re.fullmatch(r"[a-z0-9_+\-']{1,100}(::skin-tone-[2-6])?", name):
            raise Refused("invalid_name")
        reactions = message.setdefault("reactions", [])
        found = next((one for one in reactions if one["name"] == name), None)
        if found is None:
            reactions.append(found := {"name": name, "users": [], "count": 0})
        if user in found["users"]:
            raise Refused("already_reacted")
        found["users"].append(user)
        found["count"] += 1
        self._reaction_event("reaction_added", channel, message, user, name)

    def unreact(self, channel: Channel, message: Message, user: str, name: str) -> None:
        """A reaction taken away, and its event."""
        found = next((one for one in message.get("reactions", []) if one["name"] == name), None)
        if found is None or user not in found["users"]:
            raise Refused("no_reaction")
        found["users"].remove(user)
        found["count"] -= 1
        message["reactions"] = [one for one in message["reactions"] if one["count"]]
        self._reaction_event("reaction_removed", channel, message, user, name)

    def _reaction_event(self, kind: str, channel: Channel, message: Message, user: str, name: str) -> None:
        if kind in self.subscribed and BOT_USER in channel.members:
            item = {"type": "message", "channel": channel.id, "ts": message["ts"]}
            event = {"type": kind, "user": user, "reaction": name, "item": item, "item_user": message["user"]}
            self.publish({**event, "event_ts": self.ts()})

    def open_view(self, view: dict[str, Any], trigger: str) -> dict[str, Any]:
        """Show a modal to whoever caused the trigger."""
        self.use_trigger(trigger)
        stored = self._stored_view(view)
        self.views[stored["id"]] = stored
        return stored

    def update_view(self, identity: str, view: dict[str, Any], expected: str | None) -> dict[str, Any]:
        """Show an open modal anew; ``expected`` is the hash of the version that the caller has seen."""
        old = self.views.get(identity)
        if old is None:
            raise Refused("not_found")
        if expected and expected != old["hash"]:
            raise Refused("hash_conflict")
        self.views[identity] = self._stored_view(view, identity)
        return self.views[identity]

    def publish_home(self, user: str, view: dict[str, Any], expected: str | None) -> dict[str, Any]:
        """Show a person the app's Home."""
        if not self.has_home:
            raise Refused("not_enabled")
        old = self.homes.get(user)
        if expected and old is not None and expected != old["hash"]:
            raise Refused("hash_conflict")
        self.homes[user] = self._stored_view(view, old["id"] if old is not None else None)
        return self.homes[user]

    def open_home(self, user: str) -> None:
        """A person looks at the app's Home, and the event of it."""
        if self.has_home and "app_home_opened" in self.subscribed:
            event = {"type": "app_home_opened", "user": user, "channel": f"D{user[1:]}", "tab": "home"}
            view = {"view": self.homes[user]} if user in self.homes else {}
            self.publish({**event, **view, "event_ts": self.ts()})

    def _stored_view(self, view: dict[str, Any], identity: str | None = None) -> dict[str, Any]:
        identity = identity or f"V{secrets.token_hex(5).upper()}"
        return {
            **view,
            "id": identity,
            "team_id": TEAM,
            "app_id": APP,
            "bot_id": BOT,
            "hash": secrets.token_hex(6),
            "root_view_id": identity,
            "previous_view_id": None,
            "private_metadata": view.get("private_metadata", ""),
            "callback_id": view.get("callback_id", ""),
            "blocks": blockkit.with_ids(view["blocks"]),
            "state": {"values": {}},
        }

    def shown(self, channel: Channel, message: Message) -> Message:
        """A message as the API shows it: parents say how many replies they have."""
        if message.get("thread_ts") != message["ts"]:
            return dict(message)
        replies = [
            m for m in channel.messages.values() if m.get("thread_ts") == message["ts"] and m["ts"] != message["ts"]
        ]
        if not replies:
            return {key: value for key, value in message.items() if key != "thread_ts"}
        users = list(dict.fromkeys(reply["user"] for reply in replies))
        return message | {
            "reply_count": len(replies),
            "reply_users_count": len(users),
            "latest_reply": replies[-1]["ts"],
            "reply_users": users[:5],
        }

    def _message_event(self, channel: Channel, event: dict[str, Any]) -> None:
        name, kind = ("message.channels", "channel") if channel.id.startswith("C") else ("message.groups", "group")
        if name in self.subscribed and BOT_USER in channel.members:
            self.publish({**event, "channel": channel.id, "channel_type": kind})

    def _hidden_event(self, channel: Channel, subtype: str, **more: Any) -> None:
        ts = self.ts()
        self._message_event(
            channel, {"type": "message", "subtype": subtype, "hidden": True, "ts": ts, "event_ts": ts, **more}
        )
