"""The client against real HTTP endpoints that break in every way a server breaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpc.config.agent import SamplingConfig
from hpc.config.server import ServerConfig
from hpc.core.errors import EndpointNotFound, ServerNotReady, ServingError
from hpc.rundir import RunDir
from hpc.serving import registry
from hpc.serving.choice import preference
from hpc.serving.client import ModelClient, wait_ready
from hpc.serving.registry import Endpoint, Registry, ServerState
from tests.integration.serving_run import make_run, until
from tests.integration.stub_openai import END, StubHandle, start_stub

ASK = [{"role": "user", "content": "what now?"}]
TOOL = {"type": "function", "function": {"name": "eval", "parameters": {"type": "object", "properties": {}}}}
SERVER = ServerConfig(name="s")


@pytest.fixture
def stubs() -> Iterator[list[StubHandle]]:
    """Two replicas."""
    with ExitStack() as stack:
        yield [stack.enter_context(start_stub()) for _ in range(2)]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path)


def endpoint(stub: StubHandle | str, replica: int = 0, **fields: Any) -> Endpoint:
    url = stub if isinstance(stub, str) else stub.url
    values = {"model": "stub", "heartbeat": time.time(), "started_at": 1.0, **fields}
    return Endpoint(server="s", replica=replica, url=url, **values)


def publish(run: RunDir, stubs: list[StubHandle]) -> list[Endpoint]:
    endpoints = [endpoint(stub, replica) for replica, stub in enumerate(stubs)]
    for one in endpoints:
        registry.publish(run, one)
    return endpoints


def client(run: RunDir, *, episode: str = "run-00000", wait_seconds: float = 20.0, **options: Any) -> ModelClient:
    source = Registry(run, "s")
    return ModelClient(
        source,
        model=options.pop("model", "stub"),
        sampling={"max_tokens": 64, "seed": 1},
        episode=episode,
        wait_seconds=wait_seconds,
        failure=source.failure,
        **options,
    )


def by_preference(endpoints: list[Endpoint], stubs: list[StubHandle], episode: str = "run-00000") -> list[StubHandle]:
    return [stubs[one.replica] for one in preference(endpoints, episode)]


async def test_an_answer_carries_ids_logprobs_and_tool_calls(run: RunDir, stubs: list[StubHandle]) -> None:
    publish(run, stubs)
    for stub in stubs:
        stub.script({"text": "thinking", "tools": [["eval", {}]]})
    model = client(run)
    answer = await model.complete(ASK, [TOOL])
    await model.close()
    assert answer.text == "thinking"
    assert answer.tool_calls[0]["function"] == {"name": "eval", "arguments": "{}"}
    assert answer.prompt_token_ids == list(b"what now?")
    assert answer.token_ids[-1] == END
    assert len(answer.logprobs) == len(answer.token_ids)
    assert answer.endpoint in {stub.url for stub in stubs}
    request = [body for stub in stubs for body in stub.requests]
    assert len(request) == 1
    assert request[0]["tools"] == [TOOL]


async def test_an_episode_sticks_to_one_replica_and_episodes_are_spread(run: RunDir, stubs: list[StubHandle]) -> None:
    publish(run, stubs)
    asked = []
    for episode in range(12):
        model = client(run, episode=f"run-{episode:05d}")
        urls = {(await model.complete(ASK, [])).endpoint for _ in range(3)}
        await model.close()
        assert len(urls) == 1
        asked += urls
    assert set(asked) == {stub.url for stub in stubs}


async def test_a_replica_killed_mid_request_is_left_for_another(run: RunDir, stubs: list[StubHandle]) -> None:
    first, second = by_preference(publish(run, stubs), stubs)
    first.script({"delay": 60, "text": "never"})
    second.script({"text": "from the other"})
    model = client(run)
    request = asyncio.create_task(model.complete(ASK, []))
    await asyncio.to_thread(until, lambda: first.requests, "the request")
    first.kill()
    assert (await request).text == "from the other"
    assert (await model.complete(ASK, [])).endpoint == second.url
    await model.close()


async def test_a_replica_that_vanishes_without_a_word_is_given_up(run: RunDir, stubs: list[StubHandle]) -> None:
    """A lost node sends no reset: only its endpoint's heartbeat stops."""
    endpoints = publish(run, stubs)
    first, second = by_preference(endpoints, stubs)
    first.script({"hang": True})
    second.script({"text": "from the other"})
    model = client(run)
    request = asyncio.create_task(model.complete(ASK, []))
    await asyncio.to_thread(until, lambda: first.requests, "the request")
    lost = stubs.index(first)
    registry.publish(run, msgspec.structs.replace(endpoints[lost], heartbeat=time.time() - 1000))
    assert (await request).text == "from the other"
    await model.close()


