"""A job for tests: does as its payload says, and writes down what happened to it."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any

import msgspec

from hpc.rundir import RunDir
from hpc.slurm import REQUEUE, Allocation

KIND = "tests.integration.slurm_probe:Probe"


class Probe(msgspec.Struct, frozen=True):
    """Appends a line per start to ``probe/<name>-<index>.jsonl``, then acts.

    ``finish``: returns 0 · ``fail``: raises · ``exit``: returns 3 · ``again``: asks to be run again
    until it was started ``starts`` times · ``work``: works until it is told to stop, saves, asks to
    be run again; once it was started ``starts`` times it finishes at once · ``deaf``: ignores stops ·
    ``fail_once``: raises when it is the first ever to write its file · ``fail_rank``: one of several
    processes raises, the others work on.
    """

    name: str = "probe"
    act: str = "finish"
    starts: int = 2
    seconds: float = 60.0
    on_cancel: int = 1

    def __call__(self, run: RunDir, allocation: Allocation) -> int:
        first_ever = self._note(run, allocation, "start")
        if self.act == "fail_rank":
            if os.environ.get("SLURM_PROCID") == "1":
                raise RuntimeError("rank 1 was told to fail")
            time.sleep(self.seconds)
        if self.act == "fail" or (self.act == "fail_once" and first_ever):
            raise RuntimeError("told to fail")
        if self.act == "exit":
            return 3
        if self.act in ("finish", "fail_once"):
            return 0
        first = allocation.restarts + 1 < self.starts
        if self.act == "again":
            return REQUEUE if first else 0
        if self.act == "work" and not first:
            return 0
        stopped = threading.Event()
        if self.act == "work":
            allocation.on_stop(lambda _reason: stopped.set())
        if not stopped.wait(self.seconds):
            self._note(run, allocation, "end")
            return 0
        self._note(run, allocation, "stop")
        return self.on_cancel if allocation.stop_reason == "cancel" else REQUEUE

    def _note(self, run: RunDir, allocation: Allocation, event: str) -> bool:
        folder = run.root / "probe"
        folder.mkdir(exist_ok=True)
        path = folder / f"{self.name}-{allocation.index}.jsonl"
        first_ever = not path.exists()
        line = {
            "event": event,
            "job_id": allocation.job_id,
            "restarts": allocation.restarts,
            "reason": allocation.stop_reason,
            "end_time": allocation.end_time,
            "backend": allocation.backend,
            "at": time.time(),
            "pid": os.getpid(),
            "node": os.environ.get("SLURMD_NODENAME", ""),
            "environment": sorted(os.environ),
        }
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return first_ever


def events(run: RunDir, name: str, index: int) -> list[dict[str, Any]]:
    """What the probe of this name and index wrote down, in order."""
    path = run.root / "probe" / f"{name}-{index}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
