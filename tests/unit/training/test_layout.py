"""Layouts: what fits, what does not, and what Megatron-core would compute wrongly."""

from __future__ import annotations

from typing import Any

import pytest

from hpc.config.layout import LayoutConfig
from hpc.config.lora import LoraConfig
from hpc.core.errors import ConfigError
from hpc.training.layout import check, check_adapters
from hpc.training.shape import ModelShape, shape_of
from tests.unit.training.test_shape import GLM, PLAIN

DENSE, EXPERTS = shape_of({**PLAIN, "vocab_size": 128}), shape_of({**GLM, "vocab_size": 128})


@pytest.mark.parametrize(
    ("layout", "shape", "world", "data"),
    [
        ({}, DENSE, 3, 3),
        ({"tensor": 2, "pipeline": 2}, DENSE, 8, 2),
        ({"tensor": 2, "sequence": True, "context": 2}, DENSE, 4, 1),
        ({"expert": 4}, EXPERTS, 4, 4),
        ({"expert": 2, "tensor": 2, "sequence": True}, EXPERTS, 4, 2),
        ({"tensor": 2, "sequence": True}, EXPERTS, 2, 1),
    ],
)
def test_what_fits(layout: dict[str, Any], shape: ModelShape, world: int, data: int) -> None:
    assert check(LayoutConfig(**layout), shape, world, on_cpu=True) == data


@pytest.mark.parametrize(
    ("layout", "shape", "world", "named", "hint"),
    [
        ({"tensor": 4}, DENSE, 4, "2 key/value heads", "2"),
        ({"pipeline": 3}, DENSE, 3, "4 layers", "2"),
        ({"pipeline": 2, "virtual_pipeline": 4}, DENSE, 2, "virtual_pipeline=8", "4"),
        ({"tensor": 2}, DENSE, 3, "3 ranks", "multiple of 2"),
        ({"expert": 2}, DENSE, 2, "has no experts", "set both to 1"),
        ({"expert": 3}, EXPERTS, 3, "8 experts", "2"),
        ({"expert": 4}, EXPERTS, 2, "2 ranks", "multiple of 4"),
        ({"tensor": 2, "sequence": True, "expert_tensor": 1}, EXPERTS, 2, "wrongly", "expert_tensor=2"),
        ({"expert_tensor": 2}, EXPERTS, 2, "wrongly", "expert_tensor=1"),
        ({"tensor": 2}, EXPERTS, 2, "sequence parallelism", "sequence=true"),
        ({"tensor": 2, "sequence": True, "expert": 2, "expert_tensor": 2}, EXPERTS, 4, "gloo", "expert_tensor=1"),
    ],
)
def test_what_does_not_is_refused_with_the_fix(
    layout: dict[str, Any], shape: ModelShape, world: int, named: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        check(LayoutConfig(**layout), shape, world, on_cpu=True)
    assert hint in caught.value.hint


def test_a_vocabulary_that_cannot_be_shared() -> None:
    with pytest.raises(ConfigError, match="101 words"):
        check(LayoutConfig(tensor=2), shape_of({**PLAIN, "vocab_size": 101}), 2)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tensor": 0}, "tensor is 0"),
        ({"sequence": True}, "nothing to share"),
        ({"virtual_pipeline": 2}, "pipeline=2 or more"),
    ],
)
def test_fields_are_checked(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LayoutConfig(**fields)


def test_rows_have_a_length_that_can_be_shared() -> None:
    assert LayoutConfig().row_multiple == 1
    assert LayoutConfig(tensor=2, sequence=True, context=2).row_multiple == 8
    assert LayoutConfig(context=2).row_multiple == 4


def test_experts_have_no_adapters_but_attention_beside_them_may() -> None:
    check_adapters(LoraConfig(rank=4), DENSE)
    check_adapters(LoraConfig(), EXPERTS)
    check_adapters(LoraConfig(rank=4, targets=("linear_proj",)), EXPERTS)
    with pytest.raises(ConfigError, match="linear_fc1 and linear_fc2, but glm4_moe has experts") as caught:
        check_adapters(LoraConfig(rank=4), EXPERTS)
    assert caught.value.hint == "set lora.targets=[linear_qkv,linear_proj]"
