"""Submitting again and cancelling: nobody's silence is taken for an end, and the system's errors are told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpc import slurm
from hpc.config.cluster import ClusterConfig
from hpc.core.errors import ConfigError, HpcError, SubmissionError
from hpc.rundir import RunDir
from hpc.slurm import JobSpec
from hpc.slurm.elements import Outcome, write_outcome
from hpc.slurm.facts import ClusterFacts
from hpc.slurm.record import locked, read_record
from hpc.wire.keys import create_run_keys

LOCAL = ClusterConfig(executor="local")


def _submitted(folder: Path, *jobs: str, **submission: Any) -> RunDir:
    """A run whose jobs were submitted with two elements each."""
    run = RunDir.create(folder / "run", manifest={}, config={}, config_hash="0")
    records = {
        job: {
            "kind": "x",
            "elements": 2,
            "submissions": [{"at": 1e9, "chunks": [{"id": f"{number}", "offset": 0, "tasks": "0-1"}], **submission}],
        }
        for number, job in enumerate(jobs, 24)
    }
    run.jobs.write_text(json.dumps({"version": 1, "jobs": records}))
    for job in jobs:
        run.elements(job).write_text(json.dumps({"kind": "x", "run": str(run.root), "payloads": [{}, {}]}))
    return run


def test_what_a_silent_controller_may_still_run_is_not_submitted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*argv: str, **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(argv, 1, "", "squeue: error: Unable to contact slurm controller\n")

    module = sys.modules["hpc.slurm.states"]
    monkeypatch.setattr(module, "call", silent)
    monkeypatch.setattr(module, "limits", lambda: ClusterFacts(available=True, accounting=False))
    run = _submitted(tmp_path, "a", backend="slurm")
    write_outcome(run, "a", 0, Outcome(state="failed", job_id="24_0"))
    before = run.jobs.read_bytes()

    for indices in (None, [1]):
        with pytest.raises(SubmissionError, match="the state of a 1 is unknown: squeue does not answer") as error:
            slurm.resubmit(run, LOCAL, "a", indices)
        assert "when the scheduler answers" in error.value.hint
    assert run.jobs.read_bytes() == before
    assert run.element_result("a", 0).exists()


def test_what_runs_on_another_machine_is_neither_run_again_nor_counted_as_cancelled(tmp_path: Path) -> None:
    run = _submitted(tmp_path, "a", "b", backend="local", host="elsewhere", pid=1, process_started=1.0)
    for index in (0, 1):
        write_outcome(run, "b", index, Outcome(state="done", job_id=f"25_{index}"))

    with pytest.raises(SubmissionError, match="the state of a 0-1 is unknown: runs on elsewhere"):
        slurm.resubmit(run, LOCAL, "a")
    with pytest.raises(SubmissionError, match="a of run cannot be cancelled from here: it runs on elsewhere"):
        slurm.cancel(run)
    assert not read_record(run).jobs["a"].submissions[0].cancelled
    assert slurm.cancel(run, ["b"]) == 0


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", manifest={}, config={}, config_hash="0")
    with pytest.raises(SubmissionError, match="cannot start a on this machine: /nowhere/python: No such file"):
        slurm.submit(JobSpec("a", "x", [{}]), ClusterConfig(executor="local", python="/nowhere/python"), run)
    assert not slurm.is_recorded(run, "a")


def test_a_place_that_cannot_hold_a_run(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for root in (file, file / "run", Path("/proc/run")):
        with pytest.raises(ConfigError, match=f"cannot make the run directory {root}") as error:
            RunDir.create(root, manifest={}, config={}, config_hash="0")
        assert "run.root" in error.value.hint
        with pytest.raises(HpcError, match="cannot make"):
            create_run_keys(RunDir(root))
        with pytest.raises(HpcError, match="cannot make the folder"), locked(RunDir(root)):
            pass