async def test_a_draining_replica_still_answers_but_gets_nothing_new(run: RunDir, stubs: list[StubHandle]) -> None:
    endpoints = publish(run, stubs)
    first, second = by_preference(endpoints, stubs)
    first.script({"delay": 4.0, "text": "last words"})
    model = client(run)
    request = asyncio.create_task(model.complete(ASK, []))
    await asyncio.to_thread(until, lambda: first.requests, "the request")
    registry.publish(run, msgspec.structs.replace(endpoints[stubs.index(first)], state="DRAINING"))
    assert (await request).text == "last words"
    assert (await model.complete(ASK, [])).endpoint == second.url
    await model.close()


@pytest.mark.parametrize(
    "broken",
    [
        {"finish_reason": "abort", "text": "half an ans"},
        {"status": 500},
        {"status": 503},
        {"status": 429, "headers": {"Retry-After": "0"}},
        {"drop": True},
        {"body": "<html>rubbish"},
    ],
    ids=["abort", "500", "503", "429", "drop", "rubbish"],
)
async def test_a_broken_answer_is_asked_again(run: RunDir, stubs: list[StubHandle], broken: dict[str, Any]) -> None:
    only = stubs[:1]
    publish(run, only)
    only[0].script(broken, broken, {"text": "whole"})
    model = client(run)
    assert (await model.complete(ASK, [])).text == "whole"
    await model.close()
    bodies = only[0].requests
    assert len(bodies) == 3
    assert bodies[0] == bodies[2]


async def test_a_server_that_stays_broken_ends_the_wait(run: RunDir, stubs: list[StubHandle]) -> None:
    publish(run, stubs[:1])
    stubs[0].script(default={"status": 503, "message": "overloaded"})
    model = client(run, wait_seconds=1.0)
    with pytest.raises(ServerNotReady, match="overloaded"):
        await model.complete(ASK, [])
    await model.close()


async def test_refusals_are_not_repeated(run: RunDir, stubs: list[StubHandle]) -> None:
    publish(run, stubs)
    for stub in stubs:
        stub.script(default={"status": 400, "message": "maximum context length is 8 tokens"})
    model = client(run)
    with pytest.raises(ServingError, match="maximum context length") as caught:
        await model.complete(ASK, [])
    await model.close()
    assert not isinstance(caught.value, ServerNotReady | EndpointNotFound)
    assert sum(len(stub.requests) for stub in stubs) == 1


async def test_a_wrong_model_name_is_final(run: RunDir, stubs: list[StubHandle]) -> None:
    publish(run, stubs)
    model = client(run, model="other")
    with pytest.raises(EndpointNotFound, match="no endpoint serves model 'other', only stub"):
        await model.complete(ASK, [])
    await model.close()
    registry.publish(run, endpoint(stubs[0], model="mislabelled"))
    registry.withdraw(run, "s", 1)
    model = client(run, model="mislabelled")
    with pytest.raises(ServingError, match=r"404.*does not exist"):
        await model.complete(ASK, [])
    await model.close()


async def test_a_dead_address_is_an_error_that_names_it(run: RunDir, stubs: list[StubHandle]) -> None:
    publish(run, stubs[:1])
    stubs[0].kill()
    model = client(run, wait_seconds=1.0)
    with pytest.raises(ServerNotReady, match=r"ConnectError") as caught:
        await model.complete(ASK, [])
    await model.close()
    assert stubs[0].url in caught.value.message


async def test_without_endpoints_it_waits_and_then_says_so(run: RunDir, stubs: list[StubHandle]) -> None:
    model = client(run, wait_seconds=0.5)
    with pytest.raises(EndpointNotFound, match=r"within 0\.5 s") as caught:
        await model.complete(ASK, [])
    await model.close()
    assert "hpc server list" in caught.value.hint
    model = client(run)
    request = asyncio.create_task(model.complete(ASK, []))
    await asyncio.sleep(0)
    publish(run, stubs[:1])
    assert (await request).text == "ok"
    await model.close()


async def test_a_failed_server_ends_the_wait_with_its_reason(run: RunDir) -> None:
    registry.write_state(run, "s", 0, ServerState(state="FAILED", reason="no GPU"))
    model = client(run, wait_seconds=600)
    with pytest.raises(ServerNotReady, match="no GPU"):
        await model.complete(ASK, [])
    await model.close()
    with pytest.raises(ServerNotReady, match="no GPU"):
        await wait_ready(run, SERVER, model="stub", timeout=600)


