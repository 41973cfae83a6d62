"""The whole serving stack with the real vLLM on the CPU."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from hpc.config.server import ServerRunConfig
from hpc.core.errors import ServingError
from hpc.serving.client import ModelClient, wait_ready
from hpc.serving.preflight import resolve_model
from hpc.serving.probe import Prober
from hpc.serving.registry import Registry
from tests.integration.serving_run import Served, make_run, serving, until
from tests.integration.vllm_server import BOOT_SECONDS, QUICK_PROBES

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600), pytest.mark.xdist_group("vllm")]

ASK = [{"role": "user", "content": "what now?"}]
TOOL = {
    "type": "function",
    "function": {"name": "eval", "description": "Evaluate.", "parameters": {"type": "object", "properties": {}}},
}
CALL = '<tool_call>\n{"name": "eval", "arguments": {}}\n</tool_call>'


def client(served: Served, **sampling: Any) -> ModelClient:
    return ModelClient(
        Registry(served.run, served.server),
        model=served.supervisor.model.name,
        sampling={"max_tokens": 24, **sampling},
        episode="run-00000",
        wait_seconds=120,
    )


def score(served: Served, prompt: list[int], answer: list[int]) -> list[float]:
    """The engine's log-probabilities of ``answer`` after ``prompt``, asked for in another way."""
    endpoint = served.wait_endpoint()
    body = {
        "model": served.supervisor.model.name,
        "prompt": prompt + answer,
        "max_tokens": 1,
        "prompt_logprobs": 0,
        "temperature": 0,
    }
    response = httpx.post(f"{endpoint.url}/completions", json=body, timeout=60)
    response.raise_for_status()
    entries = response.json()["choices"][0]["prompt_logprobs"][len(prompt) :]
    return [entry[str(token)]["logprob"] for entry, token in zip(entries, answer, strict=True)]


async def test_ready_means_that_it_generates(vllm_served: Served) -> None:
    endpoint = vllm_served.wait_endpoint()
    assert endpoint.max_model_len > 0
    state = vllm_served.wait_state("READY")
    assert Path(state.log).stat().st_size > 0
    model = vllm_served.supervisor.model.name
    assert await wait_ready(vllm_served.run, vllm_served.supervisor.server, model=model, timeout=5)
    with contextlib.closing(Prober(endpoint.url, model)) as prober:
        assert prober.generate().verdict == "answered"


async def test_ids_and_logprobs_are_the_engines_own(vllm_served: Served) -> None:
    model = client(vllm_served, temperature=1.0, seed=7)
    answer = await model.complete(ASK, [TOOL])
    again = await model.complete(ASK, [TOOL])
    await model.close()
    assert answer.prompt_token_ids
    assert 0 < len(answer.token_ids) == len(answer.logprobs)
    assert again.token_ids == answer.token_ids  # the same seed for the same step
    scored = await asyncio.to_thread(score, vllm_served, answer.prompt_token_ids, answer.token_ids)
    assert answer.logprobs == pytest.approx(scored, abs=1e-3)


async def test_the_end_of_turn_token_is_among_the_ids(vllm_served: Served) -> None:
    model = client(vllm_served, structured_outputs={"choice": ["done"]})
    answer = await model.complete(ASK, [])
    await model.close()
    assert (answer.text, answer.finish_reason) == ("done", "stop")
    assert len(answer.token_ids) == len(answer.logprobs)
    endpoint = vllm_served.wait_endpoint()
    body = {"model": answer.model, "tokens": answer.token_ids}
    async with httpx.AsyncClient() as http:
        response = await http.post(f"{endpoint.url.removesuffix('/v1')}/detokenize", json=body)
    text = response.json()["prompt"]
    assert text.startswith("done")
    assert len(text) > len("done")


async def test_a_tool_call_is_parsed(vllm_served: Served) -> None:
    model = client(vllm_served, max_tokens=200, structured_outputs={"choice": [CALL]})
    answer = await model.complete(ASK, [TOOL])
    await model.close()
    assert answer.finish_reason == "tool_calls"
    assert [call["function"]["name"] for call in answer.tool_calls] == ["eval"]
    assert msgspec.json.decode(answer.tool_calls[0]["function"]["arguments"]) == {}
    after = [
        *ASK,
        {"role": "assistant", "content": answer.text, "tool_calls": answer.tool_calls},
        {"role": "tool", "tool_call_id": answer.tool_calls[0]["id"], "content": "score 0.0"},
    ]
    model = client(vllm_served)
    assert (await model.complete(after, [TOOL])).token_ids
    await model.close()


