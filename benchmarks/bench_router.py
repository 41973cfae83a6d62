"""The guidance router under 1,000 connected agents, against what its parts can do by themselves.

Figures, from rounds that alternate with their baselines (the machine may be shared):

- durable alerts a second, end to end: sent by an agent, committed, acknowledged to it. Baselines: the same
  agents against a bare CURVE ROUTER that only acknowledges, and a bare SQLite group commit of rows of
  that size. Target: half of the slower one.
- milliseconds from an annotator's reply on the inbox socket to its guidance at the agent, at 100 alerts
  and replies a second (p50, p99). Baseline: a bare round trip at that rate. Target: 50 ms at p99.
- processor time of the router for each alert, which a busy machine does not distort. Baseline: that of the
  bare ROUTER for a message and of the bare commit for a row, together. Target: five times that.
- memory of the router for each connected agent. Baseline: that of the bare ROUTER.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.router_load import EVIDENCE  # noqa: E402
from hpc.rundir import RunDir  # noqa: E402
from hpc.wire import discovery, keys  # noqa: E402

AGENTS = int(os.environ.get("BENCH_ROUTER_AGENTS", "1000"))
ROUNDS = int(os.environ.get("BENCH_ROUTER_ROUNDS", "3"))
STORM_SECONDS = 5.0
TRICKLE_SECONDS = 8.0
RATE = 100.0
BATCH = 256
TARGET_RATIO = 0.5
TARGET_MS = 50.0
TARGET_COST = 5.0
TARGET_MEMORY = 3.0

CONFIG = {
    "annotators": {"kind": "none", "attention": {"budget": {"alerts_per_hour": 0}}},
    "router": {"host": "127.0.0.1", "threads": "alert"},
}


@contextlib.contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone at the end."""
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line it prints.

    Raises:
        RuntimeError: it ended instead.
    """
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args} ended with {process.wait()}")
    return line


def order(process: subprocess.Popen[str], **fields: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(fields) + "\n")
    process.stdin.flush()


def ask(process: subprocess.Popen[str], **fields: Any) -> dict[str, Any]:
    order(process, **fields)
    return dict(json.loads(line_of(process)))


@contextlib.contextmanager
def crowd(run: RunDir, address: str, server_key: str, first: int = 0) -> Iterator[subprocess.Popen[str]]:
    """All agents, connected, in one process."""
    given = {"run": str(run.root), "address": address, "server_key": server_key, "first": first, "count": AGENTS}
    with child("benchmarks/router_load.py", "agents", json.dumps(given)) as process:
        line_of(process)
        yield process


def resident(pid: int) -> float:
    """Memory of a process in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    return 0.0


