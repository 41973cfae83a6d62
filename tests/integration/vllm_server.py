"""Fixtures: a real vLLM on the CPU, started once per test process.

The runtime is found as the product finds it (HPC_SERVE_VENV, .venv-serve, PATH); without one these
tests are skipped, but never under CI. The model is the shipped tiny policy, or one with random weights.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc.config import compose
from hpc.config.model import ModelConfig
from hpc.config.server import ServerRunConfig
from hpc.core.errors import ConfigError, MissingExtra
from hpc.serving import preflight
from tests.integration.serving_run import Served, make_run, serving

BOOT_SECONDS = 300.0
QUICK_PROBES = 1.0
"""Seconds, for servers that are to fall ill. Not for one that lives on: an engine spins for a second
after each request, so that probes every second keep a core busy."""


@pytest.fixture(scope="session")
def vllm_config(tmp_path_factory: pytest.TempPathFactory) -> ServerRunConfig:
    """The shipped configuration of the tiny server."""
    config: ServerRunConfig = compose("server")
    try:
        program = Path(preflight.vllm_program(config.runtime)[0])
    except MissingExtra as error:
        if os.environ.get("CI"):  # there it is installed: a skip would hide a broken set-up
            raise
        pytest.skip(f"no serve runtime: {error}")
    try:
        preflight.resolve_model(config.model.path)
    except ConfigError:
        folder = tmp_path_factory.mktemp("random-model")
        script = Path(__file__).with_name("make_random_model.py")
        python = program.with_name("python")
        subprocess.run([python, script, folder], check=True, capture_output=True, timeout=300)
        return compose("server", ["model=custom", "model.name=random", f"model.path={folder}"])
    return config


@pytest.fixture(scope="session")
def vllm_model(vllm_config: ServerRunConfig) -> ModelConfig:
    return vllm_config.model


@pytest.fixture(scope="session")
def vllm_served(vllm_config: ServerRunConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A READY server; do not break it."""
    run = make_run(tmp_path_factory.mktemp("vllm"))
    with serving(run, vllm_config.server, vllm_config.model, vllm_config.runtime) as served:
        served.wait_endpoint(BOOT_SECONDS)
        yield served
