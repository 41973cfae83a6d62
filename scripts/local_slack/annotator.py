"""A scripted annotator: answers alerts in Slack threads from an expert sheet, through a user's token.

It is an ordinary client of the Web API (``xoxp-`` token, polling), and knows of an episode only what
an alert shows and what its sheet says::

    python scripts/local_slack/annotator.py --ready-file slack.json --sheet sheet.json --lines 3

The sheet is ``{"facts": [{"value", "knob", "option", "advice"}], "episodes": {id: [value, …]}}``;
an episode's values stand in the order of its stages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp

ALERT_EVENT = "apollo_post"
PAGE = 200
ATTEMPTS = 8

_NEXT = re.compile(r"\bnext (\w[\w-]*) for (\w[\w-]*)")
_STAGE = re.compile(r"\bstage (\d+) metric \d+ (pass|low)\b")


class Sheet:
    """What the expert knows."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._advice = {fact["value"]: str(fact["advice"]) for fact in content["facts"]}
        self._episodes: dict[str, list[str]] = content["episodes"]

    def answer(self, episode: str, alert_text: str, lines: int) -> str | None:
        """The advice for the stage that is due and the ones after it, ``lines`` in all.

        None where the sheet does not know the episode. The due stage is the last one that the
        alert names; an alert that names none comes from the first stage.
        """
        values = self._episodes.get(episode)
        if not values:
            return None
        due = _due_stage(values, alert_text)
        return "; ".join(self._advice[value] for value in values[due : due + lines])


def _due_stage(values: list[str], text: str) -> int:
    """Index of the stage at which the episode is."""
    named = [match.group(2) for match in _NEXT.finditer(text) if match.group(2) in values]
    if named:
        return values.index(named[-1])
    measured = [(int(match.group(1)), match.group(2)) for match in _STAGE.finditer(text)]
    if not measured:
        return 0
    stage, outcome = measured[-1]
    return min(stage - 1 + (outcome == "pass"), len(values) - 1)


def visible_text(message: dict[str, Any]) -> str:
    """What a reader of a message sees: all texts of its blocks, in order; without blocks its text."""

    def walk(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["text"]] if isinstance(value.get("text"), str) else []
            return own + [text for item in value.values() if isinstance(item, (dict, list)) for text in walk(item)]
        return [text for item in value for text in walk(item)]

    return "\n".join(walk(message["blocks"]) if message.get("blocks") else [str(message.get("text", ""))])


