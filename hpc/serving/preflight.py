"""What can be known before anything starts: where a server's program and its weights are, and whether
an external one answers."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from hpc.config.model import ModelConfig
from hpc.config.runtime import RuntimeConfig
from hpc.config.server import ServerConfig
from hpc.core.errors import ConfigError, EndpointNotFound, MissingExtra
from hpc.core.locate import data_dir
from hpc.serving.answers import TryAgain, read_response, request_body
from hpc.serving.probe import no_answer, require_model
from hpc.serving.registry import Endpoint

SHIPPED = "shipped:"
VENV_VARIABLE = "HPC_SERVE_VENV"
MEND_URLS = "start that server, or mend server.urls"
ANSWER_SECONDS = 5.0


def check_model(model: ModelConfig, server: ServerConfig, runtime: RuntimeConfig) -> None:
    """Find on the login node what would otherwise fail in the log of a job.

    Raises:
        ConfigError: the weights, the chat template or the key are not there.
        MissingExtra: the runtime is not there.
        EndpointNotFound: no url of an external server answers, or one serves other models.
        ServingError: an external server refuses the key, or gives no token ids where they are asked for.
    """
    key = api_key(server)
    if server.kind == "external":
        if server.urls:
            _check_urls(server, model.name, key)
        return
    if runtime.kind == "external":
        raise ConfigError(
            f"server {server.name!r} is to be started, but the runtime is external",
            "choose runtime=cpu, cuda or apptainer, or server=external",
        )
    resolve_model(model.path)
    chat_template(server)
    vllm_program(runtime)


def _check_urls(server: ServerConfig, model: str, key: str) -> None:
    """One url that answers is enough: the others may be on their way up."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    with httpx.Client(headers=headers, timeout=ANSWER_SECONDS, trust_env=False) as http:

        def problem(url: str) -> str:
            try:
                require_model(url, http.get(f"{url}/models"), model)
                if server.token_ids:
                    _require_tokens(http, Endpoint(server=server.name, replica=0, url=url, model=model))
            except (httpx.HTTPError, ValueError) as error:
                return f"{url}: {no_answer(error)}"
            return ""

        with ThreadPoolExecutor(max_workers=min(16, len(server.urls))) as pool:
            problems = list(pool.map(problem, [url.rstrip("/") for url in server.urls]))
    if all(problems):
        raise EndpointNotFound(f"no url of server {server.name!r} answers: {'; '.join(problems)}", MEND_URLS)


def _require_tokens(http: httpx.Client, endpoint: Endpoint) -> None:
    """Ask for one token. Only a whole answer without ids is held against the server: a busy one may be slow.

    Raises:
        ServingError: its answers hold no token ids, so that every episode would fail at its first step.
    """
    hello = [{"role": "user", "content": "hello"}]
    sampling = {"max_tokens": 1}
    body = request_body(hello, [], model=endpoint.model, sampling=sampling, episode="", token_ids=True)
    with contextlib.suppress(httpx.TimeoutException, TryAgain):
        response = http.post(f"{endpoint.url}/chat/completions", json=body)
        if response.status_code == 200:
            read_response(response, endpoint, token_ids=True, seconds=0.0)


def resolve_model(path: str) -> str:
    """The absolute folder of a model, or the hub id as it is.

    Raises:
        ConfigError: a folder that is not there or holds no model.
    """
    if path.startswith(SHIPPED):
        folder = data_dir("models") / path.removeprefix(SHIPPED)
        hint = f"name one of: {', '.join(_shipped()) or 'none is shipped in this installation'}"
    elif path.startswith(("/", "./", "../", "~")) or Path(path).is_dir():
        folder = Path(path).expanduser().absolute()
        hint = "set model.path to a folder that holds config.json and the weights"
    else:
        return path
    if not (folder / "config.json").is_file():
        what = "holds no config.json" if folder.is_dir() else "does not exist"
        raise ConfigError(f"model {path!r} {what} ({folder})", hint)
    return str(folder)


def resolve_tokenizer(path: str | None) -> str | None:
    """The absolute folder of a tokenizer, or the hub id as it is."""
    if path is None:
        return None
    folder = data_dir("models") / path.removeprefix(SHIPPED) if path.startswith(SHIPPED) else Path(path).expanduser()
    return str(folder.absolute()) if folder.is_dir() else path


def _shipped() -> list[str]:
    return sorted(entry.parent.name for entry in data_dir("models").glob("*/config.json"))


def chat_template(server: ServerConfig) -> str | None:
    """The absolute path of the server's chat template.

    Raises:
        ConfigError: there is no such file.
    """
    if server.chat_template is None:
        return None
    path = Path(server.chat_template).expanduser().absolute()
    if not path.is_file():
        raise ConfigError(f"chat template {path} does not exist", "mend server.chat_template, or set it to null")
    return str(path)


def vllm_program(runtime: RuntimeConfig, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The words that start vLLM in this runtime.

    Raises:
        MissingExtra: it is not installed where the configuration looks.
    """
    if runtime.kind == "container":
        launcher, image = list(runtime.launcher), str(runtime.image)
        if shutil.which(launcher[0]) is None:
            raise MissingExtra(
                f"container launcher {launcher[0]!r} is not on PATH", "load its module or set runtime.launcher"
            )
        if "://" not in image and not Path(image).expanduser().exists():
            raise MissingExtra(f"container image {image} does not exist", "set runtime.image to the image")
        return [*launcher, image, runtime.vllm or "vllm"]
    if runtime.vllm is not None:
        named = shutil.which(str(Path(runtime.vllm).expanduser()))
        if named is None:
            raise MissingExtra(f"runtime.vllm is {runtime.vllm}, which is no executable", "mend runtime.vllm")
        return [str(Path(named).absolute())]
    return [_venv_program(environ)]


def _venv_program(environ: Mapping[str, str]) -> str:
    if chosen := environ.get(VENV_VARIABLE):
        program = Path(chosen).expanduser() / "bin" / "vllm"
        if not os.access(program, os.X_OK):
            raise MissingExtra(
                f"{VENV_VARIABLE} is {chosen}, where bin/vllm does not exist", "make it with scripts/setup-serve"
            )
        return str(program.absolute())
    beside = data_dir("configs").parent / ".venv-serve" / "bin" / "vllm"
    if os.access(beside, os.X_OK):
        return str(beside)
    if found := shutil.which("vllm", path=environ.get("PATH")):
        return str(Path(found).absolute())
    raise MissingExtra(
        f"no vLLM: {VENV_VARIABLE} is not set, {beside} does not exist and vllm is not on PATH",
        "run scripts/setup-serve, or set HPC_SERVE_VENV or runtime.vllm",
    )


def api_key(server: ServerConfig, environ: Mapping[str, str] = os.environ) -> str:
    """The key that the server asks of its clients; empty for none.

    Raises:
        ConfigError: the configuration names a variable that is not set.
    """
    if server.api_key_env is None:
        return ""
    key = environ.get(server.api_key_env, "")
    if not key:
        raise ConfigError(
            f"server.api_key_env names {server.api_key_env}, which is not set",
            f"export {server.api_key_env}, or set server.api_key_env=null",
        )
    return key
