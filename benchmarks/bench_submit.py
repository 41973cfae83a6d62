"""Time to submit an array of 1,000 elements, against a raw ``sbatch --array`` of the same length.

Both in one run, alternating, on a development cluster of its own; the jobs are held, so that only
the submission is measured. Ours includes the manifest, jobs.json and the script. The figures are
the least disturbed of all rounds: a submission takes a few milliseconds, less than what other
programs on the machine add to it. The medians stand beside them.

    python benchmarks/bench_submit.py
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = REPOSITORY / "scripts" / "dev-slurm"
ELEMENTS = 1000
ROUNDS = 40
TARGET = 1.5


def milliseconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def measure(folder: Path) -> tuple[list[float], list[float]]:
    """Milliseconds of each of our submissions and of each raw one."""
    from hpc.config.cluster import ClusterConfig
    from hpc.rundir import RunDir
    from hpc.slurm import JobSpec, submit

    cluster = ClusterConfig(executor="slurm", extra={"hold": True})
    spec = JobSpec("episodes", "episode", [{"indices": [index]} for index in range(ELEMENTS)])
    raw_command = ["sbatch", "--parsable", "--hold", f"--array=0-{ELEMENTS - 1}", "--output=/dev/null", "--wrap=true"]
    ours, raw = [], []
    for number in range(ROUNDS):
        run = RunDir.create(folder / f"run-{number}", manifest={}, config={}, config_hash="0")
        pair: list[tuple[list[float], Callable[[], object]]] = [
            (ours, lambda run=run: submit(spec, cluster, run)),  # type: ignore[misc]
            (raw, lambda: subprocess.run(raw_command, capture_output=True, check=True)),
        ]
        for times, action in pair if number % 2 else reversed(pair):
            times.append(milliseconds(action))
            # the controller has forgotten the last one before the next one comes
            subprocess.run(["scancel", "-u", str(os.getuid())], check=True)
            subprocess.run(["squeue", "--noheader", "--states=PENDING"], capture_output=True, check=True)
    return ours, raw


def main() -> None:
    """Print one line of JSON."""
    with tempfile.TemporaryDirectory(prefix="bench-submit-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, str(SCRIPT), "start", str(folder / "slurm")], check=True, stdout=sys.stderr)
        try:
            os.environ["SLURM_CONF"] = str(folder / "slurm" / "etc" / "slurm.conf")
            ours, raw = measure(folder)
        finally:
            subprocess.run([sys.executable, str(SCRIPT), "stop", str(folder / "slurm")], check=True)
    value, baseline = min(ours), min(raw)
    result = {
        "name": "submit_array_1000",
        "value": round(value, 2),
        "unit": "ms",
        "baseline": "sbatch --array=0-999",
        "baseline_value": round(baseline, 2),
        "ratio": round(value / baseline, 3),
        "target": f"ratio <= {TARGET:g}",
        "met": value / baseline <= TARGET,
        "median": round(statistics.median(ours), 2),
        "baseline_median": round(statistics.median(raw), 2),
        "first": round(ours[0], 2),
        "rounds": ROUNDS,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
