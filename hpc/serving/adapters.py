"""Adapters pushed to running vLLM servers: a new version of the weights without a restart.

vLLM loads and unloads them while it serves, where it was started with `SERVER_ARGS` and `SERVER_ENV`; the routes are
below ``/v1``, so that a server's key guards them. Reloading whole weights would need vLLM's development routes,
which everyone who reaches the port could call: whole weights are served by a restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import httpx

from hpc.core.errors import ConfigError, ServingError
from hpc.serving.probe import no_answer

SERVER_ARGS = ("--enable-lora", "--max-loras", "1", "--max-cpu-loras", "2", "--max-lora-rank")
"""Followed by the rank, one of `SERVED_RANKS`."""
SERVER_ENV = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
SERVED_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks that vLLM can be started for."""
LOAD_SECONDS = 120.0


def served_rank(rank: int) -> int:
    """The smallest rank that a server can be started for and that adapters of ``rank`` fit into.

    Raises:
        ConfigError: there is none.
    """
    for largest in SERVED_RANKS:
        if rank <= largest:
            return largest
    raise ConfigError(f"lora.rank is {rank}, vLLM serves adapters up to {SERVED_RANKS[-1]}", "set a smaller lora.rank")


def push(urls: Sequence[str], name: str, folder: Path, *, api_key: str = "") -> None:
    """Have every server answer as ``name`` with the adapters in ``folder``, and no longer with other ones. May be
    repeated: what is loaded from this very folder stays.

    Args:
        urls: they end in /v1.

    Raises:
        ServingError: one does not load them, or serves other adapters under the name.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    with httpx.Client(headers=headers, timeout=LOAD_SECONDS, trust_env=False) as http:
        for url in urls:
            try:
                loaded = _loaded(http, url)
                for other in loaded.keys() - {name}:
                    _call(http, f"{url}/unload_lora_adapter", {"lora_name": other})
                if name not in loaded:
                    _call(http, f"{url}/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
                    loaded = _loaded(http, url)
            except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
                raise ServingError(
                    f"{url} did not load the adapters in {folder}: {no_answer(error)}",
                    "see the server's log; it must have been started for adapters of this rank",
                ) from error
            if loaded.get(name) != str(folder):
                raise ServingError(
                    f"{url} serves {name} from {loaded.get(name)}, not from {folder}", "restart that server"
                )


def _loaded(http: httpx.Client, url: str) -> dict[str, str]:
    """The adapters that a server has: name -> folder."""
    response = http.get(f"{url}/models")
    response.raise_for_status()
    return {str(entry["id"]): str(entry["root"]) for entry in response.json()["data"] if entry.get("parent")}


def _call(http: httpx.Client, url: str, body: dict[str, str]) -> None:
    response = http.post(url, json=body)
    if response.status_code != 200:
        raise ValueError(f"HTTP {response.status_code}: {response.text[:300]}")
