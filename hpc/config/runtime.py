"""Configuration of the environment that holds vLLM. It never shares an interpreter with this package."""

from __future__ import annotations

from typing import Literal

import msgspec

from hpc.config.base import Config
from hpc.config.secrets import refuse_secret_names, refuse_secret_options


class RuntimeConfig(Config):
    """Where the server's program comes from."""

    kind: Literal["venv", "container", "external"] = "venv"
    """venv: an executable on this file system; container: inside an image; external: started by
    someone else."""
    vllm: str | None = None
    """The vllm executable (venv), or its name inside the image (container). None, for a venv:
    $HPC_SERVE_VENV/bin/vllm, else .venv-serve/bin/vllm beside the checkout, else vllm on PATH."""
    image: str | None = None
    """Container image, for kind container."""
    launcher: list[str] = msgspec.field(default_factory=list)
    """Command in front of the image, such as [apptainer, exec, --nv]."""
    args: list[str] = msgspec.field(default_factory=list)
    """Arguments for vLLM that this kind of hardware needs."""
    env: dict[str, str] = msgspec.field(default_factory=dict)
    """Environment variables for vLLM that this kind of hardware needs; never secrets."""

    def __post_init__(self) -> None:
        if self.kind == "container" and not (self.image and self.launcher):
            raise ValueError("a container needs image and launcher, as in launcher=[apptainer,exec,--nv]")
        if self.kind != "container" and (self.image or self.launcher):
            raise ValueError(f"image and launcher belong to kind container, not {self.kind}")
        refuse_secret_names("env", self.env)
        refuse_secret_options("args", self.args)