async def test_stopping_ends_a_wait_and_a_request(run: RunDir, stubs: list[StubHandle]) -> None:
    stopping = False
    model = client(run, wait_seconds=600, stopping=lambda: stopping)
    waiting = asyncio.create_task(model.complete(ASK, []))
    await asyncio.sleep(0.1)
    stopping = True
    with pytest.raises(ServerNotReady, match="stopped"):
        await waiting
    assert await wait_ready(run, SERVER, model="stub", timeout=600, stopping=lambda: stopping) == []
    stopping = False
    publish(run, stubs[:1])
    stubs[0].script({"hang": True})
    asking = asyncio.create_task(model.complete(ASK, []))
    await asyncio.to_thread(until, lambda: stubs[0].requests, "the request")
    stopping = True
    with pytest.raises(ServerNotReady, match="stopped"):
        await asking
    await model.close()


async def test_many_episodes_share_a_flapping_replica(run: RunDir, stubs: list[StubHandle]) -> None:
    publish(run, stubs)
    for stub in stubs:
        stub.script(*[{"status": 500}, {"finish_reason": "abort"}, {"drop": True}] * 5)

    async def episode(index: int) -> str:
        model = client(run, episode=f"run-{index:05d}", wait_seconds=60)
        try:
            return (await model.complete(ASK, [])).text
        finally:
            await model.close()

    assert await asyncio.gather(*(episode(index) for index in range(16))) == ["ok"] * 16


async def test_wait_ready_returns_the_endpoints(run: RunDir, stubs: list[StubHandle]) -> None:
    waiting = asyncio.create_task(wait_ready(run, SERVER, model="stub", timeout=20))
    await asyncio.sleep(0)
    publish(run, stubs[:1])
    assert [one.url for one in await waiting] == [stubs[0].url]
    with pytest.raises(ServerNotReady, match=r"no endpoint within 0\.2 s"):
        await wait_ready(run, ServerConfig(name="other"), model="stub", timeout=0.2)
    with pytest.raises(EndpointNotFound, match="only stub"):
        await wait_ready(run, SERVER, model="x", timeout=20)


async def test_external_servers_are_asked_directly(run: RunDir, stubs: list[StubHandle], tmp_path: Path) -> None:
    server = ServerConfig(name="s", kind="external", urls=[stub.url + "/" for stub in stubs], token_ids=False)
    assert len(await wait_ready(run, server, model="stub", timeout=5)) == 2
    with pytest.raises(EndpointNotFound, match="serves stub, not 'x'"):
        await wait_ready(run, server, model="x", timeout=5)
    model = ModelClient.for_run(
        run, server, model="stub", sampling=SamplingConfig(max_tokens=9), episode="e", wait_seconds=5
    )
    answer = await model.complete(ASK, [])
    await model.close()
    assert (answer.text, answer.token_ids) == ("ok", [])
    assert "logprobs" not in next(body for stub in stubs for body in stub.requests)


async def test_dead_external_servers_are_named_with_the_last_error(run: RunDir, stubs: list[StubHandle]) -> None:
    stubs[0].kill()
    server = ServerConfig(name="s", kind="external", urls=[stubs[0].url])
    with pytest.raises(ServerNotReady, match="ConnectError") as caught:
        await wait_ready(run, server, model="stub", timeout=0.2)
    assert stubs[0].url in caught.value.message
    assert "server.urls" in caught.value.hint
    model = ModelClient.for_run(run, server, model="stub", sampling=SamplingConfig(), episode="e", wait_seconds=0.2)
    with pytest.raises(ServerNotReady, match="ConnectError") as caught:
        await model.complete(ASK, [])
    await model.close()
    assert stubs[0].url in caught.value.message
    assert "server.urls" in caught.value.hint


async def test_the_servers_of_another_run_can_be_used(run: RunDir, stubs: list[StubHandle], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    other = make_run(tmp_path / "elsewhere")
    publish(other, stubs)
    server = ServerConfig(name="s", kind="external", run=str(other.root))
    assert len(await wait_ready(run, server, model="stub", timeout=5)) == 2
    model = ModelClient.for_run(run, server, model="stub", sampling=SamplingConfig(), episode="e", wait_seconds=5)
    assert (await model.complete(ASK, [])).text == "ok"
    await model.close()


async def test_missing_token_ids_are_an_error_with_a_hint(run: RunDir, stubs: list[StubHandle]) -> None:
    publish(run, stubs[:1])
    stubs[0].script({"token_ids": False})
    model = client(run)
    with pytest.raises(ServingError, match="no token ids") as caught:
        await model.complete(ASK, [])
    await model.close()
    assert "server.token_ids=false" in caught.value.hint
