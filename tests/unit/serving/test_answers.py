from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from hpc.core.errors import ServingError
from hpc.serving.answers import TryAgain, read_response, request_body
from hpc.serving.registry import Endpoint

ENDPOINT = Endpoint(server="s", replica=0, url="http://h:1/v1", model="m")


def completion(**changes: Any) -> dict[str, Any]:
    """The shape of a real vLLM 0.32 response."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "hi", "refusal": None, "tool_calls": None, "reasoning": None},
        "logprobs": {
            "content": [
                {"token": "hi", "logprob": -0.5, "bytes": [104, 105], "top_logprobs": []},
                {"token": "<|im_end|>", "logprob": -0.25, "bytes": [], "top_logprobs": []},
            ]
        },
        "finish_reason": "stop",
        "stop_reason": None,
        "token_ids": [11, 2],
        "routed_experts": None,
    }
    choice.update(changes)
    return {"id": "x", "model": "m", "choices": [choice], "prompt_token_ids": [1, 5, 9], "usage": {}}


def read(value: Any, status: int = 200, headers: dict[str, str] | None = None, token_ids: bool = True) -> Any:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read_response(
        httpx.Response(status, content=content, headers=headers), ENDPOINT, token_ids=token_ids, seconds=1.5
    )


def test_a_whole_answer_keeps_the_engines_ids_and_logprobs() -> None:
    answer = read(completion())
    assert answer.text == "hi"
    assert answer.prompt_token_ids == [1, 5, 9]
    assert answer.token_ids == [11, 2]
    assert answer.logprobs == [-0.5, -0.25]
    assert (answer.endpoint, answer.model, answer.seconds, answer.finish_reason) == (ENDPOINT.url, "m", 1.5, "stop")


def test_tool_calls_come_as_the_api_names_them() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "run", "arguments": '{"a": 1}'}}
    answer = read(completion(message={"role": "assistant", "content": None, "tool_calls": [call]}))
    assert answer.text == ""
    assert answer.tool_calls == [call]


@pytest.mark.parametrize("reason", ["abort", "error", None, ""])
def test_a_broken_off_answer_is_asked_again(reason: str | None) -> None:
    with pytest.raises(TryAgain, match="broke off"):
        read(completion(finish_reason=reason))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 302])
def test_passing_troubles_are_asked_again(status: int) -> None:
    with pytest.raises(TryAgain, match=str(status)):
        read({"error": {"message": "no"}}, status)


def test_the_server_may_say_when() -> None:
    with pytest.raises(TryAgain) as caught:
        read({}, 429, {"Retry-After": "7"})
    assert caught.value.retry_after == 7.0
    with pytest.raises(TryAgain) as caught:
        read({}, 429, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"})
    assert caught.value.retry_after == 0.0


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        (404, "The model `x` does not exist.", "model.name"),
        (400, "This model's maximum context length is 8192 tokens.", "keep_observations"),
        (401, "Unauthorized", "api_key_env"),
        (422, "bad tools", "logs"),
    ],
)
def test_refusals_are_final_and_say_what_to_do(status: int, message: str, hint: str) -> None:
    with pytest.raises(ServingError) as caught:
        read({"error": {"message": message}}, status)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"message": 3}]}', b"\xff\xfe"])
def test_rubbish_is_asked_again(body: bytes) -> None:
    with pytest.raises(TryAgain):
        read(body)


def test_missing_token_ids_are_final_unless_not_wanted() -> None:
    for missing in ({"token_ids": None}, {"logprobs": None}):
        with pytest.raises(ServingError, match="no token ids"):
            read(completion(**missing))
        answer = read(completion(**missing), token_ids=False)
        assert (answer.token_ids, answer.logprobs) == ([], [])


def test_ids_without_their_logprobs_are_refused() -> None:
    with pytest.raises(ServingError, match="3 token ids but 2"):
        read(completion(token_ids=[1, 2, 3]))


def body(messages: list[dict[str, Any]], seed: int | None = 7, episode: str = "e", **more: Any) -> dict[str, Any]:
    sampling = {"temperature": 0.8, "max_tokens": 9, "seed": seed}
    return request_body(messages, [], model="m", sampling=sampling, episode=episode, token_ids=True, **more)


def test_seeds_are_repeatable_and_differ_by_step_and_episode() -> None:
    one, two = [{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]
    assert body(one)["seed"] == body(one)["seed"]
    seeds = {body(one)["seed"], body(two)["seed"], body(one, episode="f")["seed"], body(one, seed=8)["seed"]}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert "seed" not in body(one, seed=None)


def test_a_request_asks_for_ids_and_leaves_out_empty_tools() -> None:
    value = body([{"role": "user", "content": "a"}])
    assert value["return_token_ids"] is True
    assert value["logprobs"] is True
    assert "tools" not in value
    assert value["max_tokens"] == 9
