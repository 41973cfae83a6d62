"""Reading SWE-agent's ``.traj`` files (github.com/SWE-agent/SWE-agent), of its versions 0.x and 1.x.

A file is one JSON object. ``history`` holds the messages that the model saw, ``trajectory`` one object
for each step (``action observation response state thought``, since 1.0 ``execution_time``), ``info`` how
it ended; files made by hand for replays hold the history alone. Up to 0.7 the model wrote its command
as text, later as a tool call. There are no times of day, no token ids and no tool definitions.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from hpc.core.errors import TrajectoryLayoutError
from hpc.trajectories.exchange.conversation import called
from hpc.trajectories.exchange.source import UNKNOWN_TIME, imported_header, parse_json, read_bytes, text_of
from hpc.trajectories.records import (
    Action,
    ActionTaken,
    Boundary,
    Observation,
    Observed,
    Origin,
    OutcomeReached,
    Record,
    Status,
)

FORMAT = "swe-agent"
LOST_ON_IMPORT = [
    "no token ids and log-probabilities: the file has text only",
    "no times of day: `at` and `created_at` are 0; working seconds are the sum of execution times, if there are any",
    "no scores, alerts or guidance: SWE-agent has none",
    "no tool definitions: the file has none",
]
_DOCUMENTED = re.compile(r"^([a-z_][a-z0-9_]*)(?::?[ \t]*$|[ ](?:[<\[].*)?- )", re.MULTILINE)
_FAILURES: dict[str, Boundary] = {
    "exit_format": "model",
    "exit_api": "model",
    "exit_environment_error": "environment",
    "exit_error": "infrastructure",
}


class _Function(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] | None = None


class _Call(msgspec.Struct):
    function: _Function
    id: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[Any] | None = None
    agent: str | None = None
    action: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_ids: list[str] | None = None


class _Step(msgspec.Struct):
    action: str
    observation: str | None = None
    response: str | None = None


class _File(msgspec.Struct):
    """What is read of a file; checked before anything is."""

    history: list[_Message] | None = None
    trajectory: list[_Step] | None = None


def read(path: Path, *, sha256: str) -> list[Record]:
    """The records of a ``.traj`` file.

    Args:
        path: the file.
        sha256: of the file, for the header.

    Raises:
        TrajectoryLayoutError: not such a file, or its messages cannot be steps.
        TrajectoryIncomplete: absent, empty or truncated.
    """
    return records_of(parse_json(read_bytes(path), path), path, sha256=sha256)


def records_of(value: Any, path: Path, *, sha256: str) -> list[Record]:
    """The records of a parsed file; raises `TrajectoryLayoutError` as `read` does."""
    history, steps = _parts(value, path)
    main = next((message.get("agent") for message in history if message["role"] == "assistant"), None)
    spoken = [message for message in history if main is None or message.get("agent", main) == main]
    lost = list(LOST_ON_IMPORT)
    if len(spoken) < len(history):
        lost.append(f"{len(history) - len(spoken)} messages of agents other than {main!r}")
    first = next((i for i, message in enumerate(spoken) if _is_answer(message)), len(spoken))
    prompt, turns = spoken[:first], _turns(spoken[first:], path)
    documented = _commands(prompt)
    model = _model_of(value)

    records: list[Record] = []
    clock = 0.0
    for number, (said, answered, step) in enumerate(_aligned(turns, steps, path), start=1):
        clock += _seconds(step)
        records.append(_taken(number, said, step, documented, model))
        records.append(
            Observed(step=number, at=UNKNOWN_TIME, observation=_observation(answered, step), working_seconds=clock)
        )
    if not records:
        raise TrajectoryLayoutError(f"{path} holds no answer of the agent", "name a trajectory with at least one step")
    origin = Origin(format=FORMAT, file=str(path), sha256=sha256, lost=lost, extra=_extra(value))
    header = imported_header(origin, task_id=path.stem, messages=[_message(message) for message in prompt])
    return [header, *records, _outcome(value, records, clock)]


# ---- the file's parts -------------------------------------------------------------------------


def _parts(value: Any, path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Its history and its steps, checked."""
    if not isinstance(value, dict) or not ("history" in value or "trajectory" in value):
        raise TrajectoryLayoutError(
            f"{path} is not a SWE-agent trajectory: no `history` and no `trajectory`", "name a .traj file"
        )
    try:
        msgspec.convert(value, _File)
    except msgspec.ValidationError as error:
        raise TrajectoryLayoutError(f"{path} is not a SWE-agent trajectory: {error}", "name a .traj file") from error
    return value.get("history") or [], value.get("trajectory") or []


def _is_answer(message: dict[str, Any]) -> bool:
    return message["role"] == "assistant" and not message.get("is_demo")


