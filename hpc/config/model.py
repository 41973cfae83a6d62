"""Configuration of the model that a server serves."""

from __future__ import annotations

from hpc.config.base import Config


class CostsConfig(Config):
    """What answers of a model cost; None where nobody knows, and then the trajectory does not say it."""

    prompt: float | None = None
    """US dollars for a million tokens of prompts."""
    cached: float | None = None
    """The same for those that the server had in its cache; None: as the others."""
    answer: float | None = None
    """US dollars for a million tokens of answers."""
    gpus: int | None = None
    """GPUs of one replica, for GPU seconds."""

    def __post_init__(self) -> None:
        for name in ("prompt", "cached", "answer", "gpus"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}, it must be 0 or more, or null")


class ModelConfig(Config):
    """A model in Hugging Face format and the name under which it is served."""

    name: str
    """Name that clients ask for."""
    path: str
    """Folder, `shipped:NAME` (a model that travels with apollo-hpc) or a hub id such as `ORG/NAME`."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer; None: the model's own."""
    max_model_len: int | None = None
    """Longest context, tokens; None: what the model was made for."""
    costs: CostsConfig = CostsConfig()
    """What its answers cost."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name is empty, clients need one to ask for")
        if not self.path:
            raise ValueError("path is empty, name a folder, shipped:NAME or a hub id")
        if self.max_model_len is not None and self.max_model_len < 1:
            raise ValueError(f"max_model_len is {self.max_model_len}, it must be 1 or more, or null")
