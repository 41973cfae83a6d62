from __future__ import annotations

from pathlib import Path

import pytest

from hpc.config.model import ModelConfig
from hpc.config.runtime import RuntimeConfig
from hpc.config.server import ServerConfig
from hpc.serving.argv import vllm_argv, vllm_env

GOLDEN = Path(__file__).parent / "golden"

CPU = RuntimeConfig(
    args=["--enforce-eager", "--block-size", "32"], env={"VLLM_CPU_KVCACHE_SPACE": "1", "TORCH_COMPILE_DISABLE": "1"}
)
CONTAINER = RuntimeConfig(kind="container", image="/images/vllm.sif", launcher=["apptainer", "exec", "--nv"])

CASES = {
    "cpu": (
        ["/venv/bin/vllm"],
        ModelConfig(name="minilab-tiny", path="shipped:minilab-tiny"),
        ServerConfig(name="tiny", dtype="float32", max_num_seqs=32),
        CPU,
    ),
    "gpu": (
        ["/venv/bin/vllm"],
        ModelConfig(name="policy", path="/models/policy", tokenizer="/models/tok", max_model_len=65536),
        ServerConfig(
            name="policy",
            tensor_parallel=4,
            pipeline_parallel=2,
            data_parallel=2,
            max_num_seqs=128,
            tool_call_parser="qwen3_xml",
            chat_template="/models/chat.jinja",
            drain_seconds=90,
            extra_args=["--gpu-memory-utilization", "0.9"],
            env={"NCCL_DEBUG": "WARN"},
            api_key_env="POLICY_KEY",
        ),
        RuntimeConfig(env={"HF_HUB_OFFLINE": "1"}),
    ),
    "apptainer": (
        ["apptainer", "exec", "--nv", "/images/vllm.sif", "vllm"],
        ModelConfig(name="policy", path="ORG/NAME"),
        ServerConfig(name="policy", tool_call_parser=None),
        CONTAINER,
    ),
}


def _script(case: str) -> str:
    program, model, server, runtime = CASES[case]
    argv = vllm_argv(program, model, server, runtime, model_path=f"/resolved/{case}", host="10.0.0.7", port=40123)
    key = "secret" if server.api_key_env else ""
    env = vllm_env(runtime, server, scratch=Path("/tmp/scratch"), api_key=key)
    words, lines = list(argv), []
    while words:
        take = next((i for i, word in enumerate(words[1:], 1) if word.startswith("--")), len(words))
        lines.append(" ".join(words[:take]))
        words = words[take:]
    return "\n".join([*(f"{name}={value}" for name, value in sorted(env.items())), "", *lines]) + "\n"


@pytest.mark.parametrize("case", CASES)
def test_command_line_and_environment_are_the_golden_ones(case: str) -> None:
    assert _script(case) == (GOLDEN / f"{case}.txt").read_text()


def test_the_key_is_not_on_the_command_line() -> None:
    assert "secret" not in _script("gpu").split("\n\n")[1]


def test_configuration_overrides_built_in_environment() -> None:
    server = ServerConfig(name="s", env={"VLLM_CACHE_ROOT": "/fast", "A": "server"})
    env = vllm_env(RuntimeConfig(env={"A": "runtime"}), server, scratch=Path("/tmp/x"))
    assert env["VLLM_CACHE_ROOT"] == "/fast"
    assert env["A"] == "server"
