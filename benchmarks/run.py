"""``make bench``: runs every benchmark of this folder, each in its own process.

stdout holds their JSON lines {name, value, unit, baseline, baseline_value, ratio, target, met}, all
measured in this run; what a benchmark says besides goes to stderr. Exit codes: 0, 1 when one of
them broke, 5 when all ran but a target was missed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIELDS = ("name", "value", "unit", "baseline", "baseline_value", "ratio", "target", "met")


def results_of(benchmark: Path) -> list[dict[str, object]]:
    """The JSON lines that a benchmark prints.

    Raises:
        ValueError: it broke, printed none, or one lacks a field.
    """
    done = subprocess.run([sys.executable, str(benchmark)], cwd=HERE.parent, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise ValueError(f"it exited with {done.returncode}")
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not results:
        raise ValueError("it printed no result")
    for result in results:
        if missing := [field for field in FIELDS if field not in result]:
            raise ValueError(f"a result lacks {', '.join(missing)}: {result}")
    return results


def main() -> int:
    """Run all, or those whose names are given (``benchmarks/run.py cli``)."""
    chosen = set(sys.argv[1:])
    broken, missed = 0, 0
    for benchmark in sorted(HERE.glob("bench_*.py")):
        name = benchmark.stem.removeprefix("bench_")
        if chosen and name not in chosen:
            continue
        print(f"bench: {name}", file=sys.stderr)
        try:
            results = results_of(benchmark)
        except ValueError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            broken += 1
            continue
        for result in results:
            print(json.dumps(result), flush=True)
            missed += not result["met"]
    if broken:
        return 1
    return 5 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
