"""hpc run: listing what is damaged, and removing what resists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpc.cli import cli
from hpc.core.errors import HpcError
from hpc.rundir import RunDir


def _run(root: Path, name: str) -> RunDir:
    return RunDir.create(root / name, manifest={}, config={"server": {"kind": "external"}}, config_hash="0")


@pytest.mark.parametrize("content", ["", "[]", '{"created_at": "today"}'])
def test_a_damaged_run_does_not_hide_the_others(tmp_path: Path, content: str) -> None:
    _run(tmp_path, "whole")
    _run(tmp_path, "bad").manifest.write_text(content)
    _run(tmp_path, "worse").jobs.write_text('{"version": 1, "jobs": ')
    _run(tmp_path, ".gone.removed")

    listed = CliRunner().invoke(cli, ["run", "ls", "--runs", str(tmp_path), "--json"], catch_exceptions=False)
    rows = {row["run"]: row["damaged"] for row in json.loads(listed.stdout)}
    assert rows.keys() == {"whole", "bad", "worse"}
    assert not rows["whole"]
    assert rows["bad"]
    assert "jobs.json is damaged" in rows["worse"]

    table = CliRunner().invoke(cli, ["run", "ls", "--runs", str(tmp_path)], catch_exceptions=False)
    assert {line.split("\t")[0]: line.split("\t")[-1] for line in table.stdout.splitlines()} == {
        "whole": "",
        "bad": "damaged",
        "worse": "damaged",
    }
    assert "worse is damaged: " in table.stderr


def test_the_list_of_servers_survives_a_damaged_run(tmp_path: Path) -> None:
    _run(tmp_path, "bad").config.write_text("[]")
    listed = CliRunner().invoke(cli, ["server", "list", "--runs", str(tmp_path), "--json"], catch_exceptions=False)
    assert json.loads(listed.stdout) == []
    assert "bad is damaged: " in listed.stderr


def test_a_removal_that_fails_says_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(tmp_path, "kept")

    def refuse(self: Path, _target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(HpcError, match=f"cannot remove {run.root}: Permission denied") as error:
        CliRunner().invoke(cli, ["run", "clean", "kept", "--runs", str(tmp_path), "--yes"], catch_exceptions=False)
    assert error.value.hint.endswith(f"rm -r {run.root}")
    assert run.config.exists()
