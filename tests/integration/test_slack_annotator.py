"""The scripted annotator: a process of its own that answers alerts as a user of Slack would."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hpc.wire.messages import StepBrief

from .slack_fixtures import EPISODE, ROOT, FakeDesk, Server, connected, frontend, local_slack, until

SHEET = {
    "facts": [
        {"value": value, "knob": knob, "option": option, "advice": f"for {value} set {knob} to {option}"}
        for value, knob, option in [
            ("cobalt", "anneal", "450C"),
            ("ethanol", "mix", "fast"),
            ("quartz", "grind", "fine"),
        ]
    ],
    "episodes": {EPISODE: ["quartz", "cobalt", "ethanol"]},
}


@asynccontextmanager
async def annotator(server: Server, folder: Path, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    (folder / "sheet.json").write_text(json.dumps(SHEET))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "scripts/local_slack/annotator.py", "--ready-file", str(folder / "slack.json")),
        *("--sheet", str(folder / "sheet.json"), "--delay", "0", "--poll", "0.05", *options),
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")


def experiment(*observations: str) -> list[StepBrief]:
    return [
        StepBrief(step=step, action="run_command python experiment.py", observation=text)
        for step, text in enumerate(observations, 1)
    ]


@pytest.mark.parametrize(
    ("evidence", "answer"),
    [
        (
            experiment("stage 1 metric 88 pass\nnext anneal for cobalt", "stage 2 metric 31 low\n[exit 0]"),
            "for cobalt set anneal to 450C; for ethanol set mix to fast",
        ),
        (experiment("stage 3 metric 31 low\n[exit 0]"), "for ethanol set mix to fast"),
        (
            experiment("stage 1 metric 20 low", "recipe.yaml lines 1-1 edited, 6 lines"),
            "for quartz set grind to fine; for cobalt set anneal to 450C",
        ),
    ],
)
async def test_answers_with_the_lines_of_the_due_and_the_next_stages(
    tmp_path: Path, evidence: list[StepBrief], answer: str
) -> None:
    desk = FakeDesk()
    desk.open_episode()
    async with (
        local_slack(tmp_path, "--no-limits") as server,
        frontend(server, desk),
        annotator(server, tmp_path, "--lines", "2"),
    ):
        desk.raise_alert(evidence=evidence)
        await until(lambda: desk.replies)
        assert (desk.replies[0].text, desk.replies[0].annotator) == (answer, "U0ALICE")


async def test_answers_each_alert_once_also_after_a_restart(tmp_path: Path) -> None:
    desk = FakeDesk()
    desk.open_episode()
    desk.raise_alert("al-1")
    async with local_slack(tmp_path, "--no-limits") as server, frontend(server, desk):
        await connected(server)
        async with annotator(server, tmp_path):
            await until(lambda: len(desk.replies) == 1)
        desk.raise_alert("al-2")
        await until(lambda: "alert:al-2" in desk.published)
        async with annotator(server, tmp_path):
            await until(lambda: len(desk.replies) == 2)
            desk.raise_alert("al-3")
            await until(lambda: len(desk.replies) == 3)
        people = [message["user"] for message in await server.messages() if message["user"] in server.people]
        assert people == ["U0ALICE"] * 3
