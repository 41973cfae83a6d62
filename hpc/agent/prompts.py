"""The opening messages of an episode, from templates/prompts/."""

from __future__ import annotations

from typing import Any

from hpc.core.prompts import read_prompt


def opening_messages(prompt: str, description: str) -> list[dict[str, Any]]:
    """System prompt and task description, as OpenAI messages.

    Args:
        prompt: a file of templates/prompts/ without its ending.
        description: the task's own description.

    Raises:
        ConfigError: there is no such prompt.
    """
    return [
        {"role": "system", "content": read_prompt(prompt, "agent.prompt")},
        {"role": "user", "content": description.strip()},
    ]