def _turns(messages: list[dict[str, Any]], path: Path) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each answer with the messages that followed it."""
    turns: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    for message in messages:
        if _is_answer(message):
            turns.append((message, []))
        elif message["role"] not in ("tool", "user"):
            raise TrajectoryLayoutError(
                f"{path}: a message of role {message['role']!r} after the agent's first answer", "name a .traj file"
            )
        else:
            turns[-1][1].append(message)
    return turns


def _aligned(
    turns: list[tuple[dict[str, Any], list[dict[str, Any]]]], steps: list[dict[str, Any]], path: Path
) -> list[tuple[dict[str, Any] | None, list[dict[str, Any]], dict[str, Any]]]:
    """Answers and steps side by side. The history may lack the last steps (SWE-agent does not add what
    ends the episode) and steps whose answer was asked for again; a hand-made file has no steps at all."""
    if not steps:
        return [(said, answered, {}) for said, answered in turns]
    rows: list[tuple[dict[str, Any] | None, list[dict[str, Any]], dict[str, Any]]] = []
    left = list(turns)
    for step in steps:
        if left and _same(left[0][0], step):
            said, answered = left.pop(0)
            rows.append((said, answered, step))
        else:
            rows.append((None, [], step))
    if left:
        raise TrajectoryLayoutError(
            f"{path}: answer {len(turns) - len(left) + 1} of the history is not among the {len(steps)} steps",
            "history and trajectory are of different episodes",
        )
    return rows


def _same(said: dict[str, Any], step: dict[str, Any]) -> bool:
    if "action" in said and said["action"] != step["action"]:
        return False
    return "response" not in step or text_of(said.get("content")) == step["response"] or "action" in said


def _commands(prompt: list[dict[str, Any]]) -> frozenset[str]:
    """The commands that the system prompt offers beside the shell's: `name:`, or `name <argument> - what it does`."""
    told = "\n".join(text_of(message.get("content")) for message in prompt if message["role"] == "system")
    return frozenset({"submit", *_DOCUMENTED.findall(told.partition("COMMANDS:")[2].replace("\r", ""))})


# ---- records ----------------------------------------------------------------------------------


def _taken(
    number: int, said: dict[str, Any] | None, step: dict[str, Any], documented: frozenset[str], model: str
) -> ActionTaken:
    calls = (said or {}).get("tool_calls") or []
    text = text_of(said.get("content")) if said is not None else str(step.get("response", ""))
    command = str(step.get("action", (said or {}).get("action", "")))
    return ActionTaken(
        step=number,
        at=UNKNOWN_TIME,
        action=called(calls[0]) if calls else _typed(command, documented),
        text=text,
        tool_calls=calls,
        model=model,
    )


def _typed(command: str, documented: frozenset[str]) -> Action:
    """The action of a command line: one of the commands that the prompt documents, else the shell's."""
    words = command.split(None, 1)
    if not words:
        return Action(name="null", problem="no command in the answer")
    return Action(name=words[0] if words[0] in documented else "bash", arguments={"command": command})


def _observation(answered: list[dict[str, Any]], step: dict[str, Any]) -> Observation:
    """What the model was shown; where it was shown nothing (the last step), what the environment said."""
    raw = step.get("observation")
    text = "\n".join(text_of(message.get("content")) for message in answered) if answered else str(raw or "")
    info: dict[str, Any] = {name: step[name] for name in ("state", "execution_time") if step.get(name) is not None}
    if answered and isinstance(raw, str) and not text.startswith(raw):
        info["observation"] = raw
    return Observation(text=text, info=info)


def _seconds(step: dict[str, Any]) -> float:
    seconds = step.get("execution_time")
    return float(seconds) if isinstance(seconds, int | float) and seconds > 0 else 0.0


def _message(message: dict[str, Any]) -> dict[str, Any]:
    kept = {name: message[name] for name in ("role", "content", "tool_calls") if message.get(name) is not None}
    if message.get("tool_call_ids"):
        kept["tool_call_id"] = message["tool_call_ids"][0]
    return kept


def _outcome(value: dict[str, Any], records: list[Record], clock: float) -> OutcomeReached:
    info = value.get("info") or {}
    stated = info.get("exit_status") if isinstance(info, dict) else None
    last = next(record for record in reversed(records) if isinstance(record, ActionTaken))
    boundary: Boundary | None = None
    status: Status
    if isinstance(stated, str) and stated:
        reason = f"exit status {stated}"
        boundary = next((edge for name, edge in _FAILURES.items() if stated.startswith(name)), None)
        status = "finished" if stated == "submitted" else "failed" if boundary else "truncated"
    elif last.action.name == "submit":
        status, reason = "finished", "the agent submitted"
    else:
        status, reason = "truncated", "the file does not say how the episode ended"
    return OutcomeReached(
        status=status, at=UNKNOWN_TIME, steps=last.step, working_seconds=clock, reason=reason, boundary=boundary
    )


def _extra(value: dict[str, Any]) -> dict[str, Any]:
    """Whatever else the file holds: its environment, statistics, the submission, the configuration."""
    return {name: item for name, item in value.items() if name not in ("history", "trajectory")}


def _model_of(value: dict[str, Any]) -> str:
    """The model's name, which is told only by a configuration kept for replays."""
    config = value.get("replay_config")
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except ValueError:
            return ""
    for name in ("agent", "model", "name"):
        config = config.get(name) if isinstance(config, dict) else None
    return config if isinstance(config, str) else ""
