"""Text on its way to and from Slack. Pure."""

from __future__ import annotations

import re
import unicodedata

from hpc.core.redact import LONGEST, SCANNED, redact

# Slack's limits, in characters (docs.slack.dev/reference/block-kit).
HEADER = 150
SECTION = 3000
FALLBACK = 1000  # our own: a notification shows less

_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]")
_LINK = re.compile(r"<([^<>|]{1,4000})(?:\|([^<>]{0,4000}))?>")
_SPECIAL = {"!here": "@here", "!channel": "@channel", "!everyone": "@everyone"}


def shown(text: str, limit: int = SCANNED) -> str:
    """Text of an agent that a person may see: no secrets, no control or invisible characters.

    Nothing far behind ``limit`` characters is looked at, for a caller that shows no more than those.
    """
    text = redact(text[: min(SCANNED, limit + LONGEST)])
    text = _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in text)


def cut(text: str, limit: int) -> str:
    """At most ``limit`` characters once escaped, the end replaced by an ellipsis."""
    if len(escape(text)) <= limit:
        return text
    kept, room = [], limit - 1
    for character in text[:limit]:
        room -= len(escape(character))
        if room < 0:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


def cut_middle(text: str, limit: int) -> str:
    """At most ``limit`` characters: the beginning and, twice as long, the end, where outcomes stand.

    For literal text only: it does not count what escaping would add.
    """
    if len(text) <= limit:
        return text
    head = (limit - 3) // 3
    return f"{text[:head]}\n…\n{text[len(text) - (limit - 3 - head) :]}"


def escape(text: str) -> str:
    """For mrkdwn and plain_text: nothing in the result is a mention, a link or an entity."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def typed(text: str) -> str:
    """What a person typed, from Slack's form of it: links and mentions as words, entities undone."""
    text = _LINK.sub(_as_typed, text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").strip()


def _as_typed(match: re.Match[str]) -> str:
    target, label = match.group(1), match.group(2)
    if target[0] in "@#":
        return target[0] + (label or target[1:])
    if target[0] == "!":
        return label or _SPECIAL.get(target, "@" + target.rpartition("^")[2].lstrip("!"))
    if not label or target.endswith(label):
        return label or target.removeprefix("mailto:")
    return f"{label} ({target})"
