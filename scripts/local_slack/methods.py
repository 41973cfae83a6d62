"""The methods of the Web API (docs.slack.dev/reference/methods): arguments in, answer out."""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from local_slack import blockkit
from local_slack.workspace import (
    APP,
    BOT,
    BOT_USER,
    TEAM,
    USER_APP,
    USER_BOT,
    Caller,
    Channel,
    Message,
    Refused,
    Workspace,
)

Args = dict[str, Any]
Answer = dict[str, Any]

POST = None  # the tier of a method that is limited by posts a channel
MAX_TEXT = 40_000
MAX_METADATA = 16_000


@dataclass(frozen=True)
class Method:
    """One method: who may call it, how often, and what it does."""

    name: str
    tier: int | None
    scope: str | None
    callers: tuple[str, ...]
    run: Callable[[Workspace, Caller, Args], Answer]


METHODS: dict[str, Method] = {}


def method(
    name: str, tier: int | None, scope: str | None, callers: tuple[str, ...] = ("bot", "user")
) -> Callable[[Callable[[Workspace, Caller, Args], Answer]], Callable[[Workspace, Caller, Args], Answer]]:
    """Register a function as an API method."""

    def register(run: Callable[[Workspace, Caller, Args], Answer]) -> Callable[[Workspace, Caller, Args], Answer]:
        METHODS[name] = Method(name, tier, scope, callers, run)
        return run

    return register


def missing_scope(found: Method, caller: Caller, args: Args) -> str | None:
    """The scope that the caller lacks; private channels have scopes of their own."""
    scope = found.scope
    if scope is not None and scope.startswith("channels:") and str(args.get("channel", "")).startswith("G"):
        scope = scope.replace("channels:", "groups:")
    return scope if scope is not None and scope not in caller.scopes else None


def required(args: Args, *names: str) -> list[str]:
    """Arguments that must be there."""
    for name in names:
        if not args.get(name):
            raise Refused(
                "invalid_arguments", response_metadata={"messages": [f"[ERROR] missing required field: {name}"]}
            )
    return [str(args[name]) for name in names]


def _flag(args: Args, name: str) -> bool:
    return str(args.get(name, "")).lower() in ("1", "true")


# ---- identity ---------------------------------------------------------------------------------


@method("api.test", 4, None, ("bot", "user", "app"))
def api_test(space: Workspace, caller: Caller, args: Args) -> Answer:
    return {"args": {key: value for key, value in args.items() if key != "token"}}


@method("auth.test", 4, None, ("bot", "user", "app"))
def auth_test(space: Workspace, caller: Caller, args: Args) -> Answer:
    name = space.people.get(caller.user, "apollo")
    answer = {
        "url": "https://local.slack.test/",
        "team": "local",
        "team_id": TEAM,
        "user": name,
        "user_id": caller.user,
    }
    return answer | ({"bot_id": BOT, "is_enterprise_install": False} if caller.kind == "bot" else {})


@method("users.info", 4, "users:read")
def users_info(space: Workspace, caller: Caller, args: Args) -> Answer:
    (user,) = required(args, "user")
    if user == BOT_USER:
        return {"user": {"id": user, "team_id": TEAM, "name": "apollo", "is_bot": True, "deleted": False}}
    name = space.people[space.user(user)]
    profile = {"display_name": name, "real_name": name.title()}
    person = {"id": space.user(user), "team_id": TEAM, "name": name, "real_name": name.title(), "profile": profile}
    return {"user": person | {"is_bot": False, "deleted": False}}


@method("usergroups.users.list", 2, "usergroups:read")
def usergroups_users_list(space: Workspace, caller: Caller, args: Args) -> Answer:
    (group,) = required(args, "usergroup")
    if group not in space.usergroups:
        raise Refused("no_such_subteam")
    return {"users": sorted(space.usergroups[group])}


# ---- messages ---------------------------------------------------------------------------------


