"""Requests and responses of ``/v1/chat/completions`` as vLLM 0.32 speaks them. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import msgspec

from hpc.core.errors import ServingError
from hpc.serving.probe import error_message
from hpc.serving.registry import Endpoint
from hpc.trajectories.records import ModelResponse, Usage

WHOLE = ("stop", "length", "tool_calls", "function_call")
"""Ends of a whole answer. Anything else, such as vLLM's "abort" when a server is stopped, is half a
text that arrives with HTTP 200."""
PASSING = (408, 409, 425, 429)
"""Client errors that pass."""


class TryAgain(Exception):
    """No whole answer this time. ``retry_after``: seconds for which the server wants to be left alone."""

    def __init__(self, reason: str, *, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class _Function(msgspec.Struct):
    name: str = ""
    arguments: str = ""


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str = ""
    type: str = "function"


class _Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Logprob(msgspec.Struct):
    logprob: float


class _Logprobs(msgspec.Struct):
    content: list[_Logprob] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str = ""
    prompt_token_ids: list[int] | None = None
    usage: _Usage | None = None


def request_body(
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]],
    *,
    model: str,
    sampling: Mapping[str, Any],
    episode: str,
    token_ids: bool,
) -> dict[str, Any]:
    """The body of one request. A base seed becomes the request's own seed, a function of the episode
    and of the messages: repeating a request repeats its answer, and no two steps share a seed."""
    body: dict[str, Any] = {"model": model, "messages": list(messages)}
    body.update({name: value for name, value in sampling.items() if value is not None})
    if body.get("seed") is not None:
        context = msgspec.json.encode([body["seed"], episode, list(messages)], order="deterministic")
        body["seed"] = int.from_bytes(hashlib.blake2b(context, digest_size=4).digest()) & 0x7FFFFFFF
    if tools:
        body["tools"] = list(tools)
    if token_ids:
        body["return_token_ids"] = True
        body["logprobs"] = True
    return body


def read_response(response: httpx.Response, endpoint: Endpoint, *, token_ids: bool, seconds: float) -> ModelResponse:
    """The record of a response.

    Raises:
        TryAgain: the server is busy, stopping or broken; another attempt may succeed.
        ServingError: no attempt can: the request is refused, or token ids are missing.
    """
    if response.status_code != 200:
        raise _refusal(response, endpoint)
    try:
        completion = msgspec.json.decode(response.content, type=_Completion)
        choice = completion.choices[0]
    except (msgspec.DecodeError, IndexError) as error:
        text = " ".join(response.text.split())[:200]
        raise TryAgain(f"{endpoint.url} sent what is no completion: {text!r}") from error
    if choice.finish_reason not in WHOLE:
        raise TryAgain(f"{endpoint.url} broke off: finish_reason is {choice.finish_reason!r}")
    prompt, answer, logprobs = _tokens(completion, choice, endpoint) if token_ids else ([], [], [])
    return ModelResponse(
        text=choice.message.content or "",
        tool_calls=[msgspec.to_builtins(call) for call in choice.message.tool_calls or []],
        finish_reason=choice.finish_reason,
        prompt_token_ids=prompt,
        token_ids=answer,
        logprobs=logprobs,
        endpoint=endpoint.url,
        model=completion.model,
        seconds=seconds,
        usage=_usage(completion.usage),
    )


def _usage(told: _Usage | None) -> Usage | None:
    if told is None:
        return None
    details = told.prompt_tokens_details or _Details()
    return Usage(
        prompt_tokens=told.prompt_tokens,
        completion_tokens=told.completion_tokens,
        cached_tokens=details.cached_tokens,
    )


def _tokens(completion: _Completion, choice: _Choice, endpoint: Endpoint) -> tuple[list[int], list[int], list[float]]:
    """Prompt ids, answer ids and the answer's log-probabilities, the latter two equally long."""
    content = choice.logprobs.content if choice.logprobs is not None else None
    if completion.prompt_token_ids is None or choice.token_ids is None or content is None:
        raise ServingError(
            f"{endpoint.url} returns no token ids and log-probabilities",
            "serve with vLLM, or set server.token_ids=false (its trajectories cannot train)",
        )
    if len(choice.token_ids) != len(content):
        raise ServingError(
            f"{endpoint.url} returned {len(choice.token_ids)} token ids but {len(content)} log-probabilities",
            "remove what hides tokens from server.extra_args",
        )
    return completion.prompt_token_ids, choice.token_ids, [entry.logprob for entry in content]


def _refusal(response: httpx.Response, endpoint: Endpoint) -> Exception:
    status = response.status_code
    message = f"{endpoint.url} answered HTTP {status}: {error_message(response)}"
    if status in PASSING or status >= 500 or status < 400:
        return TryAgain(message, retry_after=_retry_after(response))
    if status in (401, 403):
        return ServingError(message, "set server.api_key_env to the variable that holds its key")
    if status == 404:
        return ServingError(message, "set model.name to the name under which the server serves it")
    if "context length" in message or "max_model_len" in message:
        return ServingError(message, "shorten the context (agent.keep_observations) or raise model.max_model_len")
    return ServingError(message, "see the server's log: hpc server logs")


def _retry_after(response: httpx.Response) -> float:
    try:
        return min(60.0, max(0.0, float(response.headers["Retry-After"])))
    except (KeyError, ValueError):
        return 0.0
