"""The examples of docs/reading.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hpc.trajectories import sealed
from hpc.trajectories.views import VIEWS
from tests.unit.trajectories.samples import episode, run_dir

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "reading.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_dir(tmp_path / "runs")
    run.trajectory(0).write_bytes(sealed.build(episode(12)))
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(examples) == 3
    names: dict[str, Any] = {}
    for example in examples:
        exec(compile(example, str(DOCUMENT), "exec"), names)
    out = capsys.readouterr().out
    assert "minilab/0 finished 12" in out
    assert "0 minilab/0 40.0 {'repeat': 2}" in out
    assert "demo-00000 ['ada', 'ada']" in out
    assert "3 2 ['run', 'index', 'id', 'alert_id']" in out


def test_the_columns_that_are_explained_exist() -> None:
    rows = re.findall(r"^\| (`.*`) \|", DOCUMENT.read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named and named <= set(VIEWS["steps"][0])