def _content(args: Args) -> dict[str, Any]:
    """Text, blocks and metadata of a message, checked."""
    text, blocks, metadata = args.get("text") or "", args.get("blocks"), args.get("metadata")
    if not text and not blocks:
        raise Refused("no_text")
    if blocks:
        problems = blockkit.check_blocks(blocks)
        if problems:
            lines = [f"{what} [json-pointer:{where}]" for what, where in problems]
            messages = [f"[ERROR] {line}" for line in lines]
            raise Refused("invalid_blocks", errors=lines, response_metadata={"messages": messages})
        if blockkit.characters(blocks) > blockkit.MESSAGE_CHARACTERS:
            raise Refused("msg_blocks_too_long")
        blocks = blockkit.with_ids(blocks)
    if metadata:
        payload = metadata.get("event_payload") if isinstance(metadata, dict) else None
        if not isinstance(payload, dict) or not re.fullmatch(r"[a-zA-Z][\w.-]{0,254}", str(metadata.get("event_type"))):
            raise Refused("invalid_metadata_format")
        if len(json.dumps(metadata)) > MAX_METADATA:
            raise Refused("metadata_too_large")
    return {"text": text[:MAX_TEXT], "blocks": blocks, "metadata": metadata}


def _author(caller: Caller) -> dict[str, Any]:
    if caller.kind == "bot":
        return {"bot_id": BOT, "app_id": APP}
    return {"bot_id": USER_BOT, "app_id": USER_APP, "client_msg_id": str(uuid.uuid4())}


@method("chat.postMessage", POST, "chat:write")
def chat_post_message(space: Workspace, caller: Caller, args: Args) -> Answer:
    (name,) = required(args, "channel")
    channel = space.channel(name, caller.user)
    content = _content(args)
    thread = args.get("thread_ts") or None
    message = space.post(channel, caller.user, content.pop("text"), thread, **content, **_author(caller))
    return {"channel": channel.id, "ts": message["ts"], "message": dict(message)}


@method("chat.update", 3, "chat:write")
def chat_update(space: Workspace, caller: Caller, args: Args) -> Answer:
    name, ts = required(args, "channel", "ts")
    channel = space.channel(name, caller.user)
    message = space.message(channel, ts)
    if message["user"] != caller.user:
        raise Refused("cant_update_message")
    if len(args.get("text") or "") > MAX_TEXT:
        raise Refused("msg_too_long")
    content = {key: value for key, value in _content(args).items() if value or key == "text"}
    if args.get("text") and not args.get("blocks"):
        content["blocks"] = []  # Slack drops the old blocks when only a text is given
    space.change(channel, message, "" if content.get("blocks") else caller.user, **content)
    return {"channel": channel.id, "ts": ts, "text": message["text"], "message": dict(message)}


@method("chat.delete", 3, "chat:write")
def chat_delete(space: Workspace, caller: Caller, args: Args) -> Answer:
    name, ts = required(args, "channel", "ts")
    channel = space.channel(name, caller.user)
    message = space.message(channel, ts)
    if message["user"] != caller.user:
        raise Refused("cant_delete_message")
    space.delete(channel, message)
    return {"channel": channel.id, "ts": ts}


@method("chat.postEphemeral", 4, "chat:write", ("bot",))
def chat_post_ephemeral(space: Workspace, caller: Caller, args: Args) -> Answer:
    name, user = required(args, "channel", "user")
    channel = space.channel(name, caller.user)
    if space.user(user) not in channel.members:
        raise Refused("user_not_in_channel")
    content = _content(args)
    note = {"ts": space.ts(), "user": user, "thread_ts": args.get("thread_ts"), **content}
    channel.ephemeral.append(note)
    return {"message_ts": note["ts"]}


@method("reactions.add", 3, "reactions:write")
def reactions_add(space: Workspace, caller: Caller, args: Args) -> Answer:
    name, channel_name, ts = required(args, "name", "channel", "timestamp")
    channel = space.channel(channel_name, caller.user)
    space.react(channel, space.message(channel, ts), caller.user, name)
    return {}


