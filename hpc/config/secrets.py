"""What no configuration may hold: it is written to config.json, which others may read."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Whole words of a variable's name: HF_TOKEN and AWS_ACCESS_KEY_ID, not TOKENIZERS_PARALLELISM.
_SECRET = re.compile(r"(TOKEN|KEYS?|SECRETS?|PASSWORDS?|CREDENTIALS?)(?![A-Z])", re.IGNORECASE)
_SECRET_OPTIONS = ("--api-key", "--hf-token")


def refuse_secret_names(field: str, names: Iterable[str]) -> None:
    """Refuse environment variables whose names say that their values are secret.

    Raises:
        ValueError: one does; the message holds its name, never its value.
    """
    for name in names:
        if _SECRET.search(name):
            raise ValueError(
                f"{field} has {name!r}, and config.json must hold no secret: "
                f"export {name} in the shell that submits; jobs inherit it"
            )


def refuse_secret_options(field: str, words: Iterable[str]) -> None:
    """Refuse arguments that hand a secret to vLLM; the message never holds it.

    Raises:
        ValueError: there is one.
    """
    for word in words:
        option = word.partition("=")[0].replace("_", "-")
        if option in _SECRET_OPTIONS:
            raise ValueError(
                f"{field} has {option!r}, and config.json must hold no secret: "
                "export the key in the shell that submits and name its variable in server.api_key_env"
            )
