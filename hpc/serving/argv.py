"""From configuration to vLLM's command line and environment. Pure: nothing here touches the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpc.config.model import ModelConfig
from hpc.config.runtime import RuntimeConfig
from hpc.config.server import ServerConfig

API_KEY = "VLLM_API_KEY"


def vllm_argv(
    program: Sequence[str],
    model: ModelConfig,
    server: ServerConfig,
    runtime: RuntimeConfig,
    *,
    model_path: str,
    host: str,
    port: int,
) -> list[str]:
    """The command that serves ``model_path`` on ``host:port``.

    Args:
        program: how to start vLLM, as found by `hpc.serving.preflight.vllm_program`.
        model_path: folder or hub id, as resolved by `hpc.serving.preflight.resolve_model`.
    """
    argv = [*program, "serve", model_path, "--host", host, "--port", str(port)]
    argv += ["--served-model-name", model.name, "--dtype", server.dtype, "--max-num-seqs", str(server.max_num_seqs)]
    if model.tokenizer is not None:
        argv += ["--tokenizer", model.tokenizer]
    if model.max_model_len is not None:
        argv += ["--max-model-len", str(model.max_model_len)]
    for option, size in (
        ("--tensor-parallel-size", server.tensor_parallel),
        ("--pipeline-parallel-size", server.pipeline_parallel),
        ("--data-parallel-size", server.data_parallel),
    ):
        if size > 1:
            argv += [option, str(size)]
    if server.tool_call_parser is not None:
        argv += ["--enable-auto-tool-choice", "--tool-call-parser", server.tool_call_parser]
    if server.chat_template is not None:
        argv += ["--chat-template", server.chat_template]
    # Without a shutdown timeout, SIGTERM answers requests in flight with half a text and HTTP 200.
    argv += ["--shutdown-timeout", str(int(server.drain_seconds))]
    argv += ["--enable-prefix-caching", "--enable-prompt-tokens-details", "--disable-uvicorn-access-log"]
    return [*argv, *runtime.args, *server.extra_args]


def vllm_env(runtime: RuntimeConfig, server: ServerConfig, *, scratch: Path, api_key: str = "") -> dict[str, str]:
    """What is added to the environment; the configuration's own variables win.

    Compiled code is cached in ``scratch``, a folder of this server alone: servers that share a
    cache spoil it for each other. The key goes through the environment because a command line can
    be read by everyone on the node.
    """
    env = {
        "VLLM_CACHE_ROOT": str(scratch / "vllm"),
        "VLLM_CONFIG_ROOT": str(scratch / "config"),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TRITON_CACHE_DIR": str(scratch / "triton"),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if api_key:
        env[API_KEY] = api_key
    return {**env, **runtime.env, **server.env}
