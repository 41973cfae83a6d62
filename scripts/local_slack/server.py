"""The server as a process."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

from aiohttp import web

from local_slack.control import Control
from local_slack.limits import RateLimits
from local_slack.sockets import Sockets
from local_slack.web_api import WebApi
from local_slack.workspace import CHANNEL, USERGROUP, Workspace

PAGE = Path(__file__).with_name("page.html")


def build_app(space: Workspace, sockets: Sockets, limits: RateLimits) -> web.Application:
    """The routes: Web API, Socket Mode, control, and the page for people."""
    space.publish = sockets.publish
    api = WebApi(space, sockets, limits)
    control = Control(space, sockets, api)

    async def page(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE)

    async def stop(app: web.Application) -> None:
        await sockets.stop()

    app = web.Application(client_max_size=4 << 20)
    app.router.add_route("*", "/api/{method}", api.handle)
    app.router.add_get("/link/", sockets.link)
    app.router.add_post("/_ctl/{verb}", control.handle)
    app.router.add_get("/", page)
    app.on_shutdown.append(stop)
    return app


def describe(space: Workspace, base: str) -> dict[str, Any]:
    """What a client needs: addresses, tokens, ids."""
    people = {name: {"id": user, "name": name, "token": space.user_tokens[user]} for user, name in space.people.items()}
    return {
        "url": f"{base}/",
        "base_url": f"{base}/api/",
        "bot_token": space.bot_token,
        "app_token": space.app_token,
        "channel": CHANNEL,
        "usergroup": USERGROUP,
        "users": people,
        "pid": os.getpid(),
    }


def write_ready(path: Path, value: dict[str, Any]) -> None:
    """Whole or absent, and private: it holds tokens."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


async def serve(options: argparse.Namespace) -> None:
    """Run until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    space = Workspace()
    sockets = Sockets(ack_seconds=options.ack_seconds, retries=tuple(options.retries))
    app = build_app(space, sockets, RateLimits(enabled=options.limits))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, options.host, options.port).start()
    port = runner.addresses[0][1]
    sockets.base = f"http://{options.host}:{port}"
    if options.ready_file is not None:
        write_ready(options.ready_file, describe(space, sockets.base))
    print(f"local Slack at {sockets.base}/", flush=True)
    await stopping.wait()
    await runner.cleanup()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="local_slack", description="A strict local Slack for development and tests.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: any free one")
    parser.add_argument("--ready-file", type=Path, help="written once the server listens: addresses, tokens, ids")
    parser.add_argument(
        "--limits", action=argparse.BooleanOptionalAction, default=True, help="enforce Slack's rate limits"
    )
    parser.add_argument("--ack-seconds", type=float, default=3.0, help="how long an envelope waits for its answer")
    parser.add_argument(
        "--retries", type=float, nargs="*", default=[0.0, 60.0, 300.0], help="waits before an event is sent again"
    )
    asyncio.run(serve(parser.parse_args()))
