"""What the desk stores of Slack: names of threads, messages and replies. Pure."""

from __future__ import annotations

import re

_MESSAGE_KEY = re.compile(r"([CGD][A-Z0-9]{2,20}):(\d+\.\d+)(?::\d+\.\d+)?")


def reference(channel: str, ts: str) -> str:
    """The name of a message: of an episode's thread its parent, of a reply its key."""
    return f"{channel}:{ts}"


def edit_key(channel: str, ts: str, edited: str) -> str:
    """The key of a reply's edited text."""
    return f"{channel}:{ts}:{edited}"


def message_of(name: str) -> tuple[str, str] | None:
    """(channel, ts) of a thread's reference or a reply's key; None where it names no message."""
    match = _MESSAGE_KEY.fullmatch(name)
    return (match.group(1), match.group(2)) if match else None