@method("reactions.remove", 2, "reactions:write")
def reactions_remove(space: Workspace, caller: Caller, args: Args) -> Answer:
    name, channel_name, ts = required(args, "name", "channel", "timestamp")
    channel = space.channel(channel_name, caller.user)
    space.unreact(channel, space.message(channel, ts), caller.user, name)
    return {}


# ---- reading ----------------------------------------------------------------------------------


@method("conversations.info", 3, "channels:read")
def conversations_info(space: Workspace, caller: Caller, args: Args) -> Answer:
    (name,) = required(args, "channel")
    channel = space.channel(name)
    flags = {"is_channel": name.startswith("C"), "is_private": name.startswith("G"), "is_archived": False}
    member = caller.user in channel.members
    return {"channel": {"id": channel.id, "name": channel.name, "is_member": member, **flags}}


@method("conversations.history", 3, "channels:history")
def conversations_history(space: Workspace, caller: Caller, args: Args) -> Answer:
    (name,) = required(args, "channel")
    channel = space.channel(name, caller.user)
    top = [m for m in channel.messages.values() if m.get("thread_ts") in (None, m["ts"])]
    return _page(space, channel, [m for m in reversed(top) if _within(m, args)], args, most=999)


@method("conversations.replies", 3, "channels:history")
def conversations_replies(space: Workspace, caller: Caller, args: Args) -> Answer:
    name, ts = required(args, "channel", "ts")
    channel = space.channel(name, caller.user)
    if ts not in channel.messages:
        raise Refused("thread_not_found")
    thread = channel.messages[ts].get("thread_ts") or ts
    replies = [m for m in channel.messages.values() if m.get("thread_ts") == thread and m["ts"] != thread]
    parent = [channel.messages[thread]]  # always first, whatever the limits of time
    return _page(space, channel, parent + [m for m in replies if _within(m, args)], args, most=1000)


def _within(message: Message, args: Args) -> bool:
    oldest, latest = float(args.get("oldest") or 0), float(args.get("latest") or "inf")
    at = float(message["ts"])
    return oldest <= at <= latest if _flag(args, "inclusive") else oldest < at < latest


def _page(space: Workspace, channel: Channel, messages: list[Message], args: Args, *, most: int) -> Answer:
    try:
        limit = int(args.get("limit") or 100)
        start = int(base64.b64decode(str(args.get("cursor") or "") or b"MA==", validate=True).decode())
    except ValueError:
        raise Refused("invalid_cursor" if args.get("cursor") else "invalid_limit") from None
    if limit < 1:
        raise Refused("invalid_limit")
    end = start + min(limit, most)
    page = [space.shown(channel, message) for message in messages[start:end]]
    if not _flag(args, "include_all_metadata"):
        page = [{key: value for key, value in message.items() if key != "metadata"} for message in page]
    more = end < len(messages)
    cursor = base64.b64encode(str(end).encode()).decode() if more else ""
    return {"messages": page, "has_more": more, "response_metadata": {"next_cursor": cursor}}


# ---- views ------------------------------------------------------------------------------------


def _view(args: Args, kind: str) -> dict[str, Any]:
    """The view among the arguments, checked."""
    problems = blockkit.check_view(args.get("view"), kind)
    if problems:
        messages = [f"[ERROR] {what} [json-pointer:{where}]" for what, where in problems]
        raise Refused("invalid_arguments", response_metadata={"messages": messages})
    view: dict[str, Any] = args["view"]
    return view


@method("views.open", 4, None, ("bot",))
def views_open(space: Workspace, caller: Caller, args: Args) -> Answer:
    (trigger,) = required(args, "trigger_id")
    return {"view": space.open_view(_view(args, "modal"), trigger)}


@method("views.update", 4, None, ("bot",))
def views_update(space: Workspace, caller: Caller, args: Args) -> Answer:
    (identity,) = required(args, "view_id")
    return {"view": space.update_view(identity, _view(args, "modal"), args.get("hash"))}


@method("views.publish", 4, None, ("bot",))
def views_publish(space: Workspace, caller: Caller, args: Args) -> Answer:
    (user,) = required(args, "user_id")
    return {"view": space.publish_home(space.user(user), _view(args, "home"), args.get("hash"))}
