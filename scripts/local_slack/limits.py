"""Slack's rate limits: posts a channel, and tiers of calls a minute for each method and token."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

TIERS = {1: 1, 2: 20, 3: 50, 4: 100}
"""Tier -> calls a minute that Slack grants at least."""

POST_RATE = 1.0  # posts a second into one channel
POST_BURST = 4
TIER_BURST = 5  # the least number of calls in a row, also where the tier grants one a minute


class RateLimits:
    """Token buckets. ``take`` says how many whole seconds a caller must wait, 0 for go on."""

    def __init__(self, *, enabled: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self.enabled = enabled
        self.refused = 0
        self._clock = clock
        self._buckets: dict[tuple[str, ...], tuple[float, float]] = {}

    def take(self, method: str, tier: int | None, token: str, channel: str) -> int:
        """One call; ``tier`` None is the limit of posts into ``channel``."""
        if not self.enabled:
            return 0
        if tier is None:
            key, rate, capacity = ("post", token, channel), POST_RATE, float(POST_BURST)
        else:
            key, rate, capacity = (method, token), TIERS[tier] / 60, float(max(TIERS[tier], TIER_BURST))
        now = self._clock()
        level, at = self._buckets.get(key, (capacity, now))
        level = min(capacity, level + (now - at) * rate)
        if level < 1:
            self._buckets[key] = (level, now)
            self.refused += 1
            return max(1, math.ceil((1 - level) / rate))
        self._buckets[key] = (level - 1, now)
        return 0
