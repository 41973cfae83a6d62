from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hpc.config.model import ModelConfig
from hpc.config.runtime import RuntimeConfig
from hpc.config.server import ServerConfig
from hpc.core.errors import ConfigError, EndpointNotFound, MissingExtra, ServingError
from hpc.serving import preflight


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_folder_must_hold_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        preflight.resolve_model(str(tmp_path / "no"))
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        preflight.resolve_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert preflight.resolve_model(str(tmp_path)) == str(tmp_path)


def test_a_relative_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert preflight.resolve_model("./m") == preflight.resolve_model("m") == str(tmp_path / "m")


def test_a_hub_id_is_left_to_vllm_and_a_shipped_name_is_not() -> None:
    assert preflight.resolve_model("ORG/NAME") == "ORG/NAME"
    with pytest.raises(ConfigError, match="shipped:nothing"):
        preflight.resolve_model("shipped:nothing")


def test_the_program_is_looked_for_where_the_variable_says_first(tmp_path: Path) -> None:
    chosen = executable(tmp_path / "venv" / "bin" / "vllm")
    on_path = executable(tmp_path / "bin" / "vllm")
    runtime = RuntimeConfig()
    environ = {"HPC_SERVE_VENV": str(tmp_path / "venv"), "PATH": str(on_path.parent)}
    assert preflight.vllm_program(runtime, environ) == [str(chosen)]
    with pytest.raises(MissingExtra, match="HPC_SERVE_VENV"):
        preflight.vllm_program(runtime, {**environ, "HPC_SERVE_VENV": str(tmp_path / "none")})
    assert preflight.vllm_program(RuntimeConfig(vllm=str(on_path)), environ) == [str(on_path)]
    with pytest.raises(MissingExtra, match=r"runtime\.vllm"):
        preflight.vllm_program(RuntimeConfig(vllm=str(tmp_path / "none")), environ)


def test_a_container_needs_launcher_and_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "bin" / "apptainer")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    image = tmp_path / "vllm.sif"
    runtime = RuntimeConfig(kind="container", image=str(image), launcher=["apptainer", "exec"])
    with pytest.raises(MissingExtra, match="does not exist"):
        preflight.vllm_program(runtime)
    image.touch()
    assert preflight.vllm_program(runtime) == ["apptainer", "exec", str(image), "vllm"]
    missing = RuntimeConfig(kind="container", image=str(image), launcher=["singularity"])
    with pytest.raises(MissingExtra, match="singularity"):
        preflight.vllm_program(missing)


def test_check_model_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    model = ModelConfig(name="m", path=str(tmp_path))
    runtime = RuntimeConfig(vllm=str(executable(tmp_path / "vllm")))
    preflight.check_model(model, ServerConfig(name="s"), runtime)
    with pytest.raises(ConfigError, match="chat template"):
        preflight.check_model(model, ServerConfig(name="s", chat_template="/no.jinja"), runtime)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        preflight.check_model(model, ServerConfig(name="s", api_key_env="NO_SUCH_KEY"), runtime)
    with pytest.raises(ConfigError, match="runtime is external"):
        preflight.check_model(model, ServerConfig(name="s"), RuntimeConfig(kind="external"))
    elsewhere = ServerConfig(name="s", kind="external", run=str(tmp_path))
    preflight.check_model(ModelConfig(name="m", path="/nowhere"), elsewhere, RuntimeConfig(kind="external"))


@contextlib.contextmanager
def listing(answer: bytes, status: int = 200) -> Iterator[str]:
    """The base URL of a server that gives ``answer`` at /v1/models."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/v1/models"
            self.send_response(status if found else 404)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def check_urls(*urls: str, model: str = "m") -> None:
    server = ServerConfig(name="s", kind="external", urls=list(urls))
    preflight.check_model(ModelConfig(name=model, path="p"), server, RuntimeConfig(kind="external"))


def dead_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def test_an_external_server_must_answer_and_have_the_model() -> None:
    with listing(b'{"data": [{"id": "m"}, {"id": "n"}]}') as url:
        check_urls(url + "/", dead_url())
        with pytest.raises(EndpointNotFound, match="serves m, n, not 'x'"):
            check_urls(dead_url(), url, model="x")


def test_an_external_server_that_is_dead_is_named_with_the_reason() -> None:
    urls = dead_url(), dead_url()
    with pytest.raises(EndpointNotFound, match="ConnectError") as caught:
        check_urls(*urls)
    assert all(url in caught.value.message for url in urls)
    assert "server.urls" in caught.value.hint
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("answer", "status", "words"), [(b"rubbish", 200, "no list of models"), (b"busy", 503, "HTTP 503: busy")]
)
def test_an_external_server_that_answers_rubbish_is_no_server(answer: bytes, status: int, words: str) -> None:
    with listing(answer, status) as url, pytest.raises(EndpointNotFound, match=words):
        check_urls(url)


def test_an_external_server_that_refuses_the_key_says_which_setting_holds_it() -> None:
    with (
        listing(b'{"error": {"message": "no key"}}', 401) as url,
        pytest.raises(ServingError, match="401: no key") as caught,
    ):
        check_urls(url)
    assert "server.api_key_env" in caught.value.hint
