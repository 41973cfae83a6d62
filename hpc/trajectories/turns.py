"""How a trajectory's records read as messages of a chat: the same rule for the agent and for exports."""

from __future__ import annotations

from typing import Any

from hpc.trajectories.records import ActionTaken, Observed

_OPEN, _CLOSE = "<real_user>", "</real_user>"


def real_user(text: str) -> str:
    """Guidance as the model reads it. A closing tag inside the text cannot end the block early."""
    return f"{_OPEN}{text.replace(_CLOSE, '')}{_CLOSE}"


def guidance_in(text: str) -> str:
    """The guidance in a user turn, without the marks of `real_user` if it has them."""
    stripped = text.strip()
    if stripped.startswith(_OPEN) and stripped.endswith(_CLOSE):
        return stripped[len(_OPEN) : -len(_CLOSE)]
    return text


def answer_message(taken: ActionTaken) -> dict[str, Any]:
    """The assistant's message of a step: what the model wrote and the one tool call that was taken."""
    message: dict[str, Any] = {"role": "assistant", "content": taken.text}
    if taken.tool_calls:
        message["tool_calls"] = taken.tool_calls[:1]  # one action a step
    return message


def result_message(taken: ActionTaken, observed: Observed) -> dict[str, Any]:
    """The message that tells the model what its action led to."""
    if taken.tool_calls:
        call = str(taken.tool_calls[0].get("id", ""))
        return {"role": "tool", "tool_call_id": call, "content": observed.observation.text}
    return {"role": "user", "content": observed.observation.text}
