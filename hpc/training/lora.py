"""Low-rank adaptation (LoRA: Hu et al. 2021, arXiv 2106.09685) of Megatron-core's parallel linear layers.

Beside a frozen layer, W x, stands an adapter, scale * B (A x), with A ``[rank, in]`` and B ``[out, rank]``. A
begins as in the authors' code (Kaiming uniform, a = sqrt 5), B with zeros, so that training starts at the model.
Ranks that share W share the adapter with it:

============================  =====================  ======================
layer                         A                      B
============================  =====================  ======================
column-parallel (qkv, fc1)    whole on every rank    rows, as those of W
row-parallel (proj, fc2)      columns, as those of W whole on every rank
============================  =====================  ======================

Fused layers have one A for their parts (queries, keys and values; gate and up) and in B the rows of each.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch.nn.functional import linear

from hpc.config.lora import LoraConfig
from hpc.training.naming import is_adapter


class LoraColumnParallelLinear(ColumnParallelLinear):  # type: ignore[misc]
    """A column-parallel layer with its adapter; the arguments are those of Megatron-core's and ``lora``.

    ``gated``: its rows are those of two layers, each shared by itself.
    """

    def __init__(
        self, input_size: int, output_size: int, *, lora: LoraConfig, gated: bool = False, config: Any, **rest: Any
    ) -> None:
        super().__init__(input_size, output_size, config=config, **rest)
        self.scale, self.gated = lora.scale, gated
        self.lora_A = _empty(lora.rank, input_size, config)
        self.lora_B = _empty(self.output_size_per_partition, lora.rank, config)
        # with sequence parallelism each rank sees a part of the tokens: Megatron-core sums what is marked so
        self.lora_A.sequence_parallel = self.sequence_parallel  # type: ignore[attr-defined]
        set_tensor_model_parallel_attributes(self.lora_B, True, 0, 1)

    def forward(
        self, input_: torch.Tensor, weight: torch.Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``[s, b, in]`` (with sequence parallelism this rank's tokens) -> ``[s, b, out / ranks]``, and the bias."""
        output, bias = super().forward(input_, weight, runtime_gather_output)
        inner = linear(input_, self.lora_A)
        if self.sequence_parallel:
            inner = gather_from_sequence_parallel_region(inner, group=self.tp_group)
        else:  # the same on every rank; its gradient is the sum of what their rows of B give
            inner = copy_to_tensor_model_parallel_region(inner, group=self.tp_group)
        return output + self.scale * linear(inner, self.lora_B), bias

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """What a distributed checkpoint holds of this layer."""
        state = _sharded(self, {"weight": 0, "bias": 0, "lora_B": 0}, prefix, sharded_offsets, metadata)
        if self.gated:
            state[f"{prefix}lora_B"] = apply_swiglu_sharded_factory(state[f"{prefix}lora_B"], sharded_offsets)
        return state


class LoraRowParallelLinear(RowParallelLinear):  # type: ignore[misc]
    """A row-parallel layer with its adapter; the arguments are those of Megatron-core's and ``lora``."""

    def __init__(self, input_size: int, output_size: int, *, lora: LoraConfig, config: Any, **rest: Any) -> None:
        super().__init__(input_size, output_size, config=config, **rest)
        self.scale = lora.scale
        self.lora_A = _empty(lora.rank, self.input_size_per_partition, config)
        self.lora_B = _empty(output_size, lora.rank, config)
        set_tensor_model_parallel_attributes(self.lora_A, True, 1, 1)
        self.lora_B.sequence_parallel = self.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, input_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``[s, b, in / ranks]`` -> ``[s, b, out]`` (with sequence parallelism this rank's tokens), and the bias."""
        output, bias = super().forward(input_)
        inner = linear(input_, self.lora_A)
        if self.sequence_parallel:
            inner = reduce_scatter_to_sequence_parallel_region(inner, group=self.tp_group)
        else:
            inner = reduce_from_tensor_model_parallel_region(inner, group=self.tp_group)
        return output + self.scale * linear(inner, self.lora_B), bias

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """What a distributed checkpoint holds of this layer."""
        return _sharded(self, {"weight": 1, "lora_A": 1}, prefix, sharded_offsets, metadata)


def reset_adapters(chunks: Sequence[Any], seed: int) -> None:
    """Give adapters the values that training begins with: functions of seed, layer and name alone, so that they
    are the same in every layout."""
    for place, adapted in _adapted(chunks):
        digest = hashlib.sha256(f"{seed}/{place}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        whole = torch.empty(adapted.lora_A.shape[0], adapted.input_size)
        torch.nn.init.kaiming_uniform_(whole, a=math.sqrt(5), generator=generator)
        if isinstance(adapted, LoraRowParallelLinear):
            whole = whole.chunk(adapted.tp_group.size(), 1)[adapted.tp_group.rank()]
        with torch.no_grad():
            adapted.lora_A.copy_(whole)
            adapted.lora_B.zero_()


@torch.no_grad()
def merge_adapters(chunks: Sequence[Any]) -> None:
    """W + scale * B A into W, for what this rank has of them, summed in fp32; B becomes zero."""
    for _, adapted in _adapted(chunks):
        update = adapted.scale * (adapted.lora_B.float() @ adapted.lora_A.float())
        adapted.weight.copy_(adapted.weight.float() + update)
        adapted.lora_B.zero_()


def freeze(chunks: Sequence[Any]) -> None:
    """Leave nothing to train but the adapters."""
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            parameter.requires_grad_(is_adapter(name))


def adapters_of(state: dict[str, Any]) -> dict[str, Any]:
    """Of a chunk's (sharded) state what belongs to adapters."""
    return {name: value for name, value in state.items() if is_adapter(name)}


def _adapted(chunks: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """The layers with adapters, and where they are in the whole model."""
    for chunk in chunks:
        for layer in chunk.decoder.layers:
            for name, module in layer.named_modules():
                if isinstance(module, (LoraColumnParallelLinear, LoraRowParallelLinear)):
                    yield f"{layer.layer_number}.{name}", module


def _empty(rows: int, columns: int, config: Any) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.empty(rows, columns, dtype=config.params_dtype))


def _sharded(
    module: Any, shared: dict[str, int], prefix: str, offsets: tuple[Any, ...], metadata: dict[str, Any] | None
) -> dict[str, Any]:
    """``shared``: along which dimension ranks share a tensor."""
    state: dict[str, Any] = make_sharded_tensors_for_checkpoint(
        module.state_dict(prefix="", keep_vars=True),
        prefix,
        shared,
        offsets,
        tp_group=module.tp_group,
        dp_cp_group=(metadata or {})["dp_cp_group"],
    )
    return state
