"""The serve job and `hpc server`, with a stub in vLLM's place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from hpc.core.errors import ConfigError, ServingError
from hpc.rundir import RunDir
from hpc.serving import registry
from hpc.slurm import REQUEUE, Allocation
from jobs.serve import ServeJob
from tests.integration.serving_run import make_model, until
from tests.integration.stub_openai import write_program


def make_run(folder: Path, **environment: str) -> RunDir:
    config = {
        "server": {"name": "s", "probe_seconds": 0.2, "drain_seconds": 5.0},
        "model": {"name": "stub", "path": make_model(folder).path},
        "runtime": {"vllm": str(write_program(folder, **environment))},
    }
    return RunDir.create(folder / "run", manifest={}, config=config, config_hash="0")


@pytest.mark.parametrize(("reason", "status"), [("preempt", REQUEUE), ("walltime", REQUEUE), ("cancel", 0)])
def test_a_job_that_must_go_drains_and_says_whether_to_run_again(tmp_path: Path, reason: Any, status: int) -> None:
    run = make_run(tmp_path)
    allocation = Allocation(job_id="7_0")
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(ServeJob(server="s", replica=0)(run, allocation)))
    thread.start()
    endpoint = until(lambda: next(iter(registry.live_endpoints(run, "s")), None), "an endpoint")
    assert endpoint.job_id == "7_0"
    allocation.stop(reason)
    thread.join(60)
    assert ended == [status]
    assert not run.endpoint("s", 0).exists()


def test_a_job_ends_with_its_run(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.mark_done("all over")
    assert ServeJob(server="s", replica=0)(run, Allocation(job_id="7_0")) == 0


def test_a_server_that_fails_is_an_error_with_the_log(tmp_path: Path) -> None:
    run = make_run(tmp_path, STUB_EXIT="ValueError: no such device")
    with pytest.raises(ServingError, match="no such device") as caught:
        ServeJob(server="s", replica=0)(run, Allocation(job_id="7_0"))
    assert str(run.logs / "serve-s-0.log") in caught.value.hint


def test_a_job_for_another_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has server 's', not 'other'"):
        ServeJob(server="other", replica=0)(make_run(tmp_path), Allocation(job_id="7_0"))


class Shell:
    """`hpc server` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "hpc.cli", "server", *words],
            cwd=self.folder,
            env={**os.environ, "HPC_RUNS": str(self.folder / "runs")},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == status, done.stderr
        return done

    def states(self, *words: str) -> list[str]:
        return [row["state"] for row in json.loads(self("list", "--json", *words).stdout)]


def test_launch_list_status_logs_stop(tmp_path: Path) -> None:
    hpc = Shell(tmp_path)
    program = write_program(tmp_path)
    launch = [
        "launch",
        "run.name=srv",
        "cluster=local",
        "model=custom",
        "model.name=stub",
        f"model.path={make_model(tmp_path).path}",
        f"runtime.vllm={program}",
        "server.name=s",
        "server.replicas=2",
    ]
    assert "serve-s" in hpc(*launch, "--dry-run").stdout
    assert hpc.states() == []
    launched = hpc(*launch)
    assert launched.stdout.strip() == str(tmp_path / "runs" / "srv")
    assert "hpc server status srv" in launched.stderr
    try:
        until(lambda: hpc.states() == ["READY", "READY"], "two ready replicas")
        assert "kept serve-s" in hpc(*launch).stderr
        status = json.loads(hpc("status", "srv", "--json").stdout)
        assert [replica["metrics"]["running"] for replica in status] == [0.0, 0.0]
        assert "listening on" in hpc("logs", "srv", "--replica", "1").stdout
        assert hpc("status", "srv").stdout.count("READY") == 2
    finally:
        hpc("stop", "srv")
    until(lambda: hpc.states("--all") == ["SHUTDOWN", "SHUTDOWN"], "the end")
    assert hpc.states() == []
    assert list((tmp_path / "runs" / "srv" / "endpoints" / "s").glob("*.json")) == []


def test_mistakes_are_answered_in_a_line_with_the_fix(tmp_path: Path) -> None:
    hpc = Shell(tmp_path)
    wrong = hpc("launch", "model=custom", "model.name=m", "model.path=/no/model", status=2)
    assert "'/no/model' does not exist" in wrong.stderr
    assert "fix:" in wrong.stderr
    assert not (tmp_path / "runs").exists()
    assert "either urls" in hpc("launch", "server=external", status=2).stderr
    assert "no run directory" in hpc("stop", "nothing", status=2).stderr
    run = RunDir.create(tmp_path / "runs" / "r", manifest={}, config={}, config_hash="0")
    assert "no server of its own" in hpc("status", run.name, status=2).stderr
