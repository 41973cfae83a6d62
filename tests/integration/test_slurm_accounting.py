"""States from sacct, on a real Slurm that keeps accounts and soon forgets what has ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc import slurm
from hpc.cli.doctor_checks import Subject, check_slurm
from hpc.config import compose
from hpc.rundir import RunDir
from hpc.slurm import JobSpec
from hpc.slurm.facts import forget
from tests.integration.slurm_cluster import SCRIPT, DevSlurm, all_in, eventually, wait_for
from tests.integration.slurm_probe import KIND, events

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240), pytest.mark.xdist_group("slurm-arrays")]


@pytest.fixture
def accounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DevSlurm]:
    """A cluster of two nodes with slurmdbd, whose queue forgets a job two seconds after its end."""
    folder = tmp_path / "slurm"
    try:
        cluster = DevSlurm(folder, "nodes=2", "dbd=1", "min_job_age=2")
        monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
        monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parents[1]))
        forget()
        yield cluster
    finally:
        subprocess.run([str(SCRIPT), "stop", str(folder)], capture_output=True, check=True)
        forget()


def test_what_the_queue_has_forgotten_is_asked_of_the_accounts(accounting: DevSlurm, tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "runs" / "tried", manifest={}, config={}, config_hash="0" * 16)
    slurm.submit(JobSpec("killed", KIND, [{"name": "p", "act": "work"}]), accounting.config(), run)
    dropped = slurm.submit(JobSpec("dropped", KIND, [{"name": "q", "act": "work"}] * 3), accounting.config(cpus=8), run)
    wait_for(run, "killed", lambda _: bool(events(run, "p", 0)))

    os.kill(events(run, "p", 0)[0]["pid"], signal.SIGKILL)  # it dies without a word
    accounting.call("scancel", *dropped.ids)  # one of them runs, the others wait
    eventually(lambda: not accounting.call("squeue", "--noheader", "--states=all").strip())

    killed = wait_for(run, "killed", all_in("FAILED"))
    assert killed[0].gone and killed[0].host in ("node0", "node1")
    assert all(element.gone for element in wait_for(run, "dropped", all_in("CANCELLED")))

    status, message, _ = check_slurm(
        Subject(config=compose("episodes", ["cluster=dev"]), runs=tmp_path / "runs", environ=os.environ)
    )
    assert (status, "partitions: main, low" in message) == ("ok", True), message