async def test_many_at_once(vllm_served: Served) -> None:
    models = [client(vllm_served, temperature=1.0) for _ in range(12)]
    answers = await asyncio.gather(*(model.complete(ASK, [TOOL]) for model in models))
    for model in models:
        await model.close()
    assert all(len(answer.token_ids) == len(answer.logprobs) > 0 for answer in answers)


async def test_refusals_are_final(vllm_served: Served) -> None:
    model = client(vllm_served)
    limit = vllm_served.wait_endpoint().max_model_len
    with pytest.raises(ServingError, match="HTTP 400") as caught:
        await model.complete([{"role": "user", "content": "go on " * limit}], [])
    await model.close()
    assert "context" in caught.value.hint


def test_a_killed_engine_is_withdrawn_restarted_and_drained(vllm_config: ServerRunConfig, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    shared = set(os.listdir("/dev/shm"))
    server = msgspec.structs.replace(vllm_config.server, probe_seconds=QUICK_PROBES)
    with serving(run, server, vllm_config.model, vllm_config.runtime) as served:
        first = served.wait_endpoint(BOOT_SECONDS)
        engine = next(
            process for process in psutil.Process(first.pid).children(recursive=True) if "Engine" in process.name()
        )
        engine.kill()
        # two probes may fail before its process is seen to have ended
        until(lambda: served.state is not None and "restart 1 of" in served.state.reason, "the restart")
        until(lambda: not run.endpoint(served.server, 0).exists(), "the withdrawal")
        second = served.wait_endpoint(BOOT_SECONDS)
        assert second.pid != first.pid

        answer = asyncio.run(_stop_in_the_middle(served, second.max_model_len))
        assert answer["finish_reason"] == "length"
        assert served.wait_outcome() == "stopped"
        assert not run.endpoint(served.server, 0).exists()
        assert not psutil.pid_exists(second.pid)
    assert set(os.listdir("/dev/shm")) <= shared


async def _stop_in_the_middle(served: Served, limit: int) -> dict[str, Any]:
    """Ask for a long answer, stop the server while it is being written; the answer."""
    endpoint = served.wait_endpoint()
    body = {
        "model": served.supervisor.model.name,
        "messages": ASK,
        "max_tokens": limit // 4,
        "ignore_eos": True,
        "temperature": 1.0,
    }
    prober = Prober(endpoint.url, endpoint.model)
    async with httpx.AsyncClient(timeout=120) as http:
        request = asyncio.create_task(http.post(f"{endpoint.url}/chat/completions", json=body))

        def at_work() -> bool:
            metrics = prober.metrics()
            return metrics is not None and metrics.running > 0

        await asyncio.to_thread(until, at_work, "the request")
        served.supervisor.stop("preempt")
        assert not request.done()
        response = await request
    prober.close()
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


@pytest.mark.parametrize("damage", ["config", "weights"])
def test_a_damaged_model_fails_with_the_reason(vllm_config: ServerRunConfig, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    source = Path(resolve_model(vllm_config.model.path))
    for path in source.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    if damage == "config":
        (folder / "config.json").write_text('{"model_type": "no-such-architecture"}')
        expected = ("no-such-architecture",)
    else:
        (folder / "model.safetensors").write_bytes(b"\0" * 64)
        expected = ("afetensor", "Expecting value")  # the loader's words, or those of whoever reads the header first
    model = msgspec.structs.replace(vllm_config.model, path=str(folder))
    with serving(make_run(tmp_path), vllm_config.server, model, vllm_config.runtime) as served:
        assert served.wait_outcome(BOOT_SECONDS) == "failed"
        assert any(words in served.supervisor.reason for words in expected)
        assert served.endpoint() is None
        state = served.state
        assert state is not None
        assert state.state == "FAILED"
