"""Starts ranks of trainings, and exports, fast: torch and Megatron-core are imported once, each rank is a fork.

Run as a program it reads one JSON request a line from standard input and answers each with one line.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


class Nursery:
    """A process that forks ranks, as the tests see it."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.training_ranks"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment,
        )  # fmt: skip
        self._starts = 0

    def start(self, run: Path, *, world: int = 1, most_bytes: int | None = None) -> list[int]:
        """Start all ranks of a training; their process ids. No file may grow beyond ``most_bytes``."""
        self._starts += 1
        pids = []
        for rank in range(world):
            argv = [str(run), "--rank", str(rank), "--world", str(world), "--local-rank", str(rank)]
            argv += ["--start", f"test-{os.getpid()}-{self._starts}"]
            pids.append(self._fork("rank", run, argv, most_bytes))
        return pids

    def export(self, run: Path, step: int, target: Path) -> int:
        """Write a checkpoint as `hpc checkpoint export` does; the exit status."""
        return self.wait([self._fork("export", run, [str(run), str(step), str(target)], None)])[0]

    def say(self, pids: list[int], line: str) -> None:
        """What the parent of a rank would write into its standard input."""
        for pid in pids:
            self._ask(do="say", pid=pid, line=line)

    def wait(self, pids: list[int]) -> list[int]:
        """Exit statuses, negative for signals."""
        return [self._ask(do="wait", pid=pid)["code"] for pid in pids]

    def train(self, run: Path, *, world: int = 1, most_bytes: int | None = None) -> list[int]:
        """Start and wait."""
        return self.wait(self.start(run, world=world, most_bytes=most_bytes))

    def kill(self, pids: list[int]) -> None:
        """SIGKILL to all; then wait."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait(pids)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _fork(self, program: str, run: Path, argv: list[str], most_bytes: int | None) -> int:
        request = {"program": program, "argv": argv, "log": f"{run}.log", "most_bytes": most_bytes}
        pid: int = self._ask(do="start", **request)["pid"]
        return pid

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def _serve() -> None:
    from hpc.training.platform import prepare

    prepare()
    import hpc.training.session  # noqa: F401  what takes seconds

    pipes: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        if request["do"] == "start":
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(write)
                _become(request, read)
            os.close(read)
            pipes[pid] = write
            answer = {"pid": pid}
        elif request["do"] == "say":
            os.write(pipes[request["pid"]], (request["line"] + "\n").encode())
        else:
            answer = {"code": os.waitstatus_to_exitcode(os.waitpid(request["pid"], 0)[1])}
            os.close(pipes.pop(request["pid"]))
        print(json.dumps(answer), flush=True)


def _become(request: dict[str, Any], read: int) -> None:
    code = 1
    try:
        os.dup2(read, 0)
        sys.stdin = os.fdopen(0)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if request["most_bytes"] is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writes fail instead
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["most_bytes"],) * 2)
        code = importlib.import_module(f"jobs.{request['program']}").main(request["argv"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
