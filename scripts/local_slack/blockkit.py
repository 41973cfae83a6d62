"""What Slack accepts as blocks and views (docs.slack.dev/reference/block-kit), and its limits."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import Any

MESSAGE_BLOCKS = 50
VIEW_BLOCKS = 100
MESSAGE_CHARACTERS = 13_200  # not documented; Slack answers msg_blocks_too_long above about this sum

Problem = tuple[str, str]  # what is wrong, JSON pointer


def check_blocks(blocks: Any, *, view: bool = False) -> list[Problem]:
    """All that Slack would complain about, empty when it would accept the blocks."""
    cap = VIEW_BLOCKS if view else MESSAGE_BLOCKS
    if not isinstance(blocks, list):
        return [("must provide an array", "/blocks")]
    if len(blocks) > cap:
        return [(f"no more than {cap} items allowed", "/blocks")]
    problems: list[Problem] = []
    ids: set[str] = set()
    for index, block in enumerate(blocks):
        at = f"/blocks/{index}"
        if not isinstance(block, dict):
            problems.append(("must provide an object", at))
            continue
        check = _BLOCKS.get(str(block.get("type")))
        if check is None:
            problems.append((f"unsupported type: {block.get('type')}", f"{at}/type"))
            continue
        if block["type"] == "input" and not view:
            problems.append(("input blocks are for views", f"{at}/type"))
        problems.extend(check(block, at))
        if "block_id" in block:
            problems.extend(_string(block["block_id"], 255, f"{at}/block_id"))
            if block["block_id"] in ids:
                problems.append((f"`block_id` {block['block_id']} already exists", f"{at}/block_id"))
            ids.add(str(block["block_id"]))
    return problems


def check_view(view: Any, kind: str = "modal") -> list[Problem]:
    """Like `check_blocks` for a modal, or the Home (``kind`` "home")."""
    if not isinstance(view, dict) or view.get("type") != kind:
        return [(f"must be a {kind}", "/view/type")]
    problems = list(_text(view.get("title"), 24, "/view/title", plain=True)) if kind == "modal" else []
    if kind == "home" and (extra := {"title", "submit", "close"} & set(view)):
        problems.append((f"a home has no {min(extra)}", "/view"))
    for name in ("submit", "close"):
        if name in view:
            problems.extend(_text(view[name], 24, f"/view/{name}", plain=True))
    inputs = any(block.get("type") == "input" for block in view.get("blocks", []))
    if kind == "modal" and inputs and "submit" not in view:
        problems.append(("submit is required when an input block is within blocks", "/view/submit"))
    for name, most in (("callback_id", 255), ("private_metadata", 3000)):
        if name in view:
            problems.extend(_string(view[name], most, f"/view/{name}", least=0))
    return problems + check_blocks(view.get("blocks"), view=True)


def characters(blocks: list[dict[str, Any]]) -> int:
    """The sum of the characters of all texts."""
    return sum(len(text) for text in texts(blocks))


def texts(value: Any) -> Iterator[str]:
    """Every text that a reader of the blocks sees."""
    if isinstance(value, dict):
        if isinstance(value.get("text"), str):
            yield value["text"]
        for item in value.values():
            if isinstance(item, (dict, list)):
                yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def with_ids(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks as Slack stores them: each has a ``block_id``."""
    return [{**block, "block_id": block.get("block_id") or secrets.token_urlsafe(4)} for block in blocks]


# ---- one check for each kind of block ---------------------------------------------------------


def _string(value: Any, most: int, at: str, *, least: int = 1) -> Iterator[Problem]:
    if not isinstance(value, str):
        yield "must be a string", at
    elif len(value) < least:
        yield f"must be more than {least - 1} characters", at
    elif len(value) > most:
        yield f"must be less than {most + 1} characters", at


def _text(value: Any, most: int, at: str, *, plain: bool = False) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield "missing required field", at
        return
    allowed = ("plain_text",) if plain else ("plain_text", "mrkdwn")
    if value.get("type") not in allowed:
        yield f"unsupported type: {value.get('type')}", f"{at}/type"
    yield from _string(value.get("text"), most, f"{at}/text")


def _section(block: dict[str, Any], at: str) -> Iterator[Problem]:
    if "text" not in block and not block.get("fields"):
        yield "missing required field", f"{at}/text"
    if "text" in block:
        yield from _text(block["text"], 3000, f"{at}/text")
    fields = block.get("fields", [])
    if len(fields) > 10:
        yield "no more than 10 items allowed", f"{at}/fields"
    for index, field in enumerate(fields):
        yield from _text(field, 2000, f"{at}/fields/{index}")
    if "accessory" in block:
        yield from _element(block["accessory"], f"{at}/accessory")


def _header(block: dict[str, Any], at: str) -> Iterator[Problem]:
    yield from _text(block.get("text"), 150, f"{at}/text", plain=True)


