"""Reading trajectories: a run of `FILES` files listed from its index, and one step of a long one.

- listing: `read_index` of a run whose index is up to date, against opening each file (what listing
  cost without an index), both warm. Target: 20 times as fast, in under a second.
- the first listing, which opens every file once, against the same bare opening. Target: 0.5 times as fast.
- one step of `STEPS` steps: open the file and read the step, against reading all of its records.
  Target: 5 times as fast; and under 100 ms.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from msgspec.structs import replace  # noqa: E402

from hpc.rundir import RunDir  # noqa: E402
from hpc.trajectories import sealed  # noqa: E402
from hpc.trajectories.index import read_index  # noqa: E402
from hpc.trajectories.reader import Trajectory  # noqa: E402
from hpc.trajectories.records import Observed, Record  # noqa: E402
from tests.unit.trajectories.samples import episode, run_dir  # noqa: E402

FILES, SEEDS = 1000, 8
STEPS, OBSERVATION_BYTES = 2500, 10_000
REPEATS = 7


def report(name: str, seconds: float, baseline: str, baseline_seconds: float, target: float, met: bool) -> None:
    ratio = baseline_seconds / seconds
    print(
        json.dumps(
            {
                "name": name,
                "value": round(1000 * seconds, 2),
                "unit": "ms",
                "baseline": baseline,
                "baseline_value": round(1000 * baseline_seconds, 2),
                "ratio": round(ratio, 2),
                "target": target,
                "met": met and ratio >= target,
            }
        ),
        flush=True,
    )


def seconds_of(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """The median time of ``work``."""
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def open_all(run: RunDir) -> None:
    for index in range(FILES):
        with Trajectory.open((run, index)) as trajectory:
            trajectory.summary()


def long_episode() -> list[Record]:
    """`STEPS` steps whose observations are words, as logs are: about 25 MB that compress."""
    rng = random.Random(0)
    words = (ROOT / "docs" / "protocol.md").read_text().split()
    records: list[Record] = []
    for record in episode(STEPS, size=8):
        if isinstance(record, Observed):
            text = " ".join(rng.choices(words, k=OBSERVATION_BYTES // 7))
            record = replace(record, observation=replace(record.observation, text=text))
        records.append(record)
    return records


def listing(root: Path) -> None:
    run = run_dir(root, "many")
    images = [sealed.build(episode(20 + 4 * seed, index=seed, size=400)) for seed in range(SEEDS)]
    for index in range(FILES):
        run.trajectory(index).write_bytes(images[index % SEEDS])
    open_all(run)  # warm
    opened = seconds_of(lambda: open_all(run), 1)
    first = seconds_of(lambda: read_index(run), 1)
    known = seconds_of(lambda: read_index(run))
    report(f"first listing of {FILES} trajectories", first, "opening each", opened, 0.5, True)
    report(f"listing of {FILES} trajectories", known, "opening each", opened, 20.0, known < 1.0)


def one_step(root: Path) -> None:
    path = root / "long.h5"
    path.write_bytes(sealed.build(long_episode()))

    def read_one() -> None:
        with Trajectory.open(path) as trajectory:
            trajectory.step(STEPS * 3 // 4)

    def read_all() -> None:
        with Trajectory.open(path) as trajectory:
            for _ in trajectory.records():
                pass

    one, whole = seconds_of(read_one), seconds_of(read_all, 3)
    report(f"one step of {STEPS}", one, "reading all steps", whole, 5.0, one < 0.1)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        listing(Path(folder))
        one_step(Path(folder))
