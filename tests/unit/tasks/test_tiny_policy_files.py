"""The shipped tiny policy as files: size, architecture, chat template. No model library is needed."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hpc.config.task import TaskConfig
from hpc.core.locate import data_dir
from hpc.tasks.minilab.facts import fact_table

MODEL = data_dir("models") / "minilab-tiny"
SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])


@pytest.fixture(scope="module")
def template() -> Any:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string((MODEL / "chat_template.jinja").read_text())


def as_served(message: dict[str, Any]) -> dict[str, Any]:
    """A message as the server hands it to the template: arguments parsed."""
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message.get("tool_calls", [])
    ]
    return {**message, "tool_calls": calls} if calls else message


def parameters() -> int:
    with (MODEL / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def test_small_enough_to_ship():
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 10_000_000
    assert parameters() <= 6_000_000


def test_architecture_is_one_that_vllm_serves_on_the_cpu():
    config = json.loads((MODEL / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["head_dim"] == 64
    assert config["max_position_embeddings"] >= 4096


def test_no_fact_travels_with_the_policy():
    texts = [path.read_text() for path in MODEL.iterdir() if path.suffix != ".safetensors"]
    for fact in fact_table(TaskConfig().facts_seed).values():
        assert not any(fact.advice in text for text in texts)


def test_template_shows_only_the_names_of_tools(template):
    tools = [{"type": "function", "function": {"name": name, "description": "long"}} for name in ("eval", "finish")]
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    text = template.render(messages=messages, tools=tools, add_generation_prompt=True)
    assert text == "<|system|>S\neval finish<|end|><|user|>U<|end|><|assistant|>"
    assert template.render(messages=messages[1:], tools=None) == "<|user|>U<|end|>"


def test_every_prefix_of_a_conversation_renders_to_a_prefix_of_its_text(template):
    from tiny_policy.teacher import demonstrate

    for seed in range(20):
        demonstration = demonstrate(random.Random(seed))
        tools = [{"type": "function", "function": {"name": name}} for name in demonstration.tools]
        messages = [as_served(message) for message in demonstration.messages]
        whole = template.render(messages=messages, tools=tools)
        for count, message in enumerate(messages):
            if message["role"] == "assistant":
                prompt = template.render(messages=messages[:count], tools=tools, add_generation_prompt=True)
                assert whole.startswith(prompt)


def test_a_tool_call_reads_back_as_it_was_written(template):
    """As text: what the server parsed out of an answer renders to that answer again."""
    arguments = '{"content": "mix: slow – \\"x\\"", "end": 2, "start": 1.5}'
    said = f'<tool_call>{{"name": "edit_file", "arguments": {arguments}}}</tool_call>'
    parsed = json.loads(said.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    message = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": parsed}]}
    assert template.render(messages=[message]) == f"<|assistant|>{said}<|end|>"


def test_malformed_answers_and_guidance_stay_in_the_text(template):
    messages = [
        {"role": "assistant", "content": "<tool_call>{"},
        {"role": "user", "content": "error: no tool call"},
        {"role": "user", "content": "<real_user>use slow</real_user>"},
        {"role": "tool", "content": "[exit 0]"},
    ]
    assert template.render(messages=messages) == (
        "<|assistant|><tool_call>{<|end|><|user|>error: no tool call<|end|>"
        "<|user|><real_user>use slow</real_user><|end|><|tool|>[exit 0]<|end|>"
    )
