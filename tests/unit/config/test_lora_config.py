"""Adapters: off unless asked for, and what cannot be meant is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc.config import compose
from hpc.config.lora import TARGETS, LoraConfig
from hpc.core.errors import ConfigError
from hpc.launch_grpo import Leader
from hpc.rundir import RunDir


def test_off_unless_asked_for() -> None:
    assert compose("train").lora == LoraConfig() and not LoraConfig().enabled
    on = compose("train", ["lora=on"]).lora
    assert on.enabled and (on.rank, on.scale, on.targets) == (16, 2.0, TARGETS)


def test_a_rank_alone_turns_them_on_with_twice_the_rank_as_alpha() -> None:
    lora = compose("train", ["lora.rank=8", "lora.targets=[linear_qkv]"]).lora
    assert lora.enabled and (lora.scale, lora.full_alpha, lora.targets) == (2.0, 16.0, ("linear_qkv",))
    assert compose("train", ["lora=on", "lora.rank=64"]).lora.scale == 0.5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora.rank=-1"], "lora.rank is -1"),
        (["lora.alpha=8"], "lora.alpha is 8.0 with rank=0, which trains no adapters"),
        (["lora.targets=[linear_qkv]"], r"lora.targets is \['linear_qkv'\] with rank=0"),
        (["lora=on", "lora.alpha=0"], "lora.alpha is 0.0, it must be positive"),
        (["lora=on", "lora.targets=[]"], r"lora.targets is \[\], it must name one layer or more"),
        (["lora=on", "lora.targets=[linear_fc1,linear_fc1]"], "each once"),
        (["lora=on", "lora.dropout=0.1"], "unknown key 'lora.dropout'"),
    ],
)
def test_what_cannot_be_meant_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose("train", overrides)


def test_a_target_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError) as caught:
        compose("train", ["lora=on", "lora.targets=[linear_qkv,linear_fc]"])
    assert "did you mean 'linear_fc" in caught.value.hint


def test_rounds_of_grpo_hand_them_to_each_update(tmp_path: Path) -> None:
    leader = Leader(RunDir(tmp_path), compose("grpo", ["run.name=rl", "lora.rank=8"]))
    assert leader.update_config(2, "runs/rl-001-update").lora == LoraConfig(rank=8)
