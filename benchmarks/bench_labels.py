"""Labelling by all rules against only reading the same trajectories: steps a second, alternating rounds.

Target: labelling takes at most three times as long as reading what it looks at.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hpc.supervision.history import past_of  # noqa: E402
from hpc.supervision.rules import RULES  # noqa: E402
from hpc.supervision.run import apply_rules  # noqa: E402
from hpc.trajectories import sealed  # noqa: E402
from hpc.trajectories.reader import Trajectory  # noqa: E402
from tests.unit.trajectories.samples import episode  # noqa: E402

STEPS, FILES, ROUNDS = 2500, 3, 3
TARGET = 1 / 3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.h5" for index in range(FILES)]
        for index, path in enumerate(paths):
            path.write_bytes(sealed.build(episode(STEPS, index=index, size=400)))
        read, labelled = [], []
        for number in range(ROUNDS):
            start = time.perf_counter()
            for path in paths:
                with Trajectory.open(path) as trajectory:
                    list(trajectory.records())
            read.append(FILES * STEPS / (time.perf_counter() - start))
            start = time.perf_counter()
            for path in paths:
                with Trajectory.open(path) as trajectory:
                    past = past_of(trajectory.records())
                apply_rules(past, path.with_suffix(f".{number}.jsonl"), RULES.values())
            labelled.append(FILES * STEPS / (time.perf_counter() - start))
    value, baseline = statistics.median(labelled), statistics.median(read)
    result = {
        "name": "label_rules",
        "value": round(value, 1),
        "unit": "steps/s",
        "baseline": "reading the same records",
        "baseline_value": round(baseline, 1),
        "ratio": round(value / baseline, 3),
        "target": f"ratio >= {TARGET:.2f}",
        "met": value >= TARGET * baseline,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
