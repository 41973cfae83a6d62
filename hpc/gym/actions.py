"""The actions: one definition gives the tool schema, the validation and the traits.

Names and parameters are ResearchGym's, so that prompts and policies made for it fit. Where it wants
``computer_ip``, ``http_port`` or ``use_proxy`` in every call, they are optional here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from hpc.core.errors import ActionError

SLEEP_LIMIT_S = 1800.0

SessionId = Annotated[str, Meta(description="Name of the session.", min_length=1, max_length=100)]
ComputerIp = Annotated[str | None, Meta(description="Computer to use; by default the first of the pool.")]
HttpPort = Annotated[int | None, Meta(description="Accepted, but sessions need no port here.")]
UseProxy = Annotated[bool | None, Meta(description="Accepted, but sessions need no proxy here.")]
FilePath = Annotated[
    str, Meta(description="Path inside the workspace, relative or below /workspace.", min_length=1, max_length=4096)
]


class GymAction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the actions.

    ``polling``: it only looks at running work or lets time pass. ``repeatable``: carried out again
    by another process after a crash, it leaves the workspace as one run would have.
    """

    name: ClassVar[str] = ""
    description: ClassVar[str] = ""
    polling: ClassVar[bool] = False
    repeatable: ClassVar[bool] = False


class CreateSession(GymAction, frozen=True, kw_only=True):
    name = "create_session"
    description = "Open a terminal session: a bash in the workspace that keeps its directory and variables."
    repeatable = True  # sessions die with their process, so there is none to collide with

    computer_ip: ComputerIp = None
    session_id: SessionId
    http_port: HttpPort = None
    use_proxy: UseProxy = None


class ListSessions(GymAction, frozen=True, kw_only=True):
    name = "list_sessions"
    description = "List the open sessions and whether a command runs in them."
    polling = True

    computer_ip: ComputerIp = None


class RunCommand(GymAction, frozen=True, kw_only=True):
    name = "run_command"
    description = (
        "Run a bash command in a session (opened if it is new). One command runs at a time in a session. Wait for "
        "short commands; start long ones in the background and look at them with get_session_output."
    )

    command: Annotated[str, Meta(description="The bash command; it may have several lines.", min_length=1)]
    session_id: SessionId
    computer_ip: ComputerIp = None
    http_port: HttpPort = None
    wait_for_completion: Annotated[
        bool,
        Meta(description="true: wait some seconds, then the command is killed. false: return at once."),
    ] = False
    use_proxy: UseProxy = None


class InputInSession(GymAction, frozen=True, kw_only=True):
    name = "input_in_session"
    description = "Type a line into the command that runs in a session."

    session_id: SessionId
    input_text: Annotated[str, Meta(description="The text; a newline is added.", max_length=2000)]
    computer_ip: ComputerIp = None


class GetSessionOutput(GymAction, frozen=True, kw_only=True):
    name = "get_session_output"
    description = "Show the output of the session's latest command and whether it still runs."
    polling = True

    session_id: SessionId
    computer_ip: ComputerIp = None
    start_lines: Annotated[int, Meta(description="Show from this line on, counted from the end.", ge=1)] = 50
    end_lines: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="Leave out this many lines at the end; by default none.")
    ] = None
    since_timestamp: Annotated[
        float | None,
        Meta(description="Show all output of the session since this Unix time instead, earlier commands too."),
    ] = None


class GetSessionStatus(GymAction, frozen=True, kw_only=True):
    name = "get_session_status"
    description = "Show whether a command runs in a session, or how the last one ended."
    polling = True

    session_id: SessionId
    computer_ip: ComputerIp = None


class CheckSessionIdle(GymAction, frozen=True, kw_only=True):
    name = "check_session_idle"
    description = "Ask whether a session is idle, that is, ready for a command."
    polling = True

    session_id: SessionId
    computer_ip: ComputerIp = None


class CloseSession(GymAction, frozen=True, kw_only=True):
    name = "close_session"
    description = "Close a session and kill everything that was started in it."

    session_id: SessionId
    computer_ip: ComputerIp = None


class OpenFile(GymAction, frozen=True, kw_only=True):
    name = "open_file"
    description = "Show a text file with line numbers, around one line."
    repeatable = True

    path: FilePath
    line_number: Annotated[int, Meta(description="The line to show, from 1.", ge=1)] = 1
    context_lines: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="How many lines to show; by default 100.")
    ] = None


class EditFile(GymAction, frozen=True, kw_only=True):
    name = "edit_file"
    description = "Replace lines start to end (inclusive) of a text file by the content. Line numbers change with it."

    path: FilePath
    start: Annotated[int, Meta(description="First line to replace, from 1; -1 appends.", ge=-1)] = 1
    end: Annotated[int, Meta(description="Last line to replace; -1 is the end of the file.", ge=-1)] = -1
    content: Annotated[str, Meta(description="The new lines; empty text removes the old ones.")]


