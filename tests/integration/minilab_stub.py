"""A stand-in for vLLM that plays MiniLab by rule: same command line and API, no weights.

It knows no facts: it tries options in order and obeys ``for VALUE set KNOB to OPTION`` in
``<real_user>`` turns. Everything it does follows from the messages it is sent, as with a model.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hpc.tasks.minilab.facts import KNOBS
from tests.integration import stub_openai

_NEXT = re.compile(r"next (\w+) for ([\w-]+)")
_ADVICE = re.compile(r"for ([\w-]+) set (\w+) to ([\w-]+)")
_OVER = ("all stages passed", "no runs left")


def decide(messages: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The next action of the conversation."""
    told: dict[str, str] = {}
    knob, value, tried, last_action = "", "", [], ""
    over = evaluated = session = False
    for message in messages:
        text = str(message.get("content") or "")
        if message["role"] == "assistant" and message.get("tool_calls"):
            function = message["tool_calls"][0]["function"]
            last_action = str(function["name"])
            session |= last_action == "create_session"
            evaluated |= last_action == "eval"
            if last_action == "edit_file":
                tried.append(json.loads(function["arguments"])["content"].split(": ")[1])
            continue
        if text.startswith("<real_user>"):
            told.update({m.group(1): m.group(3) for m in _ADVICE.finditer(text)})
            continue
        if "interrupted" in text:
            session, last_action = False, "interrupted"
        over |= any(words in text for words in _OVER) and message["role"] == "tool"
        for match in _NEXT.finditer(text):
            if match.group(2) != value:
                knob, value, tried = match.group(1), match.group(2), []
    if over:
        return ("finish", {}) if evaluated else ("eval", {})
    if not session:
        return "create_session", {"session_id": "lab"}
    advised = told.get(value)
    if last_action == "edit_file" and (advised is None or tried[-1] == advised):
        return "run_command", {"command": "python experiment.py", "session_id": "lab", "wait_for_completion": True}
    option = advised or next((o for o in KNOBS[knob] if o not in tried), KNOBS[knob][0])
    line = list(KNOBS).index(knob) + 1
    return "edit_file", {"path": "recipe.yaml", "start": line, "end": line, "content": f"{knob}: {option}"}


class MiniLabStub(stub_openai.Stub):
    """Answers by `decide`."""

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("max_tokens") == 1:
            return super().answer(body)
        name, arguments = decide(body["messages"])
        return {"tools": [[name, arguments]]}


if __name__ == "__main__":
    stub_openai.Stub = MiniLabStub  # type: ignore[misc]
    stub_openai.main()
