"""Agents, routers and Slack under faults of every kind: each reply once, at its own agent, in order.

`CAMPAIGN` sets the size as ``AGENTS,ALERTS,FAULTS,PAUSE_SECONDS``; `CAMPAIGN_ROUNDS` plays so many, each on
a run of its own; `CAMPAIGN_SECONDS` bounds each round, `CAMPAIGN_SEED` repeats the faults. ``make faults``
plays a large campaign and shows its figures.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.integration.campaign import Size, play
from tests.integration.campaign_verdict import WRONGS

AGENTS, ALERTS, FAULTS, PAUSE = (float(part) for part in os.environ.get("CAMPAIGN", "6,60,20,0.5").split(","))
ROUNDS = int(os.environ.get("CAMPAIGN_ROUNDS", "1"))
SECONDS = float(os.environ.get("CAMPAIGN_SECONDS", "180"))
SEED = int(os.environ.get("CAMPAIGN_SEED", "7"))
SUMS = ("alerts", "answered", "replies", "applied", "faults", "alerts_lost", "alerts_shown_twice", *WRONGS)


def show(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Print the figures of all rounds as a table and as a line of JSON; their sums."""
    kinds: Counter[str] = Counter()
    for one in rounds:
        kinds.update(one["by_kind"])
    sums = {name: sum(one[name] for one in rounds) for name in SUMS}
    lines = [f"{name.replace('_', ' '):24}{value:8}" for name, value in [*sums.items(), *sorted(kinds.items())]]
    print("", *lines, json.dumps({"rounds": rounds, **sums}), sep="\n", file=sys.stderr)
    return sums


@pytest.mark.timeout(ROUNDS * (SECONDS + 120.0))
async def test_each_reply_is_applied_once_and_in_order_whatever_breaks(tmp_path: Path) -> None:
    rounds = []
    for number in range(ROUNDS):
        size = Size(int(AGENTS), int(ALERTS), int(FAULTS), PAUSE, SECONDS, SEED + number)
        rounds.append(await play(tmp_path / f"round-{number}", size))
    sums = show(rounds)
    wrong = {name: sums[name] for name in ("alerts_lost", "alerts_shown_twice", *WRONGS) if sums[name]}
    assert not wrong
    assert sums["answered"] == ROUNDS * int(ALERTS)
    assert sums["faults"] >= ROUNDS * int(FAULTS)
