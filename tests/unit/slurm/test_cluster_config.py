"""Cluster configurations: every shipped one, defaults, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from hpc.config.cluster import DEFAULT_RESOURCES, ClusterConfig, Resources
from hpc.core.locate import data_dir

OPTIONS = sorted(path.stem for path in (data_dir("configs") / "cluster").glob("*.yaml"))


def shipped(option: str, *overrides: str) -> ClusterConfig:
    with initialize_config_dir(config_dir=str(data_dir("configs")), version_base="1.3"):
        composed = compose(overrides=[f"+cluster={option}", *overrides])
    value: Any = OmegaConf.to_container(composed, resolve=True)
    return msgspec.convert(value["cluster"], ClusterConfig)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_shipped_cluster_is_valid_and_says_what_it_is_for(option: str) -> None:
    cluster = shipped(option)
    assert set(DEFAULT_RESOURCES) <= set(cluster.resources)
    first = (data_dir("configs") / "cluster" / f"{option}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")


def test_the_shipped_default_is_the_built_in_one() -> None:
    assert OPTIONS == ["auto", "dev", "local", "slurm"]
    auto = shipped("auto")
    assert auto.resources == DEFAULT_RESOURCES
    assert msgspec.structs.replace(auto, resources={}) == ClusterConfig()


def test_a_key_of_one_kind_is_set_alone() -> None:
    cluster = shipped("local", "cluster.resources.serve.gpus=4")
    assert cluster.executor == "local"
    assert cluster.resources_for("serve").gpus == 4
    assert cluster.resources_for("episode") == DEFAULT_RESOURCES["episode"]
    assert cluster.resources_for("module:Class") == Resources()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"executor": "pbs"}, "Invalid enum value 'pbs'"),
        ({"throttle": 0}, "throttle is 0"),
        ({"max_requeues": -1}, "max_requeues is -1"),
        ({"signal_seconds": 0}, "signal_seconds is 0"),
        ({"extra": {"array": "0-3"}}, "extra sets 'array'"),
        ({"extra": {"--constraint": "x"}}, "without the dashes"),
        ({"resources": {"serve": {"time_min": 0}}}, "time_min is 0"),
        ({"resources": {"serve": {"gpus": -1}}}, "gpus is -1"),
        ({"resources": {"serve": {"mem_gb": 0}}}, "mem_gb is 0"),
        ({"resources": {"serve": {"extra": {"signal": "x"}}}}, "extra sets 'signal'"),
        ({"resources": {"serve": {"time_min": 2}}}, "signal_seconds is 120, not shorter"),
        ({"resources": {"serve": {"nodes": 2, "elements_per_job": 2}}}, "pack elements only"),
        ({"partitions": "x"}, "unknown field `partitions`"),
    ],
)
def test_what_cannot_work_is_refused_with_the_field(value: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(value, ClusterConfig)
