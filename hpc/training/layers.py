"""What Megatron-core's transformer is built of here: TransformerEngine's layers where they are (on a GPU),
else layers of plain torch under the same checkpoint names."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.backends import LocalSpecProvider
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec, get_mlp_module_spec_for_backend
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import (
    TransformerLayer,
    TransformerLayerSubmodules,
    get_transformer_layer_offset,
)
from torch.nn.functional import rms_norm

from hpc.config.lora import LoraConfig
from hpc.training.attention import DotProductAttention
from hpc.training.lora import LoraColumnParallelLinear, LoraRowParallelLinear
from hpc.training.platform import prepare


def uses_transformer_engine() -> bool:
    """Whether TransformerEngine's layers are used: on a GPU, where it is installed."""
    return prepare() == "cuda" and importlib.util.find_spec("transformer_engine") is not None


class RMSNorm(torch.nn.Module):
    """Root-mean-square norm over the last dimension. Megatron-core's own refuses sequence parallelism."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, (hidden.shape[-1],), self.weight, self.eps)


def block_spec(config: TransformerConfig, chunk: int | None, lora: LoraConfig) -> TransformerBlockSubmodules:
    """The layers of this pipeline stage, or of its chunk ``chunk`` with interleaved stages.

    With adapters they are those of plain torch everywhere: TransformerEngine's fuse the norm whose output an
    adapter needs into the matrix.
    """
    if uses_transformer_engine() and not lora.enabled:
        return get_gpt_decoder_block_spec(config, use_transformer_engine=True, vp_stage=chunk)
    pattern = config.moe_layer_freq if config.num_moe_experts else [0] * config.num_layers
    assert isinstance(pattern, list)
    specs = [_layer_spec(config, config.num_moe_experts if has_experts else None, lora) for has_experts in pattern]
    first = get_transformer_layer_offset(config, vp_stage=chunk)
    count = get_num_layers_to_build(config, vp_stage=chunk)
    return TransformerBlockSubmodules(layer_specs=specs[first : first + count], layer_norm=RMSNorm)


def _layer_spec(config: TransformerConfig, experts: int | None, lora: LoraConfig) -> ModuleSpec:
    linear = LocalSpecProvider()
    norm = RMSNorm if config.qk_layernorm else IdentityOp
    # TransformerEngine fuses a norm into the next matrix: under its names both kinds of checkpoint are the same
    names = {"input_layernorm.": "self_attention.linear_qkv.layer_norm_"}
    if not experts:
        names["pre_mlp_layernorm."] = "mlp.linear_fc1.layer_norm_"
    attention = SelfAttentionSubmodules(
        linear_qkv=linear.column_parallel_linear(),
        core_attention=DotProductAttention,
        linear_proj=linear.row_parallel_linear(),
        q_layernorm=norm,
        k_layernorm=norm,
    )
    mlp = get_mlp_module_spec_for_backend(backend=linear, num_experts=experts, moe_grouped_gemm=False)
    if lora.enabled:
        _adapt(attention, None if experts else mlp.submodules, lora)
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=ModuleSpec(
                module=SelfAttention, params={"attn_mask_type": AttnMaskType.causal}, submodules=attention
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map=names,
        ),
    )


def _adapt(attention: SelfAttentionSubmodules, mlp: MLPSubmodules | None, lora: LoraConfig) -> None:
    """Put layers with adapters in the places of those that are to have one."""
    column = ModuleSpec(module=LoraColumnParallelLinear, params={"lora": lora, "gated": True})
    row = ModuleSpec(module=LoraRowParallelLinear, params={"lora": lora})
    if "linear_qkv" in lora.targets:
        attention.linear_qkv = partial(LoraColumnParallelLinear, lora=lora)
    if "linear_proj" in lora.targets:
        attention.linear_proj = row
    if mlp is not None and "linear_fc1" in lora.targets:
        mlp.linear_fc1 = column
    if mlp is not None and "linear_fc2" in lora.targets:
        mlp.linear_fc2 = row
