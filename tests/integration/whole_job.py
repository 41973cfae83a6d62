"""The main job with real processes: local Slack, scripted annotator, router, episodes, servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hpc.rundir import RunDir
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import ActionTaken, Observed

ROOT = Path(__file__).resolve().parents[2]


def until(condition: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    """The first true result; fails with ``what`` was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(0.1)


def processes_of(folder: Path) -> dict[int, tuple[str, bytes]]:
    """Every process whose arguments or environment name ``folder``: pid -> (arguments, both as bytes)."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            command, environment = ((entry / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:  # not a process, gone meanwhile, or a kernel thread
            continue
        if entry.name.isdigit() and str(folder).encode() in command + environment:
            found[int(entry.name)] = (command.replace(b"\0", b" ").decode(errors="replace"), command + environment)
    return found


def ancestors_of(pid: int) -> set[int]:
    """The process itself, its parent, its parent's parent, …"""
    found: set[int] = set()
    while pid > 1:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def stub_runtime(folder: Path) -> list[str]:
    """Overrides that put the MiniLab stub in vLLM's place: a server job without weights."""
    program = folder / "vllm"
    stub = Path(__file__).with_name("minilab_stub.py")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {stub} "$@"\n')
    program.chmod(0o755)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    return [f"runtime.vllm={program}", "model=custom", "model.name=stub", f"model.path={folder / 'model'}"]


class WholeJob:
    """One run of the main job, driven as a user would drive it: through the command line."""

    def __init__(self, folder: Path, ready: dict[str, Any], name: str) -> None:
        self.folder = folder
        self.slack = ready
        self.name = name
        self.env = {
            **os.environ,
            "SLACK_BOT_TOKEN": ready["bot_token"],
            "SLACK_APP_TOKEN": ready["app_token"],
            "HPC_RUNS": str(folder / "runs"),
            "PYTHONPATH": str(ROOT),
        }

    @property
    def run(self) -> RunDir:
        return RunDir(self.folder / "runs" / self.name)

    def hpc(self, *arguments: str, code: int = 0, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "hpc.cli", *arguments],
            env=env or self.env, cwd=self.folder, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == code, f"hpc {' '.join(arguments)}: {done.returncode}\n{done.stderr}\n{done.stdout}"
        return done.stdout if code == 0 else done.stderr

    def overrides(self, episodes: int) -> list[str]:
        return [
            f"run.root={self.folder / 'runs'}",
            f"run.name={self.name}",
            f"run.episodes={episodes}",
            "annotators=slack",
            f"annotators.slack.base_url='{self.slack['base_url']}'",
            f"annotators.slack.channel={self.slack['channel']}",
            f"annotators.slack.annotators=[{self.slack['users']['alice']['id']}]",
            "annotators.slack.posts_per_second=50",
            "annotators.slack.post_burst=50",
        ]

    def result(self, index: int) -> dict[str, Any] | None:
        path = self.run.result(index)
        return dict(json.loads(path.read_text())) if path.exists() else None

    def progress(self, index: int) -> dict[str, Any]:
        try:
            return dict(json.loads(self.run.progress(index).read_text()))
        except (OSError, ValueError):
            return {}

    def wait_results(self, episodes: int, seconds: float = 240.0) -> None:
        def all_over() -> bool:
            return all(self.run.result(index).exists() for index in range(episodes))

        try:
            until(all_over, f"{episodes} results", seconds)
        except AssertionError as error:
            states = [self.progress(index) for index in range(episodes)]
            logs = "\n".join(path.read_text()[-1500:] for path in sorted(self.run.logs.glob("*/*.out")))
            raise AssertionError(f"{error}: {states}\n{logs}") from None

    def slack_messages(self) -> list[dict[str, Any]]:
        """Everything that was said in the channel, by anyone."""
        request = urllib.request.Request(
            f"{self.slack['url']}_ctl/messages", b"{}", {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            messages: list[dict[str, Any]] = json.load(answer)
        return messages

    def human_replies(self) -> list[str]:
        """Texts that people wrote, in threads."""
        people = {user["id"] for user in self.slack["users"].values()}
        return [str(m["text"]) for m in self.slack_messages() if m["user"] in people and m.get("thread_ts")]

    def told(self, words: str) -> list[str]:
        """Messages of the app that contain ``words``: what annotators were told."""
        people = {user["id"] for user in self.slack["users"].values()}
        return [m["ts"] for m in self.slack_messages() if m["user"] not in people and words in json.dumps(m)]


def check_trajectory(run: RunDir, index: int) -> dict[str, Any]:
    """Prove that a sealed trajectory is whole: no step twice, no guidance twice; its summary."""
    with Trajectory.open(run.trajectory(index)) as trajectory:
        records = list(trajectory.records())
        summary = trajectory.summary()
    steps = [record.step for record in records if isinstance(record, ActionTaken)]
    assert steps == list(range(1, len(steps) + 1))
    assert [record.step for record in records if isinstance(record, Observed)] == steps
    ids = [guidance["id"] for guidance in summary["guidance"]]
    assert len(ids) == len(set(ids))
    assert summary["steps"] == len(steps)
    return dict(summary)


@contextmanager
def whole_job(folder: Path, name: str, episodes: int, *, lines: int = 3) -> Iterator[WholeJob]:
    """Local Slack and a scripted annotator who knows the episodes of the run ``name``."""
    with ExitStack() as stack:
        logs = folder / "companions"
        logs.mkdir()

        def start(name: str, *command: str) -> None:
            log = stack.enter_context((logs / f"{name}.log").open("wb"))
            process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)

            def stop() -> None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

            stack.callback(stop)

        ready = folder / "slack.json"
        start("slack", "scripts/local_slack", "--port", "0", "--no-limits", "--ready-file", str(ready))
        until(ready.exists, "the local Slack server")
        job = WholeJob(folder, json.loads(ready.read_text()), name)
        sheet = folder / "sheet.json"
        sheet.write_text(job.hpc("task", "sheet", f"run.name={name}", f"run.episodes={episodes}", "--json"))
        start(
            "annotator", "scripts/local_slack/annotator.py", "--ready-file", str(ready), "--sheet", str(sheet),
            "--lines", str(lines), "--delay", "0.1",
        )  # fmt: skip
        try:
            yield job
        finally:
            if job.run.config.exists():
                job.hpc("episodes", "cancel", name, "--yes")
