"""The action set: schemas, validation, traits."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from hpc.config.gym import ActionName
from hpc.core.errors import ActionError
from hpc.gym.actions import ACTIONS, RunCommand, Sleep, parse, tool_schemas

GOLDEN = {
    "create_session": "computer_ip session_id* http_port use_proxy",
    "list_sessions": "computer_ip",
    "run_command": "command* session_id* computer_ip http_port wait_for_completion=false use_proxy",
    "input_in_session": "session_id* input_text* computer_ip",
    "get_session_output": "session_id* computer_ip start_lines=50 end_lines since_timestamp",
    "get_session_status": "session_id* computer_ip",
    "check_session_idle": "session_id* computer_ip",
    "close_session": "session_id* computer_ip",
    "open_file": "path* line_number=1 context_lines",
    "edit_file": "path* start=1 end=-1 content*",
    "create_file": 'filename* content=""',
    "search_file": "search_term* file_path*",
    "list_files": 'path="." show_hidden=false',
    "think": "thought*",
    "sleep": "sleep_time*",
    "eval": "",
    "finish": "",
    "null": "",
}


def _signature(tool: dict[str, Any]) -> str:
    parameters = tool["function"]["parameters"]
    words = []
    for name, schema in parameters["properties"].items():
        required = "*" if name in parameters["required"] else ""
        default = f"={json.dumps(schema['default'])}" if "default" in schema else ""
        words.append(f"{name}{required}{default}")
    return " ".join(words)


def test_names_and_parameters_are_researchgyms() -> None:
    assert {tool["function"]["name"]: _signature(tool) for tool in tool_schemas(ACTIONS)} == GOLDEN


def test_configuration_knows_every_action() -> None:
    assert set(get_args(ActionName)) == set(ACTIONS)


def test_schemas_are_plain_json_schema_with_descriptions() -> None:
    for tool in tool_schemas(ACTIONS):
        function = tool["function"]
        assert tool["type"] == "function"
        assert function["description"]
        assert function["parameters"]["additionalProperties"] is False
        for schema in function["parameters"]["properties"].values():
            assert schema["type"] in {"string", "integer", "number", "boolean"}
            assert schema["description"]
    assert "$ref" not in json.dumps(tool_schemas(ACTIONS))


def test_only_enabled_actions_are_offered_in_their_order() -> None:
    assert [tool["function"]["name"] for tool in tool_schemas(["finish", "eval"])] == ["finish", "eval"]


def test_a_good_call_becomes_an_action() -> None:
    action = parse("run_command", {"command": "ls", "session_id": "lab", "wait_for_completion": True}, list(ACTIONS))

    assert action == RunCommand(command="ls", session_id="lab", wait_for_completion=True)
    assert parse("sleep", {"sleep_time": 5}, ["sleep"]) == Sleep(sleep_time=5.0)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("fly", {}, "unknown action 'fly'; known: run_command, sleep, eval"),
        ("think", {"thought": "x"}, "unknown action 'think'; known: run_command, sleep, eval"),
        ("run_command", {"command": "ls"}, "missing argument 'session_id' of run_command; known: command, session_id,"),
        (
            "run_command",
            {"cmd": "ls", "session_id": "lab"},
            "unknown argument 'cmd' of run_command; known: command, session_id,",
        ),
        (
            "run_command",
            {"command": 5, "session_id": "lab"},
            "argument 'command' of run_command: expected str, got",
        ),
        (
            "run_command",
            {"command": "", "session_id": "a"},
            "argument 'command' of run_command: expected str of",
        ),
        (
            "run_command",
            {"command": "ls", "session_id": "a", "wait_for_completion": "yes"},
            "argument 'wait_for_completion' of run_command: expected bool, got str",
        ),
        ("sleep", {"sleep_time": 1801}, "argument 'sleep_time' of sleep: expected float <= 1800.0"),
        ("sleep", {"sleep_time": float("nan")}, "argument 'sleep_time' of sleep: expected float >= 0.0"),
        ("eval", {"why": "now"}, "unknown argument 'why' of eval; known: none"),
    ],
)
def test_a_bad_call_says_what_to_mend(name: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ActionError) as caught:
        parse(name, arguments, ["run_command", "sleep", "eval"])

    assert caught.value.message.startswith(said)


def test_traits() -> None:
    polling = {name for name, kind in ACTIONS.items() if kind.polling}
    changing = {name for name, kind in ACTIONS.items() if not kind.polling and not kind.repeatable}

    assert polling == {"list_sessions", "get_session_output", "get_session_status", "check_session_idle", "sleep"}
    assert changing == {"run_command", "input_in_session", "close_session", "edit_file"}