def spent(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def storm(agents: subprocess.Popen[str], server: subprocess.Popen[str], cost: list[float]) -> float:
    """Acknowledged alerts a second; to ``cost`` the server's processor microseconds for each."""
    before = spent(server.pid)
    found = ask(agents, do="storm", seconds=STORM_SECONDS)
    cost.append(1e6 * (spent(server.pid) - before) / float(found["acknowledged"]))
    return float(found["acknowledged"]) / float(found["seconds"])


def commit_rows(folder: Path, cost: list[float]) -> float:
    """Rows a second of a bare group commit in SQLite, durable as the journal is; to ``cost`` the
    processor microseconds of each."""
    path = folder / "bare.sqlite3"
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path, isolation_level=None)
    for statement in ("locking_mode=exclusive", "journal_mode=wal", "synchronous=full"):
        database.execute(f"pragma {statement}")
    database.execute("create table alert (id text primary key, episode text, body blob)")
    body = b"x" * sum(len(step.action) + len(step.observation) for step in EVIDENCE)
    rows, start, before = 0, time.monotonic(), time.process_time()
    while time.monotonic() - start < STORM_SECONDS / 2:
        database.execute("begin immediate")
        for _ in range(BATCH):
            rows += 1
            database.execute("insert into alert values (?, ?, ?)", (f"demo-00000-a{rows}", "demo-00000", body))
        database.execute("commit")
    passed = time.monotonic() - start
    cost.append(1e6 * (time.process_time() - before) / rows)
    database.close()
    return rows / passed


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def emit(name: str, value: float, unit: str, baseline: str, baseline_value: float, target: str, met: bool) -> None:
    result = {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "baseline": baseline,
        "baseline_value": round(baseline_value, 3),
        "ratio": round(value / baseline_value, 3),
        "target": target,
        "met": met,
    }
    print(json.dumps(result), flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder, contextlib.ExitStack() as stack:
        run = RunDir.create(Path(folder) / "bench", manifest={}, config=CONFIG, config_hash="0" * 16)
        keys.create_run_keys(run)
        pair = keys.load_router_keys(run)
        given = json.dumps({"public": pair.public, "secret": pair.secret})
        bare = stack.enter_context(child("benchmarks/router_load.py", "echo", given))
        bare_address = f"tcp://127.0.0.1:{int(line_of(bare))}"
        router = stack.enter_context(child("-m", "hpc.cli", "router", "start", str(run.root), "--foreground"))
        deadline = time.monotonic() + 60
        while (info := discovery.read(run)) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if info is None:
            raise RuntimeError("the router did not start")
        before = resident(router.pid), resident(bare.pid)
        bare_agents = stack.enter_context(crowd(run, bare_address, pair.public))
        agents = stack.enter_context(crowd(run, info.address, pair.public))
        time.sleep(2.0)
        memory = [(resident(pid) - start) / AGENTS for pid, start in zip((router.pid, bare.pid), before, strict=True)]

        trickles: dict[bool, list[float]] = {True: [], False: []}
        lost = 0
        for _ in range(ROUNDS):
            for replies, process in ((False, bare_agents), (True, agents)):
                found = ask(process, do="trickle", seconds=TRICKLE_SECONDS, rate=RATE, replies=replies)
                trickles[replies] += found["milliseconds"]
                lost += found["lost"]
        wires, commits, alerts = [], [], []
        costs: dict[str, list[float]] = {"wire": [], "commit": [], "router": []}
        for _ in range(ROUNDS):
            wires.append(storm(bare_agents, bare, costs["wire"]))
            commits.append(commit_rows(Path(folder), costs["commit"]))
            alerts.append(storm(agents, router, costs["router"]))
            print(f"wire {wires[-1]:.0f}/s, commit {commits[-1]:.0f}/s, router {alerts[-1]:.0f}/s", file=sys.stderr)
    wire, commit, rate = statistics.median(wires), statistics.median(commits), statistics.median(alerts)
    target = f"half of the slower of the bare limits (wire {wire:.0f}/s, commit {commit:.0f}/s)"
    met = rate >= TARGET_RATIO * min(wire, commit)
    emit("router_alerts", rate, "1/s", f"bare CURVE ROUTER, {AGENTS} agents", wire, target, met)
    emit("router_commits", rate, "1/s", f"bare SQLite commits of {BATCH} rows", commit, target, met)
    cost = {name: statistics.median(values) for name, values in costs.items()}
    limit, text = cost["wire"] + cost["commit"], f"ratio <= {TARGET_COST:g}"
    met = cost["router"] <= TARGET_COST * limit
    emit("router_processor", cost["router"], "us/alert", "bare ROUTER and bare commit", limit, text, met)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        value, baseline = percentile(trickles[True], share), percentile(trickles[False], share)
        text = f"value <= {TARGET_MS:g} ms, nothing lost"
        emit(f"router_reply_{name}", value, "ms", "bare round trip", baseline, text, value <= TARGET_MS and not lost)
    text = f"ratio <= {TARGET_MEMORY:g}"
    emit(
        "router_memory", memory[0], "KiB/agent", "bare ROUTER", memory[1], text, memory[0] <= TARGET_MEMORY * memory[1]
    )


if __name__ == "__main__":
    main()
