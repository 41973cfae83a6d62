"""Which endpoint an episode asks, and when it asks again. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from hpc.serving.registry import Endpoint

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 15.0
REST_SECONDS = 10.0
"""How long an endpoint that failed is passed over while another one can answer."""


def preference(endpoints: Iterable[Endpoint], episode: str) -> list[Endpoint]:
    """The endpoints in this episode's own order (rendezvous hashing, Thaler and Ravishankar 1998).

    An episode stays with its first choice, whose prefix cache knows its context. When a replica
    goes, only its own episodes move; when it comes back, they return.
    """

    def weight(endpoint: Endpoint) -> bytes:
        key = f"{episode}\0{endpoint.server}\0{endpoint.replica}"
        return hashlib.blake2b(key.encode(), digest_size=8).digest()

    return sorted(endpoints, key=weight, reverse=True)


def pause(attempt: int, noise: float) -> float:
    """Seconds before attempt number ``attempt`` + 1 (from 0): exponential, capped, with ``noise`` in
    [0, 1) spreading clients over the second half so that they do not come back all at once."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 16))
    return longest * (0.5 + noise / 2)


class Rests:
    """Which endpoints are passed over for a while after a failure. A server that was started again
    is another one."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, float], float] = {}

    def rest(self, endpoint: Endpoint, now: float, seconds: float = REST_SECONDS) -> None:
        """Pass ``endpoint`` over for ``seconds`` from ``now``."""
        self._until[endpoint.url, endpoint.started_at] = now + seconds

    def wake(self, endpoint: Endpoint) -> None:
        """It answered."""
        self._until.pop((endpoint.url, endpoint.started_at), None)

    def left(self, endpoint: Endpoint, now: float) -> float:
        """Seconds until it may be asked again; 0 when it may."""
        return max(0.0, self._until.get((endpoint.url, endpoint.started_at), 0.0) - now)

    def choose(self, preferred: list[Endpoint], now: float) -> Endpoint | None:
        """The first that need not rest, else the one whose rest ends first; None without any."""
        return min(preferred, key=lambda endpoint: self.left(endpoint, now), default=None)
