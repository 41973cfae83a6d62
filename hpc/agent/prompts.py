"""The opening messages of an episode, from templates/prompts/."""

from __future__ import annotations

from typing import Any

from hpc.core.errors import ConfigError
from hpc.core.locate import data_dir


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


def read_prompt(prompt: str, setting: str) -> str:
    """A prompt's text.

    Raises:
        ConfigError: there is no such prompt; ``setting`` is what named it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateNotFound

    folder = data_dir("templates") / "prompts"
    try:
        template = Environment(
            loader=FileSystemLoader(folder), undefined=StrictUndefined, keep_trailing_newline=False, autoescape=False
        ).get_template(f"{prompt}.j2")
    except TemplateNotFound as error:
        known = ", ".join(sorted(path.stem for path in folder.glob("*.j2")))
        raise ConfigError(f"{setting} is {prompt!r}: no such prompt", f"one of: {known}") from error
    return template.render().strip()
