"""What every section that may name an OpenAI-compatible endpoint of its own must get right."""

from __future__ import annotations

import re


def check_endpoint(url: str | None, model: str | None, api_key_env: str | None) -> None:
    """Raise unless the three fit each other: all null, or a URL with the name of the model there.

    Raises:
        ValueError: they do not; the message names the field.
    """
    if (url is None) != (model is None):
        raise ValueError(f"url is {url!r} and model is {model!r}: set both, or neither for the run's own")
    if api_key_env is not None and url is None:
        raise ValueError("api_key_env belongs to url, which is null")
    if url is not None and ("@" in url or not re.fullmatch(r"https?://[^/]+(/.+)?/v1/?", url)):
        raise ValueError("url must be as in http://HOST:PORT/v1, and hold no user or password")
