"""scripts/dev-slurm itself: side by side, without leftovers, and clear about what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hpc.config.cluster import ClusterConfig
from hpc.core.errors import SubmissionError
from hpc.slurm import choose_executor, cluster_facts
from tests.integration.slurm_cluster import SCRIPT, DevSlurm, eventually

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm-dev_cluster")]


def processes_of(folder: Path) -> list[str]:
    """Live processes that have a file of the folder open, or name it in their words or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = [*process.cmdline(), *process.environ().values(), *(file.path for file in process.open_files())]
        except psutil.Error:
            continue
        if any(str(folder) in word for word in words):
            found.append(" ".join(process.cmdline()) or process.name())
    return found


def test_two_clusters_side_by_side_and_nothing_is_left_of_a_stopped_one(
    slurm_cluster: DevSlurm, tmp_path: Path
) -> None:
    deep = tmp_path / ("a-folder-whose-path-is-too-long-for-the-sockets-of-its-steps-" + "x" * 40)
    second = DevSlurm(deep / "second", "nodes=2", "gpus=2", "grace=7", "max_array_size=77")
    try:
        nodes = second.call("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %G").split()
        assert nodes == ["node0", "gpu:2", "node1", "gpu:2"]
        assert len(slurm_cluster.call("sinfo", "--noheader", "--Node", "--partition=main").splitlines()) == 4
        # a job that hides from its step, with GPUs of its own
        wrap = f"--wrap=echo $CUDA_VISIBLE_DEVICES > {tmp_path}/gpus; setsid sleep 600 & sleep 600"
        second.call("sbatch", "--gpus-per-node=2", "--output=/dev/null", wrap)
        gpus = tmp_path / "gpus"
        eventually(
            lambda: gpus.exists() and gpus.read_text() == "0,1\n",
            seen=lambda: second.call("scontrol", "show", "job") + second.call("sinfo", "--Node", "--long"),
        )
        again = subprocess.run(
            [sys.executable, str(SCRIPT), "start", str(second.folder)], capture_output=True, text=True
        )
        assert again.returncode == 1
        assert "runs in" in again.stderr
    finally:
        second.script("stop")
    assert processes_of(deep / "second") == []
    assert slurm_cluster.call("scontrol", "ping").count("UP") == 1
    second.script("stop")  # stopping what is stopped is no error


def test_facts(slurm_cluster: DevSlurm) -> None:
    facts = cluster_facts()
    assert (facts.available, facts.max_array_size, facts.accounting, facts.requeue) == (True, 10, False, True)
    assert (facts.preempt_mode, facts.preempt_user_signal, facts.needs_srun) == ("REQUEUE", True, False)
    partitions = {partition.name: partition for partition in facts.partitions}
    assert partitions["main"].default
    assert (partitions["low"].preempt_mode, partitions["low"].grace_seconds) == ("REQUEUE", 20)
    assert partitions["low"].nodes == 4


def test_auto_takes_slurm_only_where_it_is_configured_and_never_the_login_node_in_its_place(
    slurm_cluster: DevSlurm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    auto = ClusterConfig()
    assert choose_executor(auto) == "slurm"
    assert choose_executor(ClusterConfig(executor="local")) == "local"
    # a controller that is down
    conf = tmp_path / "slurm.conf"
    lines = slurm_cluster.conf.read_text().splitlines()
    conf.write_text(
        "\n".join("SlurmctldPort=1" if line.startswith("SlurmctldPort=") else line for line in lines) + "\n"
    )
    (tmp_path / "gres.conf").write_text((slurm_cluster.conf.parent / "gres.conf").read_text())
    monkeypatch.setenv("SLURM_CONF", str(conf))
    with pytest.raises(SubmissionError, match="controller does not answer"):
        choose_executor(auto)
    # no configuration at all
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "missing.conf"))
    assert choose_executor(auto) == "local"
    # no Slurm at all
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_executor(auto) == "local"
    assert cluster_facts().problem == "sbatch is not installed"


def test_missing_packages_are_named_with_the_command_that_installs_them(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "start", str(tmp_path / "c")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "not installed: slurm-client; run: apt-get install -y --no-install-recommends slurm-client" in done.stderr
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["start", "DIR", "nods=3"], "unknown option 'nods=3'"),
        (["start", "DIR", "nodes=abc"], "nodes is 'abc', it must be a whole number"),
        (["start", "/proc/none"], "/proc/none"),
        (["kill-node", "DIR", "node0"], "no cluster in"),
        (["env", "DIR"], "no cluster in"),
        (["restart", "DIR"], "usage:"),
    ],
)
def test_mistakes_are_said_on_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    given = [str(tmp_path / "none") if word == "DIR" else word for word in arguments]
    done = subprocess.run([sys.executable, str(SCRIPT), *given], capture_output=True, text=True)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
