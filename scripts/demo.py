"""``make demo``: the main job on this machine, end to end, on embedded defaults.

Starts a local Slack server and an annotator, then submits eight MiniLab episodes with a real vLLM
server and the guidance router as jobs of the local executor, follows them live, and writes the
report. ``ANNOTATOR=me`` leaves the answers to the reader.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
SECONDS_PER_RUN = 20
LINES = 3  # how many facts of the expert sheet one reply gives


def start(
    stack: ExitStack, command: list[str], log: Path, env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a companion process that ends with the demo."""
    process = subprocess.Popen(command, stdout=log.open("ab"), stderr=subprocess.STDOUT, env=env, cwd=ROOT)

    def stop() -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()

    stack.callback(stop)
    return process


def wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """The JSON that a companion writes once it is ready."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists():
            value: dict[str, Any] = json.loads(path.read_text())
            return value
        if process.poll() is not None:
            break
        time.sleep(0.05)
    sys.exit(f"error: {log.stem} did not start; its log: {log}")


def hpc(*arguments: str, env: dict[str, str], capture: bool = False) -> str:
    """Run the command line as a user would."""
    done = subprocess.run(
        [PYTHON, "-m", "hpc.cli", *arguments], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE if capture else None
    )
    if done.returncode:
        sys.exit(f"error: hpc {' '.join(arguments)} exited with {done.returncode}")
    return done.stdout or ""


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # also then nothing stays behind
    human = os.environ.get("ANNOTATOR", "") == "me"
    episodes = int(os.environ.get("EPISODES", "3" if human else "8"))
    name = time.strftime("demo-%Y%m%d-%H%M%S")
    logs = ROOT / "runs" / ".demo" / name
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hpc-demo-")))
        log = logs / "local_slack.log"
        slack = start(
            stack,
            [PYTHON, "scripts/local_slack", "--port", "0", "--no-limits", "--ready-file", str(private / "slack.json")],
            log,
        )
        ready = wait_for(private / "slack.json", slack, log)
        env = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "SLACK_BOT_TOKEN": ready["bot_token"],
            "SLACK_APP_TOKEN": ready["app_token"],
        }
        overrides = [
            "experiment=demo",
            "cluster=local",
            f"cluster.throttle={episodes}",
            f"run.name={name}",
            f"run.episodes={episodes}",
            f"annotators.slack.base_url='{ready['base_url']}'",
            f"annotators.slack.channel={ready['channel']}",
            f"annotators.slack.annotators=[{','.join(user['id'] for user in ready['users'].values())}]",
            "annotators.slack.posts_per_second=20",  # the local server is asked to set no limit
            "annotators.slack.post_burst=20",
        ]
        if human:  # an experiment as long as a person needs to read an alert and answer it
            overrides.append(f"task.seconds_per_run={SECONDS_PER_RUN}")
        sheet = hpc("task", "sheet", *overrides[:5], "--json", env=env, capture=True)
        if human:
            web = ready["base_url"].split("/api")[0]
            print(f"You are the annotator. Open {web}/ and answer alerts in their threads,")
            print(f"or in another terminal: hpc inbox list --run {name}")
            print(f"What you know (the expert sheet): hpc task sheet --run {name}")
        else:
            (private / "sheet.json").write_text(sheet)
            start(
                stack,
                [
                    PYTHON,
                    "scripts/local_slack/annotator.py",
                    "--base-url",
                    ready["base_url"],
                    "--sheet",
                    str(private / "sheet.json"),
                    "--lines",
                    str(LINES),
                    "--delay",
                    "0.2",
                    "--ready-file",
                    str(private / "slack.json"),
                ],
                logs / "annotator.log",
            )
        stack.callback(leave, name, env)
        began = time.monotonic()
        hpc("episodes", "submit", *overrides, "--watch", env=env)
        report = hpc("episodes", "report", name, env=env, capture=True).strip()
        finish(name, report, time.monotonic() - began, env)


def leave(name: str, env: dict[str, str]) -> None:
    """End what is still alive, also after ^C; the router would stay a minute for late replies."""
    if (ROOT / "runs" / name / "config.json").exists():
        subprocess.run(
            [PYTHON, "-m", "hpc.cli", "episodes", "cancel", name, "--yes"], cwd=ROOT, env=env, capture_output=True
        )


def finish(name: str, report: str, seconds: float, env: dict[str, str]) -> None:
    """Say what happened and where everything is; fail if no guidance made the round trip."""
    rows = json.loads(hpc("traj", "ls", name, "--json", env=env, capture=True))
    trajectories = sorted((ROOT / "runs" / name / "trajectories").glob("*.h5"))
    shown = [json.loads(hpc("traj", "show", str(path), "--json", env=env, capture=True)) for path in trajectories]
    alerts = sum(len(one["alerts"]) for one in shown)
    applied = [guidance for one in shown for guidance in one["guidance"]]
    finished = sum(one["outcome"]["status"] == "finished" for one in shown)
    scores = [one["outcome"]["final_score"] for one in shown if one["outcome"]["final_score"] is not None]
    print()
    print(f"{len(shown)} of {len(rows)} episodes stored, {finished} finished, in {seconds:.0f} s")
    if scores:
        print(f"mean final score {sum(scores) / len(scores):.1f} of 100")
    print(f"{alerts} alerts raised; {len(applied)} replies given through Slack's API and applied")
    print(f"run directory  runs/{name}")
    print(f"trajectories   runs/{name}/trajectories/*.h5   (hpc traj show runs/{name}/trajectories/00000.h5)")
    print(f"report         {report}")
    if not applied:
        sys.exit("error: no reply was applied")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
