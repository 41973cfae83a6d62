"""A training over two nodes of a real Slurm: preempted, requeued, and the same in the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc.config import compose
from hpc.launch_train import TRAIN, launch_training
from hpc.training.metrics import read_metrics
from tests.integration.slurm_cluster import DevSlurm, all_in, wait_for
from tests.integration.test_training import curve, dataset, log_of, nursery  # noqa: F401  fixtures
from tests.integration.training_ranks import Nursery

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("training-slurm"), pytest.mark.timeout(180)]


def test_a_preempted_training_over_two_nodes_goes_on_exactly(
    slurm_cluster: DevSlurm,
    nursery: Nursery,  # noqa: F811
    dataset: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    overrides = [
        "train=tiny", f"train.dataset={dataset}", "train.seq_length=128", "train.global_batch=2", "train.epochs=9",
        "train.steps=24", "train.checkpoints.every=10", "train.metrics.tensorboard=false", "cluster=dev",
        "cluster.resources.train={nodes: 2, mem_gb: 0.1, cpus: 1, time_min: 10}", f"run.root={tmp_path}",
    ]  # fmt: skip
    launch = launch_training(compose("train", [*overrides, "run.name=preempted", "cluster.partition=low"]))
    run = launch.run
    assert launch.world == 2
    wait_for(run, TRAIN, lambda _elements: len(curve(run)) >= 3, 60)
    words = ["--partition=main", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    slurm_cluster.call("sbatch", *words)
    again = launch_training(compose("train", [*overrides, "run.name=preempted", "cluster.partition=low"]))
    assert again.kept == ["train: already at work"] and not again.jobs
    done = wait_for(run, TRAIN, all_in("DONE"))
    assert done[0].attempt == 2
    assert run.done.exists()

    whole = launch_training(compose("train", [*overrides, "run.name=whole"]), dry_run=True)
    assert "--nodes=2" in whole.scripts[TRAIN][0] and "exec srun" in whole.scripts[TRAIN][0]
    run.checkpoints.rename(tmp_path / "preempted-checkpoints")
    figures = curve(run)
    run.metrics.unlink()
    assert nursery.train(run.root, world=2) == [0, 0], log_of(run)
    assert figures == curve(run)
    assert len(list(read_metrics(run.metrics, "step"))) == 24
