"""Which trajectories to take: conditions such as ``status=finished`` or ``score>=50`` on their summaries. Pure."""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from hpc.core.errors import UsageError

FIELDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "status": lambda summary: summary["status"],
    "task": lambda summary: summary["task"],
    "family": lambda summary: summary["task_family"],
    "split": lambda summary: summary["split"],
    "index": lambda summary: summary["index"],
    "seed": lambda summary: summary["seed"],
    "steps": lambda summary: summary["steps"],
    "score": lambda summary: (summary["outcome"] or {}).get("final_score"),
    "best": lambda summary: summary["best_score"],
    "alerts": lambda summary: len(summary["alerts"]),
    "guidance": lambda summary: len(summary["guidance"]),
    "attempts": lambda summary: summary["attempts"],
}
_TEXTS = ("status", "task", "family", "split")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}

Condition = Callable[[dict[str, Any]], bool]


def condition(text: str) -> Condition:
    """The condition that ``FIELD OP VALUE`` states, on `hpc.trajectories.reader.Trajectory.summary`.

    Texts are compared with = and != and may have wildcards (``task=minilab/*``). A number that is
    not there (no score yet) meets no condition.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(!=|>=|<=|=|>|<)\s*(.*?)\s*", text)
    if not match or match[1] not in FIELDS:
        raise UsageError(f"--where {text!r} is no condition", f"write FIELD=VALUE; fields: {', '.join(FIELDS)}")
    field, sign, wanted = match[1], match[2], match[3]
    value_of = FIELDS[field]
    if field in _TEXTS:
        if sign not in ("=", "!="):
            raise UsageError(f"--where {text!r}: {field} is a text", "compare it with = or !=")
        return lambda summary: fnmatch.fnmatchcase(str(value_of(summary)), wanted) is (sign == "=")
    try:
        number = float(wanted)
    except ValueError as error:
        raise UsageError(f"--where {text!r}: {wanted!r} is not a number", f"write {field}{sign}10") from error

    def holds(summary: dict[str, Any]) -> bool:
        value = value_of(summary)
        return value is not None and _COMPARE[sign](value, number)

    return holds


def all_of(texts: Sequence[str]) -> Condition:
    """Whether all of these conditions hold; without any, always."""
    conditions = [condition(text) for text in texts]
    return lambda summary: all(holds(summary) for holds in conditions)
