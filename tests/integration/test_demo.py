"""``make demo`` as a reader runs it, with fewer episodes: a real vLLM server and the shipped policy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.vllm
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("vllm")
def test_the_demo_answers_an_alert_and_writes_its_report() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/demo.py"],
        cwd=ROOT, env={**os.environ, "EPISODES": "4", "ANNOTATOR": ""}, capture_output=True, text=True, timeout=580,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    match = re.search(r"(\d+) alerts raised; (\d+) replies given through Slack's API and applied", done.stdout)
    assert match and int(match.group(1)) >= 1 and int(match.group(2)) >= 1
    report = Path(re.search(r"^report +(\S+)$", done.stdout, re.MULTILINE)[1])  # type: ignore[index]
    page = report.read_text()
    assert page.count("<svg") >= 4 and "guidance" in page
    config = json.loads((report.parents[1] / "config.json").read_text())
    assert "xoxb" not in json.dumps(config)
