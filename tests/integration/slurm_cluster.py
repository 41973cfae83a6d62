"""Fixtures: a real Slurm cluster of four nodes on this machine, one per test process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpc.config.cluster import ClusterConfig, Resources
from hpc.rundir import RunDir
from hpc.slurm import ElementState, states

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "dev-slurm"


class DevSlurm:
    """A running development cluster."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.conf = folder / "etc" / "slurm.conf"
        self.path = os.environ["PATH"]  # a test may change it
        self.script("start", *options)

    def script(self, verb: str, *arguments: str) -> str:
        """Run ``scripts/dev-slurm VERB DIR …``."""
        done = subprocess.run(
            [sys.executable, str(SCRIPT), verb, str(self.folder), *arguments], capture_output=True, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip())
        return done.stdout

    def call(self, *argv: str) -> str:
        """Run one of Slurm's programs on this cluster."""
        environment = {**os.environ, "SLURM_CONF": str(self.conf), "PATH": self.path}
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout

    def config(
        self, *, time_min: int = 10, cpus: int = 1, elements_per_job: int = 1, **changes: object
    ) -> ClusterConfig:
        """A configuration for test jobs of any kind on this cluster."""
        from tests.integration.slurm_probe import KIND

        resources = Resources(time_min=time_min, cpus=cpus, mem_gb=0.1, elements_per_job=elements_per_job)
        return ClusterConfig(**{"executor": "slurm", "resources": {KIND: resources}, "signal_seconds": 20, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def dev_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevSlurm]:
    """The cluster: arrays of at most 10 indices per chunk, partitions main and low, no accounting."""
    check = subprocess.run(
        ["sh", "-c", "PATH=$PATH:/usr/sbin; command -v slurmctld munged sbatch"], capture_output=True
    )
    if check.returncode != 0 and not os.environ.get("CI"):
        pytest.skip("the Debian packages of Slurm are not installed; see scripts/dev-slurm")
    folder = tmp_path_factory.mktemp("slurm", numbered=True)
    try:
        yield DevSlurm(folder, "max_array_size=10", "slurmd_timeout=10")
    finally:
        subprocess.run([sys.executable, str(SCRIPT), "stop", str(folder)], capture_output=True, check=True)


@pytest.fixture
def slurm_cluster(dev_slurm: DevSlurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[DevSlurm]:
    """The cluster as the one that commands and jobs of this test see; emptied afterwards."""
    monkeypatch.setenv("SLURM_CONF", str(dev_slurm.conf))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    try:
        yield dev_slurm
    finally:
        dev_slurm.call("scancel", "--full", "-u", str(os.getuid()))


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """An empty run directory."""
    return RunDir.create(tmp_path / "runs" / "tried", manifest={}, config={}, config_hash="0" * 16)


def eventually(condition: Callable[[], bool], seconds: float = 60.0, seen: Callable[[], str] = lambda: "") -> None:
    """Poll until the condition holds; fail with what is ``seen`` if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s {seen()}")
        time.sleep(0.05)


def wait_for(
    run: RunDir, job: str | None, condition: Callable[[list[ElementState]], bool], seconds: float = 90.0
) -> list[ElementState]:
    """Ask for the states until they fulfil the condition; they are in the failure's message if they never do."""
    deadline = time.monotonic() + seconds
    while True:
        elements = states(run, job)
        if condition(elements):
            return elements
        if time.monotonic() > deadline:
            shown = [(e.job, e.index, e.state, e.reason, e.attempt) for e in elements]
            raise AssertionError(f"not within {seconds:g} s: {shown}")
        time.sleep(0.2)


def all_in(*wanted: str) -> Callable[[list[ElementState]], bool]:
    """Every element is in one of these states."""
    return lambda elements: bool(elements) and all(element.state in wanted for element in elements)
