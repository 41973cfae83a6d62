"""A model of Megatron-core in the process group of this rank.

In this order, on every rank::

    platform.prepare()
    torch.distributed.init_process_group(platform.backend(), ...)
    shape = read_shape(folder)
    start_parallel(layout, shape, seed=1)
    chunks = build_model(shape, layout, precision="fp32")    # lora=LoraConfig(rank=16): with adapters
    load_hf(chunks, shape, folder)                      # hpc.training.convert

A chunk is called as ``chunk(tokens, position_ids, None, labels=labels, packed_seq_params=None)`` with int64
tensors ``[b, s]`` and gives the loss of each token, ``[b, s]``, on the last pipeline stage; without labels it
gives logits ``[b, s, vocabulary / tensor ranks]``. Packed rows have b = 1. ``s`` is a multiple of
``layout.row_multiple``, and with context parallelism a rank has its two stripes of it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.functional import silu

from hpc.config.layout import LayoutConfig
from hpc.config.lora import LoraConfig
from hpc.training.layers import block_spec, uses_transformer_engine
from hpc.training.layout import check, check_adapters
from hpc.training.lora import freeze, reset_adapters
from hpc.training.platform import prepare
from hpc.training.shape import ModelShape

Precision = Literal["fp32", "bf16"]
NO_ADAPTERS = LoraConfig()
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def start_parallel(layout: LayoutConfig, shape: ModelShape, *, seed: int) -> None:
    """Make Megatron-core's process groups and seed its random numbers.

    Raises:
        ConfigError: the layout does not fit the model or the number of ranks.
    """
    check(layout, shape, dist.get_world_size(), on_cpu=prepare() == "cpu")
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.virtual_pipeline if layout.virtual_pipeline > 1 else None,
        context_parallel_size=layout.context,
        expert_model_parallel_size=layout.expert,
        expert_tensor_parallel_size=layout.experts_tensor if shape.experts else None,
    )
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)


def build_model(
    shape: ModelShape,
    layout: LayoutConfig,
    *,
    precision: Precision,
    recompute: Literal["none", "full"] = "none",
    lora: LoraConfig = NO_ADAPTERS,
    seed: int = 0,
) -> list[Any]:
    """This rank's chunks, with random weights: one, or several with interleaved pipeline stages.

    Args:
        recompute: "full" forgets activations and computes them again in the backward pass.
        lora: with a rank nothing but adapters can be trained.
        seed: decides the adapters' first values.

    Raises:
        ConfigError: the model has layers that are to have adapters and cannot.
    """
    check_adapters(lora, shape)
    config = _config(shape, layout, precision, recompute, grouped=uses_transformer_engine() and not lora.enabled)
    chunks = [
        _chunk(config, shape, layout, number if layout.virtual_pipeline > 1 else None, lora)
        for number in range(layout.virtual_pipeline)
    ]
    if lora.enabled:
        freeze(chunks)
        reset_adapters(chunks, seed)
    if lora.enabled and recompute == "full":
        # what a checkpointed layer computes has gradients only if its input has; frozen embeddings give none
        for chunk in chunks:
            if chunk.pre_process:
                chunk.embedding.register_forward_hook(lambda module, given, output: output.requires_grad_())
    return chunks


def _chunk(
    config: TransformerConfig, shape: ModelShape, layout: LayoutConfig, number: int | None, lora: LoraConfig
) -> GPTModel:
    first = parallel_state.is_pipeline_first_stage(ignore_virtual=True) and number in (None, 0)
    last = parallel_state.is_pipeline_last_stage(ignore_virtual=True) and number in (None, layout.virtual_pipeline - 1)
    model = GPTModel(
        config=config,
        transformer_layer_spec=block_spec(config, number, lora),
        vocab_size=shape.vocabulary,
        max_sequence_length=shape.max_positions,
        pre_process=first,
        post_process=last,
        parallel_output=True,
        share_embeddings_and_output_weights=shape.tied,
        position_embedding_type="rope",
        rotary_percent=shape.rotary_share,
        rotary_base=shape.rotary_base,
        rope_scaling=shape.llama3_factor is not None,
        rope_scaling_factor=shape.llama3_factor or 8.0,
        vp_stage=number,
    )
    return model.cuda() if prepare() == "cuda" else model


def _config(
    shape: ModelShape, layout: LayoutConfig, precision: Precision, recompute: str, *, grouped: bool
) -> TransformerConfig:
    """``grouped``: experts as one operation, which needs TransformerEngine's layers."""
    dtype, on_gpu = DTYPES[precision], prepare() == "cuda"
    experts: dict[str, Any] = {}
    if shape.experts:
        experts = {
            "num_moe_experts": shape.experts,
            "moe_router_topk": shape.active,
            "moe_ffn_hidden_size": shape.expert_ffn,
            "moe_shared_expert_intermediate_size": shape.shared_ffn or None,
            "moe_layer_freq": [int(has_experts) for has_experts in shape.moe_layers],
            "moe_router_score_function": "sigmoid" if shape.router == "sigmoid" else "softmax",
            "moe_router_pre_softmax": shape.router == "softmax_all",
            "moe_router_enable_expert_bias": shape.router == "sigmoid",
            "moe_router_bias_update_rate": 0.0,
            "moe_router_topk_scaling_factor": shape.router_scale if shape.router == "sigmoid" else None,
            "moe_router_num_groups": shape.router_groups if shape.router_groups > 1 else None,
            "moe_router_group_topk": shape.router_top_groups if shape.router_groups > 1 else None,
            "moe_router_load_balancing_type": "none",
            "moe_router_dtype": "fp32",
            "moe_token_dispatcher_type": "alltoall",
            "moe_grouped_gemm": grouped,
        }
    if recompute == "full":
        experts |= {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return TransformerConfig(
        num_layers=shape.layers,
        hidden_size=shape.hidden,
        ffn_hidden_size=shape.ffn,
        num_attention_heads=shape.heads,
        num_query_groups=shape.query_groups,
        kv_channels=shape.head_size,
        normalization="RMSNorm",
        layernorm_epsilon=shape.norm_epsilon,
        gated_linear_unit=True,
        activation_func=silu,
        add_bias_linear=False,
        add_qkv_bias=shape.qkv_bias,
        qk_layernorm=shape.qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        attention_softmax_in_fp32=True,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=precision == "bf16",
        calculate_per_token_loss=True,
        tensor_model_parallel_size=layout.tensor,
        sequence_parallel=layout.sequence,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.virtual_pipeline if layout.virtual_pipeline > 1 else None,
        context_parallel_size=layout.context,
        expert_model_parallel_size=layout.expert,
        expert_tensor_parallel_size=layout.experts_tensor if shape.experts else 1,
        batch_p2p_comm=False,
        use_cpu_initialization=not on_gpu,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        **experts,
    )
