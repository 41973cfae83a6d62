"""How long `hpc --help` takes against an interpreter that only imports click.

Baseline: ``python -c "import click"``, the same interpreter, alternating with the measured command
so that both see the same machine. The figure is the median of their wall times. Target: twice the
baseline at most.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPEATS = 25
TARGET = 2.0


def seconds(command: list[str]) -> float:
    """Wall time of one run of a command."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    ours = [str(Path(sys.executable).with_name("hpc")), "--help"]
    bare = [sys.executable, "-c", "import click"]
    for command in (ours, bare):
        seconds(command)  # fills the caches of the file system
    pairs = [(seconds(ours), seconds(bare)) for _ in range(REPEATS)]
    value, baseline = (1000 * statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        json.dumps(
            {
                "name": "cli_start",
                "value": round(value, 1),
                "unit": "ms",
                "baseline": "python -c 'import click'",
                "baseline_value": round(baseline, 1),
                "ratio": round(value / baseline, 3),
                "target": f"ratio <= {TARGET:g}",
                "met": value / baseline <= TARGET,
            }
        )
    )


if __name__ == "__main__":
    main()
