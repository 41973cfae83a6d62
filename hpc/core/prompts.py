"""Shipped prompts: Jinja templates under ``templates/prompts``."""

from __future__ import annotations

from hpc.core.errors import ConfigError
from hpc.core.locate import data_dir


def read_prompt(name: str, setting: str, *, folder: str = "", **values: object) -> str:
    """A prompt's text.

    Args:
        name: the file, without its ending.
        setting: what named it, for the message.
        folder: below ``templates/prompts``.
        values: what the template may use.

    Raises:
        ConfigError: there is no such prompt.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateNotFound

    place = data_dir("templates") / "prompts" / folder
    environment = Environment(loader=FileSystemLoader(place), undefined=StrictUndefined, autoescape=False)
    try:
        template = environment.get_template(f"{name}.j2")
    except TemplateNotFound as error:
        known = ", ".join(sorted(path.stem for path in place.glob("*.j2")))
        raise ConfigError(f"{setting} is {name!r}: no such prompt", f"one of: {known}") from error
    return template.render(**values).strip()
