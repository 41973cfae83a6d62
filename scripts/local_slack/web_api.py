"""The HTTP side of the Web API: tokens, scopes, limits, faults, then the method."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from local_slack.limits import RateLimits
from local_slack.methods import METHODS, Answer, missing_scope
from local_slack.sockets import Sockets
from local_slack.workspace import Caller, Refused, Workspace

JSON_FIELDS = ("blocks", "metadata", "view")


@dataclass
class Fault:
    """What goes wrong with one coming call of a method.

    ``drop``: "before" loses the request, "after" does the work and loses the answer.
    """

    delay: float = 0.0
    status: int = 0
    retry_after: int = 1
    error: str = ""
    drop: str = ""


@dataclass
class WebApi:
    """Answers ``/api/METHOD``."""

    space: Workspace
    sockets: Sockets
    limits: RateLimits
    faults: defaultdict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    calls: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One HTTP request."""
        name = request.match_info["method"]
        self.calls[name] += 1
        fault = self.faults[name].popleft() if self.faults[name] else Fault()
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.drop == "before":
            return _cut(request)
        if fault.status:
            return web.Response(status=fault.status, text="upstream", headers={"Retry-After": str(fault.retry_after)})
        headers: dict[str, str] = {}
        try:
            if fault.error:
                raise Refused(fault.error)
            answer = {"ok": True, **await self._answer(request, name, headers)}
        except RateLimited as limited:
            return web.json_response(
                {"ok": False, "error": "ratelimited"}, status=429, headers={"Retry-After": str(limited.seconds)}
            )
        except Refused as refused:
            answer = {"ok": False, "error": refused.error, **refused.more}
        except ConnectionError:  # the client went away before it had said everything
            return web.Response()
        if fault.drop == "after":
            return _cut(request)
        return web.json_response(answer, headers=headers)

    async def _answer(self, request: web.Request, name: str, headers: dict[str, str]) -> Answer:
        args = await _arguments(request)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ") or str(args.get("token", ""))
        if not token:
            raise Refused("not_authed")
        caller = self.space.tokens.get(token)
        if caller is None:
            raise Refused("invalid_auth")
        headers["X-OAuth-Scopes"] = ",".join(sorted(caller.scopes))
        if name == "apps.connections.open":
            return self._open_connection(caller, token)
        found = METHODS.get(name)
        if found is None:
            raise Refused("unknown_method", req_method=name)
        if caller.kind not in found.callers:
            raise Refused("not_allowed_token_type")
        if needed := missing_scope(found, caller, args):
            raise Refused("missing_scope", needed=needed, provided=headers["X-OAuth-Scopes"])
        if wait := self.limits.take(name, found.tier, token, str(args.get("channel", ""))):
            raise RateLimited(wait)
        return found.run(self.space, caller, args)

    def _open_connection(self, caller: Caller, token: str) -> Answer:
        if caller.kind != "app":
            raise Refused("not_allowed_token_type")
        if wait := self.limits.take("apps.connections.open", 1, token, ""):
            raise RateLimited(wait)
        return {"url": self.sockets.open_ticket()}


class RateLimited(Exception):
    """The caller must wait."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def _cut(request: web.Request) -> web.Response:
    """Break the connection instead of answering."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


async def _arguments(request: web.Request) -> dict[str, Any]:
    """Arguments from the query, a form or a JSON body; nested ones may be JSON in a string."""
    args: dict[str, Any] = dict(request.query)
    if request.method == "POST":
        if request.content_type == "application/json":
            try:
                body = json.loads(await request.text() or "{}")
            except ValueError:
                raise Refused("invalid_json") from None
            if not isinstance(body, dict):
                raise Refused("json_not_object")
            args |= body
        elif request.content_type in ("application/x-www-form-urlencoded", "multipart/form-data"):
            args |= dict(await request.post())
        elif request.can_read_body:
            raise Refused("invalid_post_type")
    for name in JSON_FIELDS:
        if isinstance(args.get(name), str):
            try:
                args[name] = json.loads(args[name])
            except ValueError:
                raise Refused("invalid_arguments") from None
    return args
