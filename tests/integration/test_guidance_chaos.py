"""The guidance loop under random faults: every reply exactly once, in order, at its own agent.

`CHAOS` sets the size, as ``AGENTS,ALERTS,REPLIES,AGENT_KILLS,ROUTER_KILLS``; ``make faults`` plays a
large campaign and shows its figures.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import pytest

from tests.integration.chaos import Campaign

AGENTS, ALERTS, REPLIES, *KILLS = (int(part) for part in os.environ.get("CHAOS", "3,3,2,4,2").split(","))
SECONDS = 90.0 + 5.0 * sum(KILLS) + AGENTS * ALERTS
SEED = int(os.environ.get("CHAOS_SEED", "7"))


@pytest.mark.timeout(SECONDS + 60.0)
def test_nothing_is_lost_doubled_or_misrouted(tmp_path: Path) -> None:
    campaign = Campaign(
        tmp_path / "run",
        agents=AGENTS,
        alerts=ALERTS,
        replies=REPLIES,
        kills=(KILLS[0], KILLS[1]),
        pause=0.4,
        seed=SEED,
    )
    with contextlib.closing(campaign):
        figures = campaign.play(SECONDS)
        figures |= campaign.check()
    print(json.dumps(figures), file=sys.stderr)
