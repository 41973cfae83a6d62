"""What all configuration structs share."""

from __future__ import annotations

from typing import dataclass_transform

import msgspec


# Says to type checkers what msgspec does at run time: subclasses are frozen and keyword-only too.
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every configuration struct: unknown keys are errors, values never change.

    A subclass checks what types cannot say in ``__post_init__`` and raises ValueError with a
    sentence that names the field and the fix.
    """
