from __future__ import annotations

import pytest

from hpc.config.model import ModelConfig
from hpc.config.runtime import RuntimeConfig
from hpc.config.server import RunDirConfig, ServerConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"replicas": 0}, "replicas is 0"),
        ({"name": "a/b"}, "plain name"),
        ({"name": "a b"}, "plain name"),
        ({"name": ""}, "plain name"),
        ({"name": ".hidden"}, "plain name"),
        ({"name": "a\n"}, "plain name"),
        ({"kind": "external", "urls": ["http://me:pw@h:1/v1"]}, "api_key_env"),
        ({"kind": "external"}, "either urls"),
        ({"kind": "external", "urls": ["http://h/v1"], "run": "r"}, "either urls"),
        ({"kind": "external", "urls": ["h:8000"]}, "ending in /v1"),
        ({"kind": "external", "urls": ["http://h:99999/v1"]}, "http://HOST:PORT/v1"),
        ({"kind": "external", "urls": ["http:///v1"]}, "http://HOST:PORT/v1"),
        ({"kind": "external", "urls": ["http://[h/v1"]}, "http://HOST:PORT/v1"),
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


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "openai_api_key", "AWS_ACCESS_KEY_ID", "DB_PASSWORD", "apiSecret", "MY_CREDENTIALS"]
)
def test_secrets_are_refused_and_never_repeated(name: str) -> None:
    for make in (lambda: ServerConfig(name="s", env={name: "hunter2"}), lambda: RuntimeConfig(env={name: "hunter2"})):
        with pytest.raises(ValueError, match=f"export {name} in the shell that submits") as caught:
            make()
        assert "hunter2" not in str(caught.value)


def test_keys_among_arguments_are_refused() -> None:
    for words in (["--api-key", "hunter2"], ["--api-key=hunter2"]):
        with pytest.raises(ValueError, match="api_key_env") as caught:
            ServerConfig(name="s", extra_args=words)
        assert "hunter2" not in str(caught.value)
        with pytest.raises(ValueError, match="api_key_env"):
            RuntimeConfig(args=words)


def test_ordinary_variables_are_not_taken_for_secrets() -> None:
    env = {"TOKENIZERS_PARALLELISM": "false", "VLLM_MAX_TOKENS_PER_EXPERT": "1", "HF_HOME": "/x"}
    assert ServerConfig(name="s", env=env).env == RuntimeConfig(env=env).env == env
