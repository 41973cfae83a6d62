"""Which layouts a model can be trained in, and with which adapters. Pure: no torch.

Besides what cannot be divided this refuses what Megatron-core 0.16.1 is known to compute wrongly.
"""

from __future__ import annotations

from hpc.config.layout import LayoutConfig
from hpc.config.lora import LoraConfig, Target
from hpc.core.errors import ConfigError
from hpc.training.shape import ModelShape

BESIDE_EXPERTS: tuple[Target, ...] = ("linear_qkv", "linear_proj")
"""Layers that may have adapters in a model with experts."""


def check(layout: LayoutConfig, shape: ModelShape, world: int, *, on_cpu: bool = False) -> int:
    """The number of data-parallel ranks that ``world`` ranks make.

    Args:
        on_cpu: the ranks speak gloo, which cannot do everything that nccl can.

    Raises:
        ConfigError: the layout cannot be had or is known to be wrong; the message says how to mend it.
    """
    _divides(layout.tensor, shape.query_groups, "layout.tensor", "key/value heads")
    _divides(layout.tensor, shape.heads, "layout.tensor", "attention heads")
    _divides(layout.tensor, shape.vocabulary, "layout.tensor", "words of the vocabulary")
    if shape.has_dense_layers:
        _divides(layout.tensor, shape.ffn, "layout.tensor", "units of the feed-forward layers")
    stages = layout.pipeline * layout.virtual_pipeline
    what = "layout.pipeline x layout.virtual_pipeline" if layout.virtual_pipeline > 1 else "layout.pipeline"
    _divides(stages, shape.layers, what, "layers")
    if world % layout.model_ranks:
        raise ConfigError(
            f"{world} ranks cannot be shared by tensor={layout.tensor} x pipeline={layout.pipeline} "
            f"x context={layout.context}",
            f"use a multiple of {layout.model_ranks} ranks, or a smaller layout",
        )
    _check_experts(layout, shape, world, on_cpu)
    return world // layout.model_ranks


def check_adapters(lora: LoraConfig, shape: ModelShape) -> None:
    """Refuse adapters where they are not made.

    Raises:
        ConfigError: in the MLPs of a model with experts.
    """
    refused = [target for target in lora.targets if target not in BESIDE_EXPERTS]
    if lora.enabled and shape.experts and refused:
        raise ConfigError(
            f"lora.targets names {' and '.join(refused)}, but {shape.family} has experts, which have no adapters here",
            f"set lora.targets=[{','.join(BESIDE_EXPERTS)}]",
        )


def _check_experts(layout: LayoutConfig, shape: ModelShape, world: int, on_cpu: bool) -> None:
    if not shape.experts:
        if layout.expert > 1 or layout.expert_tensor not in (None, 1):
            raise ConfigError(
                f"layout.expert={layout.expert} and layout.expert_tensor={layout.expert_tensor}, but "
                f"{shape.family} has no experts",
                "set both to 1",
            )
        return
    _divides(layout.expert, shape.experts, "layout.expert", "experts")
    _divides(layout.experts_tensor, shape.expert_ffn, "layout.expert_tensor", "units of an expert")
    each = layout.expert * layout.experts_tensor * layout.pipeline
    if world % each:
        raise ConfigError(
            f"{world} ranks cannot be shared by expert={layout.expert} x expert_tensor={layout.experts_tensor} "
            f"x pipeline={layout.pipeline}",
            f"use a multiple of {each} ranks, or fewer for the experts",
        )
    if layout.experts_tensor > layout.tensor:  # seen: gradients of the experts off by far, without a word
        raise ConfigError(
            f"layout.expert_tensor={layout.experts_tensor} above layout.tensor={layout.tensor} trains the experts "
            "wrongly in megatron-core 0.16.1",
            f"set layout.expert_tensor={layout.tensor} or 1",
        )
    if on_cpu and layout.expert > 1 and layout.experts_tensor > 1:
        raise ConfigError(
            f"layout.expert={layout.expert} with expert_tensor={layout.experts_tensor} needs gathers of unequal size, "
            "which gloo cannot do",
            "set layout.expert_tensor=1 on the CPU",
        )
    if layout.tensor > 1 and layout.expert == 1 and layout.experts_tensor != layout.tensor:
        raise ConfigError(  # gradients of the experts are not reduced over the tensor ranks; mended in 0.19
            f"layout.tensor={layout.tensor} with expert=1 and expert_tensor={layout.experts_tensor} trains the "
            "experts wrongly in megatron-core 0.16.1",
            f"set layout.expert=2 or more, or layout.expert_tensor={layout.tensor}",
        )
    if layout.tensor > 1 and not layout.sequence:
        raise ConfigError(
            f"experts with layout.tensor={layout.tensor} need sequence parallelism in megatron-core",
            "set layout.sequence=true",
        )


def _divides(ranks: int, count: int, field: str, what: str) -> None:
    if count % ranks:
        fits = [number for number in range(1, ranks) if count % number == 0]
        raise ConfigError(f"{field}={ranks} does not divide the model's {count} {what}", f"set it to {fits[-1]}")
