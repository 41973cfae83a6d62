"""Configuration of model servers, and the root of `hpc server launch`."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from hpc.config.base import Config, require_plain
from hpc.config.cluster import ClusterConfig
from hpc.config.model import ModelConfig
from hpc.config.runtime import RuntimeConfig
from hpc.config.secrets import refuse_secret_names, refuse_secret_options

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ServerConfig(Config):
    """A server of one model, as a number of equal replicas."""

    name: str
    """Name under which its endpoints are published."""
    kind: Literal["vllm", "external"] = "vllm"
    """vllm: jobs of this run serve it; external: it is there already."""
    replicas: int = 1
    """Servers with the same weights; episodes are spread over them."""
    urls: list[str] = msgspec.field(default_factory=list)
    """external: base URLs that end in /v1."""
    run: str | None = None
    """external: run directory of `hpc server launch` whose server of this name is used, instead of
    urls; its endpoints may move from node to node."""
    host: str | None = None
    """Address to listen on and to publish; None: 127.0.0.1 for jobs on this machine, the node's own
    address under Slurm."""
    tensor_parallel: int = 1
    """GPUs over which each layer is split."""
    pipeline_parallel: int = 1
    """GPUs over which the layers are dealt out."""
    data_parallel: int = 1
    """Engines behind one address."""
    dtype: str = "auto"
    """Number format of the weights: auto, bfloat16, float16 or float32."""
    max_num_seqs: int = 64
    """Requests generated at the same time; more wait in the server."""
    tool_call_parser: str | None = "hermes"
    """vLLM's parser of tool calls for this model; None: tools are not parsed."""
    chat_template: str | None = None
    """File with a Jinja chat template; None: the tokenizer's own."""
    extra_args: list[str] = msgspec.field(default_factory=list)
    """Further arguments for `vllm serve`; they come last and win."""
    env: dict[str, str] = msgspec.field(default_factory=dict)
    """Further environment variables for the server; secrets are exported in the shell that submits."""
    token_ids: bool = True
    """Ask for token ids and log-probabilities; false for endpoints that are not vLLM. Training needs
    them."""
    request_seconds: float = 900.0
    """A single answer that takes longer is given up and asked for again."""
    ready_timeout: float = 1800.0
    """Seconds from start to the first generated token before the server counts as failed."""
    heartbeat_seconds: float = 5.0
    """How often a published endpoint is renewed."""
    probe_seconds: float = 15.0
    """How often one token is generated to see that the engine lives."""
    probe_timeout: float = 30.0
    """A probe without an answer for so many seconds has failed, unless the engine generates for
    others."""
    degraded_after: int = 2
    """So many failed probes in a row withdraw the endpoint."""
    restart_after: int = 4
    """So many failed probes in a row restart the server."""
    max_restarts: int = 3
    """Restarts in a job's life before it gives up."""
    drain_seconds: float = 30.0
    """How long requests in flight may take to finish when the server stops."""
    api_key_env: str | None = None
    """Environment variable that holds the key which the server asks of its clients."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name is {self.name!r}, it must be a plain name of A-Z a-z 0-9 . _ -, as in policy")
        whole = ("replicas", "tensor_parallel", "pipeline_parallel", "data_parallel", "max_num_seqs", "degraded_after")
        for field in whole:
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}, it must be 1 or more")
        seconds = ("request_seconds", "ready_timeout", "heartbeat_seconds", "probe_seconds", "probe_timeout")
        for field in seconds:
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} is {getattr(self, field)}, it must be more than 0")
        if self.restart_after < self.degraded_after:
            raise ValueError(f"restart_after is {self.restart_after}, it must be degraded_after or more")
        if self.max_restarts < 0 or self.drain_seconds < 0:
            raise ValueError("max_restarts and drain_seconds must be 0 or more")
        if self.heartbeat_seconds > 10:
            raise ValueError(f"heartbeat_seconds is {self.heartbeat_seconds}, endpoints go stale after 30: at most 10")
        if self.kind == "external" and bool(self.urls) == bool(self.run):
            raise ValueError("an external server needs either urls, as in urls=[http://HOST:PORT/v1], or run")
        if self.kind == "vllm" and (self.urls or self.run):
            raise ValueError("urls and run belong to kind external")
        for url in self.urls:
            _check_url(url)
        refuse_secret_names("env", self.env)
        refuse_secret_options("extra_args", self.extra_args)


def _check_url(url: str) -> None:
    if "@" in url:
        raise ValueError("urls has one that holds a user or password: name the key's variable in api_key_env")
    try:
        parts = urlsplit(url)
        reachable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no port, brackets around what is no address
        reachable = False
    if not reachable or not url.rstrip("/").endswith("/v1"):
        raise ValueError(f"urls has {url!r}, each must be as in http://HOST:PORT/v1: http or https, ending in /v1")


class RunDirConfig(Config):
    """Where a launch writes."""

    name: str | None = None
    """Name of the run directory; None: SERVER-<date>-<time>."""
    root: str = "runs"
    """Folder of run directories."""

    def __post_init__(self) -> None:
        require_plain(self.name)


class ServerRunConfig(Config):
    """The replicas of one server and nothing else."""

    run: RunDirConfig
    cluster: ClusterConfig
    runtime: RuntimeConfig
    model: ModelConfig
    server: ServerConfig
