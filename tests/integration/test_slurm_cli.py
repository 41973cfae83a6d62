"""hpc run, as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hpc import slurm
from hpc.cli import cli
from hpc.config.cluster import ClusterConfig
from hpc.core.errors import HpcError
from hpc.rundir import RunDir
from hpc.slurm import JobSpec
from tests.integration.slurm_cluster import REPOSITORY, all_in, run_dir, wait_for
from tests.integration.slurm_probe import KIND

__all__ = ["run_dir"]

LOCAL = ClusterConfig(executor="local")
Hpc = Callable[..., Result]


@pytest.fixture
def hpc(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hpc]:
    """``hpc run`` with these words."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("HPC_RUNS", str(run_dir.root.parent))
    yield lambda *words: CliRunner().invoke(cli, ["run", *words])
    if run_dir.root.exists():
        slurm.cancel(run_dir)


def fixed(result: Result) -> HpcError:
    assert isinstance(result.exception, HpcError), result.output
    return result.exception


def test_a_run_from_its_first_status_to_its_removal(hpc: Hpc, run_dir: RunDir, tmp_path: Path) -> None:
    payloads = [{"name": "p"}, {"name": "p", "act": "fail"}, {"name": "p", "act": "work"}]
    slurm.submit(JobSpec("job", KIND, payloads), LOCAL, run_dir)
    wait_for(run_dir, "job", lambda es: [e.state for e in es] == ["DONE", "FAILED", "RUNNING"])

    listed = json.loads(hpc("ls", "--json").stdout)
    assert [(row["run"], row["elements"]) for row in listed] == [("tried", {"DONE": 1, "FAILED": 1, "RUNNING": 1})]
    assert hpc().stdout == hpc("ls").stdout
    assert "DONE=1 FAILED=1 RUNNING=1" in hpc().stdout

    rows = [line.split("\t") for line in hpc("status", "tried").stdout.splitlines()]
    assert [row[:4] for row in rows] == [
        ["job", "DONE", "1", "0"],
        ["job", "FAILED", "1", "1"],
        ["job", "RUNNING", "1", "2"],
    ]
    assert rows[1][5] == "RuntimeError: told to fail"
    elements = json.loads(hpc("status", "tried", "job", "--json").stdout)["elements"]
    assert [element["state"] for element in elements] == ["DONE", "FAILED", "RUNNING"]

    assert "told to fail" in hpc("logs", "tried", "--index", "1").stdout
    assert "told to fail" in json.loads(hpc("logs", "tried", "job", "--index", "1", "--json").stdout)["text"]

    refused = fixed(hpc("clean", "tried", "--yes"))
    assert "not over: RUNNING=1" in refused.message
    assert refused.exit_code == 2
    assert "would cancel 1 elements" in hpc("cancel", "tried", "--dry-run").stderr
    assert slurm.states(run_dir)[2].state == "RUNNING"
    assert hpc("cancel", "tried", "job", "--yes").exit_code == 0
    wait_for(run_dir, "job", all_in("DONE", "FAILED", "CANCELLED"))
    assert hpc("status", "tried", "--watch").exit_code == 0  # returns: nothing is alive

    assert "would remove" in hpc("clean", "tried", "--dry-run").stderr
    assert run_dir.root.exists()
    assert json.loads(hpc("clean", "tried", "--yes", "--json").stdout)["removed"] is True
    assert list(run_dir.root.parent.iterdir()) == []
    assert hpc("ls").stdout == ""


def test_nothing_is_cancelled_or_removed_without_a_yes(hpc: Hpc, run_dir: RunDir) -> None:
    slurm.submit(JobSpec("job", KIND, [{"name": "p", "act": "work"}]), LOCAL, run_dir)
    wait_for(run_dir, "job", all_in("RUNNING"))
    assert hpc("cancel", "tried").exit_code != 0
    assert slurm.states(run_dir)[0].state == "RUNNING"
    slurm.cancel(run_dir)
    wait_for(run_dir, "job", all_in("CANCELLED"))
    assert hpc("clean", "tried").exit_code != 0
    assert run_dir.root.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["status", "none"], "no run directory"),
        (["status", "tried", "none"], "no job 'none'"),
        (["cancel", "tried", "none", "--yes"], "no job 'none'"),
        (["logs", "tried"], "has the jobs (none)"),
        (["logs", "tried", "none"], "no job 'none'"),
    ],
)
def test_what_is_not_there_is_named(hpc: Hpc, words: list[str], message: str) -> None:
    error = fixed(hpc(*words))
    assert message in error.message
    assert error.exit_code == 2
