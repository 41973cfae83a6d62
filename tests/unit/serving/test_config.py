from __future__ import annotations

import pytest

from hpc.config.model import ModelConfig
from hpc.config.runtime import RuntimeConfig
from hpc.config.server import RunDirConfig, ServerConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"replicas": 0}, "replicas is 0"),
        ({"name": "a/b"}, "plain folder name"),
        ({"kind": "external"}, "either urls"),
        ({"kind": "external", "urls": ["http://h/v1"], "run": "r"}, "either urls"),
        ({"kind": "external", "urls": ["h:8000"]}, "end in /v1"),
        ({"urls": ["http://h/v1"]}, "kind external"),
        ({"heartbeat_seconds": 20.0}, "at most 10"),
        ({"restart_after": 1}, "degraded_after or more"),
        ({"probe_timeout": 0.0}, "more than 0"),
    ],
)
def test_impossible_servers_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerConfig(**{"name": "s", **fields})  # type: ignore[arg-type]


def test_impossible_models_runtimes_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match="max_model_len is 0"):
        ModelConfig(name="m", path="p", max_model_len=0)
    with pytest.raises(ValueError, match="image and launcher"):
        RuntimeConfig(kind="container")
    with pytest.raises(ValueError, match="belong to kind container"):
        RuntimeConfig(image="x.sif")
    with pytest.raises(ValueError, match="plain folder name"):
        RunDirConfig(name="..")