class Slack:
    """The few calls of the Web API that a reader and writer needs."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, token: str) -> None:
        self._session = session
        self._base_url = base_url.rstrip("/") + "/"
        self._headers = {"Authorization": f"Bearer {token}"}

    async def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """One call, made again when Slack asks to wait or does not answer; ends the program on a no."""
        for attempt in range(ATTEMPTS):
            try:
                request = self._session.post(self._base_url + method, data=arguments, headers=self._headers)
                async with request as response:
                    if response.status == 429:
                        await asyncio.sleep(float(response.headers.get("Retry-After", 1)))
                        continue
                    if response.status < 500 or method == "chat.postMessage":
                        answer: dict[str, Any] = await response.json()
                        if answer.get("ok"):
                            return answer
                        sys.exit(f"error: {method}: {answer.get('error')}")
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                if method == "chat.postMessage":  # it may have been posted: never twice
                    print(f"the answer to a reply was lost: {error}", file=sys.stderr)
                    return {}
            await asyncio.sleep(min(0.2 * 2**attempt, 5))
        sys.exit(f"error: {method}: no answer after {ATTEMPTS} tries")

    async def pages(self, method: str, **arguments: Any) -> list[dict[str, Any]]:
        """All messages of a paged method."""
        messages: list[dict[str, Any]] = []
        cursor = ""
        while True:
            answer = await self.call(method, limit=PAGE, include_all_metadata="true", cursor=cursor, **arguments)
            messages += answer["messages"]
            cursor = (answer.get("response_metadata") or {}).get("next_cursor", "")
            if not cursor:
                return messages


class Annotator:
    """Watches a channel and answers each alert in it once."""

    def __init__(self, slack: Slack, channel: str, sheet: Sheet, *, user: str, lines: int, delay: float) -> None:
        self._slack = slack
        self._channel = channel
        self._sheet = sheet
        self._user = user
        self._lines = lines
        self._delay = delay
        self._read_up_to: dict[str, str] = {}  # thread -> ts of its newest message read
        self._answered: set[str] = set()
        self._is_first_look = True

    async def look(self) -> None:
        """Read the threads that have news and answer their new alerts."""
        threads = await self._slack.pages("conversations.history", channel=self._channel)
        for thread in reversed(threads):
            ts, newest = str(thread["ts"]), str(thread.get("latest_reply", ""))
            if newest and newest > self._read_up_to.get(ts, ""):
                await self._read(ts)
                self._read_up_to[ts] = newest
        self._is_first_look = False

    async def _read(self, thread: str) -> None:
        messages = await self._slack.pages("conversations.replies", channel=self._channel, ts=thread)
        mine = max((str(message["ts"]) for message in messages if message.get("user") == self._user), default="")
        for message in messages:
            payload = (message.get("metadata") or {}).get("event_payload") or {}
            is_alert = (message.get("metadata") or {}).get("event_type") == ALERT_EVENT and payload.get("alert_id")
            ts = str(message["ts"])
            if not is_alert or ts in self._answered:
                continue
            self._answered.add(ts)
            if self._is_first_look and ts < mine:
                continue  # answered before this process began
            await self._answer(thread, str(payload.get("episode", "")), visible_text(message))

    async def _answer(self, thread: str, episode: str, alert_text: str) -> None:
        text = self._sheet.answer(episode, alert_text, self._lines)
        if text is None:
            print(f"no sheet for {episode}", file=sys.stderr)
            return
        await asyncio.sleep(self._delay)
        await self._slack.call("chat.postMessage", channel=self._channel, thread_ts=thread, text=escape(text))
        print(f"{episode}: {text}", flush=True)


def escape(text: str) -> str:
    """Text for the Web API."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


async def annotate(options: argparse.Namespace) -> None:
    """Answer until SIGTERM or SIGINT."""
    task = asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: task.cancel() if task else None)
    sheet = Sheet(json.loads(options.sheet.read_text()))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        slack = Slack(session, options.base_url, options.token)
        user = str((await slack.call("auth.test"))["user_id"])
        print(f"answering in {options.channel} as {user}", flush=True)
        annotator = Annotator(slack, options.channel, sheet, user=user, lines=options.lines, delay=options.delay)
        while True:
            await annotator.look()
            await asyncio.sleep(options.poll)


def main() -> None:
    """Parse the command line and answer."""
    parser = argparse.ArgumentParser(prog="annotator", description="Answers alerts from an expert sheet.")
    parser.add_argument("--sheet", type=Path, required=True, help="the expert sheet, JSON")
    parser.add_argument("--base-url", help="root of the Web API")
    parser.add_argument("--channel", help="id of the channel to watch")
    parser.add_argument("--ready-file", type=Path, help="the local server's ready file: gives all of the above")
    parser.add_argument("--user", default="alice", help="whose token of the ready file to use (%(default)s)")
    parser.add_argument("--lines", type=int, default=3, help="facts a reply gives (%(default)s)")
    parser.add_argument("--delay", type=float, default=0.2, help="seconds before a reply (%(default)s)")
    parser.add_argument("--poll", type=float, default=0.5, help="seconds between looks (%(default)s)")
    options = parser.parse_args()
    options.token = os.environ.get("SLACK_USER_TOKEN", "")
    if options.ready_file is not None:
        ready = json.loads(options.ready_file.read_text())
        options.base_url = options.base_url or ready["base_url"]
        options.channel = options.channel or ready["channel"]
        options.token = options.token or ready["users"][options.user]["token"]
    if not (options.base_url and options.channel and options.token):
        parser.error("give --ready-file, or --base-url, --channel and a token in SLACK_USER_TOKEN")
    if options.lines < 1:
        parser.error("--lines must be 1 or more")
    try:
        asyncio.run(annotate(options))
    except asyncio.CancelledError:
        return


if __name__ == "__main__":
    main()