def _context(block: dict[str, Any], at: str) -> Iterator[Problem]:
    elements = block.get("elements")
    if not isinstance(elements, list) or not 1 <= len(elements) <= 10:
        yield "1 to 10 items are required", f"{at}/elements"
        return
    for index, element in enumerate(elements):
        if element.get("type") != "image":
            yield from _text(element, 3000, f"{at}/elements/{index}")


def _actions(block: dict[str, Any], at: str) -> Iterator[Problem]:
    elements = block.get("elements")
    if not isinstance(elements, list) or not 1 <= len(elements) <= 25:
        yield "1 to 25 items are required", f"{at}/elements"
        return
    ids = [element.get("action_id") for element in elements if element.get("action_id")]
    if len(set(ids)) != len(ids):
        yield "`action_id` already exists", f"{at}/elements"
    for index, element in enumerate(elements):
        yield from _element(element, f"{at}/elements/{index}")


def _input(block: dict[str, Any], at: str) -> Iterator[Problem]:
    yield from _text(block.get("label"), 2000, f"{at}/label", plain=True)
    if "hint" in block:
        yield from _text(block["hint"], 2000, f"{at}/hint", plain=True)
    yield from _element(block.get("element"), f"{at}/element")


def _rich_text(block: dict[str, Any], at: str) -> Iterator[Problem]:
    kinds = ("rich_text_section", "rich_text_list", "rich_text_preformatted", "rich_text_quote")
    leaves = ("text", "link", "emoji", "user", "usergroup", "channel", "broadcast", "date", "color")

    def walk(elements: Any, at: str, allowed: tuple[str, ...]) -> Iterator[Problem]:
        if not isinstance(elements, list):
            yield "must provide an array", at
            return
        for index, element in enumerate(elements):
            here = f"{at}/{index}"
            if not isinstance(element, dict) or element.get("type") not in allowed:
                yield "unsupported element", here
            elif element["type"] in kinds:
                inner = ("rich_text_section",) if element["type"] == "rich_text_list" else leaves
                yield from walk(element.get("elements"), f"{here}/elements", inner)
            elif element["type"] == "text":
                yield from _string(element.get("text"), 40_000, f"{here}/text")

    yield from walk(block.get("elements"), f"{at}/elements", kinds)


def _plain(_block: dict[str, Any], _at: str) -> Iterator[Problem]:
    yield from ()


_BLOCKS = {
    "section": _section,
    "header": _header,
    "context": _context,
    "actions": _actions,
    "input": _input,
    "rich_text": _rich_text,
    "divider": _plain,
}


def _element(element: Any, at: str) -> Iterator[Problem]:
    if not isinstance(element, dict):
        yield "missing required field", at
        return
    kind = element.get("type")
    if "action_id" in element:
        yield from _string(element["action_id"], 255, f"{at}/action_id")
    if "confirm" in element:
        confirm = element["confirm"]
        for name, most in (("title", 100), ("text", 300), ("confirm", 30), ("deny", 30)):
            yield from _text(confirm.get(name), most, f"{at}/confirm/{name}", plain=name != "text")
    if kind == "button":
        yield from _text(element.get("text"), 75, f"{at}/text", plain=True)
        if "value" in element:
            yield from _string(element["value"], 2000, f"{at}/value", least=0)
        if element.get("style", "primary") not in ("primary", "danger"):
            yield "style must be primary or danger", f"{at}/style"
        if "url" in element:
            yield from _string(element["url"], 3000, f"{at}/url")
    elif kind in ("static_select", "overflow", "radio_buttons"):
        options = element.get("options")
        most = {"static_select": 100, "overflow": 5, "radio_buttons": 10}[kind]
        if not isinstance(options, list) or not 1 <= len(options) <= most:
            yield f"1 to {most} options are required", f"{at}/options"
            return
        for index, option in enumerate(options):
            yield from _text(option.get("text"), 75, f"{at}/options/{index}/text", plain=kind != "radio_buttons")
            yield from _string(option.get("value"), 150, f"{at}/options/{index}/value")
        if "initial_option" in element and element["initial_option"] not in options:
            yield "initial_option must be one of the options", f"{at}/initial_option"
    elif kind == "plain_text_input":
        if "placeholder" in element:
            yield from _text(element["placeholder"], 150, f"{at}/placeholder", plain=True)
        if not 0 < element.get("max_length", 3000) <= 3000:
            yield "must be less than 3001", f"{at}/max_length"
    elif kind == "number_input":
        if not isinstance(element.get("is_decimal_allowed"), bool):
            yield "missing required field", f"{at}/is_decimal_allowed"
        for name in ("min_value", "max_value", "initial_value"):
            if name in element and not re.fullmatch(r"-?\d+(\.\d+)?", str(element[name])):
                yield "must be a number in a string", f"{at}/{name}"
    elif kind == "datetimepicker":
        if not re.fullmatch(r"\d{10}", str(element.get("initial_date_time", "0000000000"))):
            yield "must be ten digits", f"{at}/initial_date_time"
    else:
        yield f"unsupported type: {kind}", f"{at}/type"
