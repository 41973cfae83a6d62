"""The agents' side: a completion from whichever replica can give one, for as long as the configuration
is willing to wait."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec

from hpc.config.agent import SamplingConfig
from hpc.config.server import ServerConfig
from hpc.core.errors import EndpointNotFound, ServerNotReady
from hpc.rundir import RunDir
from hpc.serving import preflight
from hpc.serving.answers import TryAgain, read_response, request_body
from hpc.serving.choice import Rests, pause, preference
from hpc.serving.probe import no_answer, require_model
from hpc.serving.registry import Endpoint, Registry, external_endpoints
from hpc.trajectories.records import ModelResponse

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
GONE_LOOKS = 4
"""So many looks in a row must miss an endpoint before a request in flight to it is given up."""
SEE_SERVER = "see hpc server status and logs"
KEEPALIVE_SECONDS = 4.0  # vLLM closes idle connections after 5 s

Endpoints = Callable[[], list[Endpoint]]


class ModelClient:
    """One episode's client of a model (`hpc.agent.protocols.Model`).

    Args:
        endpoints: the live endpoints now, READY and DRAINING ones.
        model: the served name to ask for.
        sampling: sampling parameters as the API names them; ``seed`` is a base seed.
        episode: whose client this is; it decides which replica is asked first.
        wait_seconds: how long `complete` looks for an answer before it gives up.
        request_seconds: how long one request may take.
        token_ids: ask for token ids and log-probabilities, and insist on them.
        api_key: sent as a bearer token if not empty.
        failure: why no endpoint can be hoped for; empty while one can.
        hint: how to mend endpoints that give no answer.
        stopping: true when the caller must give up soon.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        model: str,
        sampling: Mapping[str, Any],
        episode: str,
        wait_seconds: float = 1800.0,
        request_seconds: float = 900.0,
        token_ids: bool = True,
        api_key: str = "",
        failure: Callable[[], str] = lambda: "",
        hint: str = SEE_SERVER,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model = model
        self.episode = episode
        self._endpoints = endpoints
        self._sampling = dict(sampling)
        self._wait_seconds = wait_seconds
        self._token_ids = token_ids
        self._failure = failure
        self._hint = hint
        self._stopping = stopping
        self._rests = Rests()
        self._http = _http(api_key, request_seconds)

    @classmethod
    def for_run(
        cls,
        run: RunDir,
        server: ServerConfig,
        *,
        model: str,
        sampling: SamplingConfig,
        episode: str,
        wait_seconds: float,
        stopping: Callable[[], bool] = lambda: False,
    ) -> ModelClient:
        """A client of the server that a run's configuration describes.

        Raises:
            ConfigError: the server's key is not in the environment.
        """
        endpoints, failure = _source(run, server, model)
        return cls(
            endpoints,
            model=model,
            sampling=msgspec.to_builtins(sampling),
            episode=episode,
            wait_seconds=wait_seconds,
            request_seconds=server.request_seconds,
            token_ids=server.token_ids,
            api_key=preflight.api_key(server),
            failure=failure,
            hint=preflight.MEND_URLS if server.urls else SEE_SERVER,
            stopping=stopping,
        )

    async def complete(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> ModelResponse:
        """One chat completion. A request that fails is sent again, first to another replica.

        Raises:
            EndpointNotFound: no endpoint serves the model, and none came up in time.
            ServerNotReady: endpoints are there, but none gave a whole answer in time; or the server
                has failed for good; or the caller is stopping.
            ServingError: the request itself is refused; no endpoint will answer it.
        """
        body = request_body(
            messages,
            tools,
            model=self.model,
            sampling=self._sampling,
            episode=self.episode,
            token_ids=self._token_ids,
        )
        deadline = time.monotonic() + self._wait_seconds
        attempt = 0
        while True:
            endpoint = await self._choose(deadline)
            try:
                response = await self._ask(endpoint, body)
            except TryAgain as error:
                log.warning("%s: %s", self.episode, error.reason)
                self._rests.rest(endpoint, time.monotonic())
                await self._pause(attempt, deadline, error)
                attempt += 1
                continue
            self._rests.wake(endpoint)
            return response

    async def close(self) -> None:
        """Close connections."""
        await self._http.aclose()

    async def _choose(self, deadline: float) -> Endpoint:
        """This episode's endpoint, waited for if there is none."""
        attempt = 0
        while True:
            self._check_stopping()
            live = self._endpoints()
            chosen = self._rests.choose(preference(_ready(live, self.model), self.episode), time.monotonic())
            if chosen is not None:
                return chosen
            _check_hope(live, self.model, self._failure())
            if time.monotonic() >= deadline:
                raise EndpointNotFound(
                    f"no endpoint for model {self.model!r} within {self._wait_seconds:g} s",
                    "see hpc server list, or raise agent.model_wait_seconds",
                )
            await self._sleep(min(pause(attempt, random.random()), 2.0), deadline)
            attempt += 1

    async def _ask(self, endpoint: Endpoint, body: dict[str, Any]) -> ModelResponse:
        """One request, given up when its server goes without a word (a lost node sends no reset)."""
        started = time.monotonic()
        request = asyncio.ensure_future(self._http.post(f"{endpoint.url}/chat/completions", json=body))
        missed = 0
        try:
            while not (await asyncio.wait([request], timeout=WATCH_SECONDS))[0]:
                self._check_stopping()
                known = any(
                    (one.url, one.started_at) == (endpoint.url, endpoint.started_at) for one in self._endpoints()
                )
                missed = 0 if known else missed + 1
                if missed >= GONE_LOOKS:
                    raise TryAgain(f"{endpoint.url} was withdrawn while it answered")
            response = request.result()
        except httpx.HTTPError as error:
            raise TryAgain(f"{endpoint.url}: {no_answer(error)}") from error
        finally:
            request.cancel()
        seconds = time.monotonic() - started
        return read_response(response, endpoint, token_ids=self._token_ids, seconds=seconds)

    async def _pause(self, attempt: int, deadline: float, error: TryAgain) -> None:
        """Wait before the next attempt; not at all while a replica is left that has not failed."""
        now = time.monotonic()
        if now >= deadline:
            raise ServerNotReady(
                f"model {self.model!r} gave no whole answer within {self._wait_seconds:g} s; the last: {error.reason}",
                self._hint,
            ) from error
        if any(self._rests.left(endpoint, now) == 0 for endpoint in _ready(self._endpoints(), self.model)):
            return
        await self._sleep(max(pause(attempt, random.random()), error.retry_after), deadline)

    async def _sleep(self, seconds: float, deadline: float) -> None:
        """Sleep, but not past the deadline, and notice a stop."""
        until = min(time.monotonic() + seconds, deadline)
        while (left := until - time.monotonic()) > 0:
            self._check_stopping()
            await asyncio.sleep(min(left, WATCH_SECONDS))

    def _check_stopping(self) -> None:
        if self._stopping():
            raise ServerNotReady(f"stopped while waiting for an answer of {self.model!r}", "resume the run")


async def wait_ready(
    run: RunDir,
    server: ServerConfig,
    *,
    model: str,
    timeout: float,
    stopping: Callable[[], bool] = lambda: False,
) -> list[Endpoint]:
    """Wait until an endpoint of the server is live; the endpoints, or none when ``stopping`` came first.

    Raises:
        EndpointNotFound: the endpoints serve another model.
        ServerNotReady: the server has failed, with its own reason, or ``timeout`` seconds passed.
        ServingError: an external endpoint refuses its key.
    """
    endpoints, failure = _source(run, server, model)
    deadline = time.monotonic() + timeout
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(_http(preflight.api_key(server), 10.0)) if server.urls else None
        while not stopping():
            live = endpoints()
            ready = _ready(live, model)
            problems = [await _problem(http, endpoint) for endpoint in ready] if http is not None else []
            if problems:
                ready = [endpoint for endpoint, problem in zip(ready, problems, strict=True) if not problem]
            if ready:
                return ready
            _check_hope(live, model, failure())
            if time.monotonic() >= deadline:
                raise _never_ready(server, timeout, problems)
            await asyncio.sleep(min(WATCH_SECONDS, max(0.0, deadline - time.monotonic())))
    return []


async def _problem(http: httpx.AsyncClient, endpoint: Endpoint) -> str:
    """Why an external endpoint is not ready; empty when it answers and has the model."""
    try:
        require_model(endpoint.url, await http.get(f"{endpoint.url}/models"), endpoint.model)
    except (httpx.HTTPError, ValueError) as error:
        return f"{endpoint.url}: {no_answer(error)}"
    return ""


def _never_ready(server: ServerConfig, seconds: float, problems: list[str]) -> ServerNotReady:
    if server.urls:
        return ServerNotReady(
            f"no url of server {server.name!r} answered within {seconds:g} s: {'; '.join(problems)}",
            preflight.MEND_URLS,
        )
    return ServerNotReady(
        f"server {server.name!r} published no endpoint within {seconds:g} s", "see hpc server list and hpc server logs"
    )


def _source(run: RunDir, server: ServerConfig, model: str) -> tuple[Endpoints, Callable[[], str]]:
    """Where a server's endpoints are found, and why none can be hoped for."""
    if server.urls:
        fixed = external_endpoints(server, model)
        return lambda: fixed, lambda: ""
    registry = Registry(run if server.run is None else RunDir.open(Path(server.run)), server.name)
    return registry, registry.failure


def _ready(live: list[Endpoint], model: str) -> list[Endpoint]:
    return [endpoint for endpoint in live if endpoint.state == "READY" and endpoint.model == model]


def _check_hope(live: list[Endpoint], model: str, failure: str) -> None:
    """Raise when waiting for an endpoint is in vain."""
    others = sorted({endpoint.model for endpoint in live})
    if others and model not in others:
        raise EndpointNotFound(f"no endpoint serves model {model!r}, only {', '.join(others)}", "mend model.name")
    if failure:
        raise ServerNotReady(f"the server failed: {failure}", "see hpc server logs, then launch it again")


def _http(api_key: str, seconds: float) -> httpx.AsyncClient:
    """Without the environment's proxies: servers are inside the cluster, proxies lead out of it."""
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=httpx.Timeout(seconds, connect=10.0),
        limits=httpx.Limits(keepalive_expiry=KEEPALIVE_SECONDS),
        trust_env=False,
    )