class CreateFile(GymAction, frozen=True, kw_only=True):
    name = "create_file"
    description = "Write a new file, or replace a whole one; missing folders are made."
    repeatable = True

    filename: FilePath
    content: Annotated[str, Meta(description="What the file holds.")] = ""


class SearchFile(GymAction, frozen=True, kw_only=True):
    name = "search_file"
    description = "Show the lines of a text file that contain a text."
    repeatable = True

    search_term: Annotated[str, Meta(description="The text to look for, taken literally.", min_length=1)]
    file_path: FilePath


class ListFiles(GymAction, frozen=True, kw_only=True):
    name = "list_files"
    description = "List a folder of the workspace."
    repeatable = True

    path: FilePath = "."
    show_hidden: Annotated[bool, Meta(description="Also names that begin with a dot.")] = False


class Think(GymAction, frozen=True, kw_only=True):
    name = "think"
    description = "Write down a thought. Nothing else happens."
    repeatable = True

    thought: Annotated[str, Meta(description="The thought.")]


class Sleep(GymAction, frozen=True, kw_only=True):
    name = "sleep"
    description = "Let time pass, for example while a command runs in the background."
    polling = True
    repeatable = True

    sleep_time: Annotated[float, Meta(description="Seconds, at most 1800.", ge=0, le=SLEEP_LIMIT_S)]


class Eval(GymAction, frozen=True, kw_only=True):
    name = "eval"
    description = "Submit the workspace to the evaluator. Returns the score; only a few submissions are allowed."
    repeatable = True  # the counter knows a submission whose answer was not yet seen


class Finish(GymAction, frozen=True, kw_only=True):
    name = "finish"
    description = "End the task. The workspace is evaluated once more as it is."
    repeatable = True


class Null(GymAction, frozen=True, kw_only=True):
    name = "null"
    description = "Do nothing."
    repeatable = True


ACTIONS: dict[str, type[GymAction]] = {
    kind.name: kind
    for kind in (
        CreateSession,
        ListSessions,
        RunCommand,
        InputInSession,
        GetSessionOutput,
        GetSessionStatus,
        CheckSessionIdle,
        CloseSession,
        OpenFile,
        EditFile,
        CreateFile,
        SearchFile,
        ListFiles,
        Think,
        Sleep,
        Eval,
        Finish,
        Null,
    )
}
"""Every action by its name."""


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter as models know it: an optional one is simply not required."""
    schema = dict(schema)
    options = [option for option in schema.pop("anyOf", []) if option != {"type": "null"}]
    if len(options) == 1:
        schema = {**options[0], **schema}
    if schema.get("default", ...) is None:
        del schema["default"]
    return schema


def tool_schemas(enabled: Iterable[str]) -> list[dict[str, Any]]:
    """The actions as OpenAI tools, in the order given."""
    tools = []
    for name in enabled:
        _, definitions = msgspec.json.schema_components([ACTIONS[name]])
        definition = definitions[ACTIONS[name].__name__]
        parameters = {
            "type": "object",
            "properties": {key: _plain(value) for key, value in definition["properties"].items()},
            "required": definition["required"],
            "additionalProperties": False,
        }
        function = {"name": name, "description": ACTIONS[name].description, "parameters": parameters}
        tools.append({"type": "function", "function": function})
    return tools


def parse(name: str, arguments: dict[str, Any], enabled: Sequence[str]) -> GymAction:
    """The action that a tool call means.

    Raises:
        ActionError: no such action, or arguments that do not fit; the message names the offending
            field and what is known, for the model to read.
    """
    if name not in enabled:
        raise ActionError(f"unknown action {name[:100]!r}; known: {', '.join(enabled)}")
    kind = ACTIONS[name]
    try:
        return msgspec.convert(arguments, kind)
    except msgspec.ValidationError as error:
        raise ActionError(_explain(kind, arguments, str(error))) from None


def _explain(kind: type[GymAction], arguments: dict[str, Any], text: str) -> str:
    fields = msgspec.structs.fields(kind)
    known = [field.name for field in fields]
    parameters = ", ".join(known) or "none"
    unknown = [name for name in arguments if name not in known]
    if unknown:
        return f"unknown argument {unknown[0][:100]!r} of {kind.name}; known: {parameters}"
    missing = [field.name for field in fields if field.required and field.name not in arguments]
    if missing:
        return f"missing argument {missing[0]!r} of {kind.name}; known: {parameters}"
    message, _, place = text.partition(" - at `$.")
    reason = re.sub(r" \| null", "", message.replace("`", ""))
    return f"argument {place.rstrip('`')!r} of {kind.name}: {reason[:1].lower()}{reason[1:]}"
