"""What a step of the episode loop costs beyond its HTTP call.

Plays one episode of `STEPS` steps (the action is `think`, so no shell is timed) against a stub
endpoint in a process of its own, then sends the very same request bodies again in a bare loop.
Value: median time between two steps of the episode; baseline: median time of a bare request; the
difference is what durability, the environment, drift detection and the mailbox cost. Target: 5 ms.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hpc.config import compose, config_hash, to_builtins  # noqa: E402
from hpc.rundir import RunDir  # noqa: E402
from hpc.slurm import Allocation  # noqa: E402
from hpc.trajectories.reader import Trajectory  # noqa: E402
from hpc.wire.keys import create_run_keys  # noqa: E402
from jobs.episode import EpisodeJob  # noqa: E402
from tests.integration.stub_openai import start_stub  # noqa: E402

STEPS = 300
TARGET_MS = 5.0


def play(root: Path, url: str) -> list[float]:
    """Seconds between the steps of a whole episode."""
    config = compose(
        "episodes",
        ["server=external", f"server.urls=[{url}]", "model=custom", "model.name=stub", "model.path=stub",
         "annotators=none", "drift=default", f"agent.max_steps={STEPS}", "run.episodes=1", "run.name=bench"],
    )  # fmt: skip
    run = RunDir.create(root / "bench", manifest={}, config=to_builtins(config), config_hash=config_hash(config))
    create_run_keys(run)
    EpisodeJob(indices=[0])(run, Allocation(job_id="bench"))
    with Trajectory.open(run.trajectory(0)) as trajectory:
        times = [step.action.at for step in trajectory.steps]
    return [after - before for before, after in itertools.pairwise(times)]


async def replay(url: str, bodies: list[dict[str, Any]]) -> list[float]:
    """Seconds of each of the same requests, one after the other and nothing else."""
    spent = []
    async with httpx.AsyncClient(timeout=60) as client:
        for body in bodies:
            start = time.perf_counter()
            response = await client.post(f"{url}/chat/completions", json=body)
            response.json()
            spent.append(time.perf_counter() - start)
    return spent


def main() -> None:
    logging.disable(logging.ERROR)
    answers = [{"tools": [["think", {"thought": f"thought number {number}"}]]} for number in range(STEPS)]
    with tempfile.TemporaryDirectory() as folder, start_stub("stub") as stub:
        stub.script(*answers)
        steps = play(Path(folder), stub.url)
        bodies = stub.requests
        stub.script(*answers)
        bare = asyncio.run(replay(stub.url, bodies))
    value, baseline = 1000 * statistics.median(steps), 1000 * statistics.median(bare)
    overhead = value - baseline
    print(
        json.dumps(
            {
                "name": "step_overhead",
                "value": round(value, 3),
                "unit": "ms",
                "baseline": "bare loop of the same HTTP calls",
                "baseline_value": round(baseline, 3),
                "ratio": round(value / baseline, 3),
                "target": f"value - baseline_value <= {TARGET_MS} ms",
                "difference": round(overhead, 3),
                "met": overhead <= TARGET_MS,
            }
        )
    )


if __name__ == "__main__":
    main()
