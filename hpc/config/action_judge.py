"""Configuration of the judge of actions: a language model that lists facts, from which a verdict follows."""

from __future__ import annotations

from hpc.config.base import Config
from hpc.config.endpoint import check_endpoint


class ActionJudgeConfig(Config):
    """Who is asked about an agent's actions, how much it is shown, and for how much."""

    batch: int = 5
    """Steps that one question is about."""
    context: int = 8
    """So many steps before them are shown as well."""
    characters: int = 600
    """Characters of an action and of an observation that it is shown, each."""
    answer_tokens: int = 1200
    """Longest answer, tokens."""
    attempts: int = 2
    """An answer that is not of the form is asked for again, up to so many times in all."""
    calls: int = 1000
    """Budget of one job: so many requests."""
    tokens: int = 5_000_000
    """Budget of one job: no request once so many tokens are used, prompts and answers."""
    parallel: int = 4
    """Questions under way at a time."""
    wait_seconds: float = 300.0
    """How long an answer is waited for."""
    prompt: str = "facts"
    """File of templates/prompts/actions/ without its ending."""
    url: str | None = None
    """OpenAI-compatible endpoint, ends in /v1; null: the run's own server."""
    model: str | None = None
    """Name of the model there; null with ``url``: the run's own model."""
    api_key_env: str | None = None
    """Environment variable that holds the key of ``url``."""

    def __post_init__(self) -> None:
        for name in ("batch", "characters", "answer_tokens", "attempts", "calls", "tokens", "parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        if self.context < 0:
            raise ValueError(f"context is {self.context}, it must be 0 or more")
        if not self.wait_seconds > 0:
            raise ValueError(f"wait_seconds is {self.wait_seconds}, it must be above 0")
        check_endpoint(self.url, self.model, self.api_key_env)
