"""What all configuration structs share."""

from __future__ import annotations

from typing import dataclass_transform

import msgspec


def require_plain(name: str | None) -> None:
    """Accept a name that may be given to a folder; None: it is chosen later.

    Raises:
        ValueError: it is another thing.
    """
    if name is not None and ("/" in name or name in ("", ".", "..")):
        raise ValueError(f"name is {name!r}, it must be a plain folder name")


# Says to type checkers what msgspec does at run time: subclasses are frozen and keyword-only too.
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every configuration struct: unknown keys are errors, values never change.

    A subclass checks what types cannot say in ``__post_init__`` and raises ValueError with a
    sentence that names the field and the fix.
    """
