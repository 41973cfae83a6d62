"""What a server answers: one generated token, its metrics, its context length."""

from __future__ import annotations

import re
from typing import Literal

import httpx
import msgspec

from hpc.core.errors import EndpointNotFound, ServingError

_SAMPLE = re.compile(r"^(vllm:[a-z_]+)(?:\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)

Verdict = Literal["answered", "unanswered", "refused"]


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """answered: a token came; unanswered: none came; refused: none will ever come."""

    verdict: Verdict
    reason: str = ""


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Some of vLLM's Prometheus metrics, summed over its engines."""

    running: float = 0.0
    waiting: float = 0.0
    generated: float = 0.0
    prompt_tokens: float = 0.0
    cache_usage: float = 0.0
    prefix_queries: float = 0.0
    prefix_hits: float = 0.0
    preemptions: float = 0.0


_METRICS = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "generated": "vllm:generation_tokens_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "cache_usage": "vllm:kv_cache_usage_perc",
    "prefix_queries": "vllm:prefix_cache_queries_total",
    "prefix_hits": "vllm:prefix_cache_hits_total",
    "preemptions": "vllm:num_preemptions_total",
}


def parse_metrics(text: str) -> Metrics:
    """Read Prometheus' text format; metrics that are missing count 0."""
    sums: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        sums[name] = sums.get(name, 0.0) + float(value)
    return Metrics(**{field: sums.get(name, 0.0) for field, name in _METRICS.items()})


class Prober:
    """Asks one server. Not for several threads at once, except that `close` may come from another.

    Args:
        url: base URL that ends in ``/v1``.
        timeout: seconds for one token.
    """

    def __init__(self, url: str, model: str, *, api_key: str = "", timeout: float = 30.0) -> None:
        self.url = url
        self.model = model
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = timeout
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(timeout, connect=5.0), trust_env=False)

    def generate(self) -> ProbeResult:
        """Generate one token, the way agents do. A health page alone is green while the engine hangs."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "ping"}],
            "max_tokens": 1,
            "temperature": 0.0,
        }
        before = self.metrics()
        try:
            response = self._client.post(f"{self.url}/chat/completions", json=body)
        except httpx.TimeoutException:
            if self._generated_since(before):
                return ProbeResult(verdict="answered", reason="busy")
            return ProbeResult(verdict="unanswered", reason=f"no token within {self._timeout:g} s")
        except httpx.HTTPError as error:
            return ProbeResult(verdict="unanswered", reason=no_answer(error))
        text = " ".join(response.text.split())[:300]
        if response.status_code in (400, 401, 403, 404, 422):
            return ProbeResult(verdict="refused", reason=f"HTTP {response.status_code}: {error_message(response)}")
        if response.status_code != 200:
            return ProbeResult(verdict="unanswered", reason=f"HTTP {response.status_code}: {text}")
        try:
            reason = response.json()["choices"][0]["finish_reason"]
        except (ValueError, LookupError, TypeError):
            return ProbeResult(verdict="unanswered", reason=f"not a completion: {text}")
        if reason not in ("length", "stop"):
            return ProbeResult(verdict="unanswered", reason=f"finish_reason is {reason!r}")
        return ProbeResult(verdict="answered")

    def _generated_since(self, before: Metrics | None) -> bool:
        """Whether others got tokens meanwhile: a full server queues a probe, a hung one makes none."""
        now = self.metrics()
        return before is not None and now is not None and now.generated > before.generated

    def metrics(self) -> Metrics | None:
        """The server's metrics; None when it does not give any."""
        try:
            response = self._client.get(f"{self.url.removesuffix('/v1')}/metrics", timeout=5.0)
            response.raise_for_status()
        except httpx.HTTPError:
            return None
        return parse_metrics(response.text)

    def max_model_len(self) -> int:
        """The longest context in tokens, 0 if the server does not say."""
        try:
            response = self._client.get(f"{self.url}/models", timeout=5.0)
            response.raise_for_status()
            return max(int(entry.get("max_model_len") or 0) for entry in response.json()["data"])
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError):
            return 0

    def close(self) -> None:
        self._client.close()


def require_model(url: str, response: httpx.Response, model: str) -> None:
    """Accept what ``url`` answered at ``/models`` if it serves ``model``.

    Raises:
        EndpointNotFound: it serves other models.
        ServingError: it refuses the key.
        ValueError: that is no list of models; waiting may help.
    """
    if response.status_code in (401, 403):
        raise ServingError(
            f"{url} answered HTTP {response.status_code}: {error_message(response)}",
            "set server.api_key_env to the variable that holds its key",
        )
    if response.status_code != 200:
        raise ValueError(f"HTTP {response.status_code}: {error_message(response)}")
    try:
        names = [str(entry["id"]) for entry in response.json()["data"]]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError("its answer at /models is no list of models") from error
    if model not in names:
        raise EndpointNotFound(f"{url} serves {', '.join(names) or 'nothing'}, not {model!r}", "mend model.name")


def no_answer(error: Exception) -> str:
    """Why a request had no usable answer, on one line."""
    if isinstance(error, httpx.HTTPError):
        return f"{type(error).__name__}: {error}".rstrip(": ")
    return str(error)


def error_message(response: httpx.Response) -> str:
    """What a server says went wrong, on one line of at most 300 characters."""
    try:
        body = response.json()
        error = body.get("error", body)
        text = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = response.text
    return " ".join(str(text).split())[:300] or response.reason_phrase
