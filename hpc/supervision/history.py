"""What rules look at: a whole trajectory's steps, the help that came, and what was abandoned."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from hpc.trajectories.records import AlertRaised, GuidanceApplied, Record, StepView
from hpc.trajectories.stepview import views_of

EDITS = frozenset({"edit_file", "create_file", "edit", "create", "insert", "str_replace", "write_file", "append"})
READS = frozenset(
    {"open_file", "file_goto_line", "file_scroll_up", "file_scroll_down", "search_file", "search_dir", "find_file",
     "list_files", "get_file_info", "open", "goto", "scroll_up", "scroll_down", "view", "cat", "read_file"}
)  # fmt: skip
COMMANDS = frozenset({"run_command", "input_in_session", "bash", "execute", "run"})
EVALUATIONS = frozenset({"eval", "submit"})
LOOKS = frozenset(
    {"sleep", "check_session_idle", "list_sessions", "get_session_output", "get_session_status",
     "get_session_recent_output", "wait"}
)  # fmt: skip
"""Actions that only look at running work or let time pass, by name: imports do not mark them."""
OPENS, CLOSES = frozenset({"create_session"}), frozenset({"close_session", "close_all_sessions"})
_PATHS = ("path", "file_path", "file", "filename", "file_name")


class Past(msgspec.Struct, frozen=True):
    """A finished or running episode as rules see it. ``abandoned``: numbers of steps on a branch that was
    left later."""

    steps: list[StepView]
    guidance: list[GuidanceApplied]
    alerts: list[AlertRaised]
    abandoned: frozenset[int] = frozenset()


def past_of(records: Iterable[Record], abandoned: Iterable[int] = ()) -> Past:
    """The past of a trajectory; ``abandoned`` as others that branched off it say."""
    records = list(records)
    return Past(
        steps=views_of(records),
        guidance=[record for record in records if isinstance(record, GuidanceApplied)],
        alerts=[record for record in records if isinstance(record, AlertRaised)],
        abandoned=frozenset(abandoned),
    )


def arguments_of(step: StepView) -> dict[str, Any]:
    """The arguments of a step's action; empty where they are none."""
    try:
        value = json.loads(step.arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


_TIME = re.compile(
    r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\b|\b\d\d:\d\d:\d\d(?:[.,]\d+)?\b"
)
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{4,16}\b|\bpid[ =:]*\d+\b|/tmp/[\w.-]+", re.IGNORECASE)


def likeness(text: str) -> str:
    """A text without what differs each time though nothing has changed: times, addresses, temporary names."""
    return _ADDRESS.sub("<address>", _TIME.sub("<time>", text))


_SHOWS = re.compile(r"\b(?:cat|head|tail|less|more|sed\s+-n|nl|bat|view|grep|rg|awk)\b")


def is_shown(step: StepView, path: str) -> bool:
    """Whether a command printed (part of) a file."""
    if step.action not in COMMANDS:
        return False
    command = " ".join(str(value) for value in arguments_of(step).values())
    return path.rsplit("/", 1)[-1] in command and bool(_SHOWS.search(command))


def path_of(step: StepView) -> str:
    """The file that an action names, empty where it names none."""
    arguments = arguments_of(step)
    for name in _PATHS:
        if isinstance(arguments.get(name), str):
            return str(arguments[name]).removeprefix("/workspace/").removeprefix("./")
    return ""
