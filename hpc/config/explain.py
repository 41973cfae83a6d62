"""What Hydra and msgspec complain about, as one line with the dotted path and one with the fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from hydra.errors import OverrideParseException

from hpc.config.base import Config
from hpc.core.errors import ConfigError

QUOTE = (
    "quote values that hold commas, brackets, blanks or letters beyond ASCII, as in 'run.name=\"a b\"'; a list is [a,b]"
)


def composition_error(kind: str, struct: type[Config], error: Exception) -> ConfigError:
    """Why Hydra could not compose ``kind``, whose groups are fields of ``struct``."""
    text = str(error).replace("++", "")  # the sign that `hpc.config.compose` puts before values
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    path = str(getattr(error, "full_key", "") or "")
    see = f"see `hpc config list` and `hpc config show {kind}`"
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, option = match.groups()
        start = next((i + 1 for i, line in enumerate(lines) if line.startswith("Available options")), len(lines))
        end = next((i for i, line in enumerate(lines) if line.startswith("Config search path")), len(lines))
        return ConfigError(f"group {group!r} has no option {option!r}", _known(option, lines[start:end]))
    if match := re.search(r"Could not override '([^'@]+)", text):
        known = _fields_at(struct, "")
        return ConfigError(f"the {kind} configuration has no group {match.group(1)!r}", _known(match.group(1), known))
    if "Missing mandatory value" in text and path:
        return _no_value(kind, path)
    if isinstance(error, OverrideParseException):
        override = error.override.removeprefix("++")
        return ConfigError(f"override {override!r} cannot be read: {lines[0]}", QUOTE)
    if match := re.match(r"Ambiguous value for argument '(.*)'", lines[0]):
        return ConfigError(f"override {match.group(1)!r} holds a comma", QUOTE)
    return ConfigError(f"{path}: {lines[0]}" if path else lines[0], see)


def validation_error(kind: str, struct: type[Config], value: Any, error: msgspec.ValidationError) -> ConfigError:
    """Why the composed ``value`` does not fit ``struct``."""
    text = str(error)
    path = ""
    if match := re.search(r" - at `\$\.?([^`]*)`$", text):
        path, text = _name_keys(match.group(1), struct, value, text), text[: match.start()]
    if match := re.search(r"unknown field `([^`]+)`", text):
        name = match.group(1)
        full = f"{path}.{name}" if path else name
        return ConfigError(f"unknown key {full!r} in the {kind} configuration", _known(name, _fields_at(struct, path)))
    if match := re.search(r"missing required field `([^`]+)`", text):
        return _no_value(kind, f"{path}.{match.group(1)}" if path else match.group(1))
    if match := re.search(r"Invalid enum value '?([^']*)'?", text):
        choices = [str(choice) for choice in get_args(_type_at(struct, path))]
        return ConfigError(f"{path} is {match.group(1)!r}, which is no choice", _known(match.group(1), choices))
    see = f"see `hpc config show {kind}` without that override"
    if text.partition(" ")[0] in _fields_at(struct, path):  # a check of our own: it begins with the field's name
        return ConfigError(f"{path}.{text}" if path else text, see)
    return ConfigError(f"{path or kind}: {text[0].lower()}{text[1:]}".replace("`object`", "a mapping"), see)


def _no_value(kind: str, path: str) -> ConfigError:
    return ConfigError(f"{path} has no value in the {kind} configuration", f"give one, as in {path}=VALUE")


def _known(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"one of: {', '.join(known)}"


def _name_keys(path: str, struct: type[Config], value: Any, text: str) -> str:
    """``path`` with the key of a mapping where msgspec writes ``[...]``: the first key that gives
    the same complaint when it stands alone."""
    before, hole, after = path.partition("[...]")
    if not hole:
        return path
    parts = before.split(".")
    for key in _at(value, parts):
        try:
            msgspec.convert(_with(value, parts, {key: _at(value, parts)[key]}), struct)
        except msgspec.ValidationError as error:
            if str(error) == text:
                return f"{before}.{key}{after}"
    return path


def _at(value: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        value = value[part]
    return value


def _with(value: Any, parts: Sequence[str], inner: Any) -> Any:
    """A copy of nested mappings in which the value at ``parts`` is ``inner``."""
    if not parts:
        return inner
    return {**value, parts[0]: _with(value[parts[0]], parts[1:], inner)}


def _type_at(struct: type[Any], path: str) -> Any:
    """The type of the value at a dotted path below ``struct``; None where the types do not say.

    Of an optional struct it is the struct.
    """
    current: Any = struct
    for part in filter(None, re.split(r"[.\[\]]", path)):
        if _is_struct(current):
            current = {field.name: field.type for field in msgspec.structs.fields(current)}.get(part)
        else:  # a key of a mapping or an index of a list
            current = next((each for each in reversed(get_args(current)) if each is not Ellipsis), None)
        if get_origin(current) in (Union, UnionType):
            current = next(filter(_is_struct, get_args(current)), current)
    return current


def _fields_at(struct: type[Any], path: str) -> list[str]:
    """Names of the fields of the struct at a dotted path below ``struct``; none where there is no struct."""
    found = _type_at(struct, path)
    return [field.name for field in msgspec.structs.fields(found)] if _is_struct(found) else []


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
