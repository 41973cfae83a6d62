"""Names and forms of weights: Megatron-core's and Hugging Face's. Pure but for reshaping tensors.

Megatron-core fuses queries, keys and values (for each key/value head its queries, its key, its value) and
the two halves of gated feed-forward layers; Hugging Face keeps them apart.
"""

from __future__ import annotations

import re
from typing import Literal

import torch

from hpc.training.shape import ModelShape

Form = Literal["plain", "gated", "qkv", "all of gated", "all of qkv"]
"""How a weight holds others: as itself, as their rows, or one for all of them (as A of an adapter)."""

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

_LAYER = r"decoder\.layers\.(\d+)\."
_EXPERT = _LAYER + r"mlp\.experts\.(?:local_experts\.(\d+)\.linear_fc{0}\.weight|linear_fc{0}\.weight(\d+))"
_TABLE: tuple[tuple[str, Form, str], ...] = (
    (r"embedding\.word_embeddings\.weight", "plain", EMBEDDING),
    (r"output_layer\.weight", "plain", HEAD),
    (r"decoder\.final_layernorm\.weight", "plain", "model.norm.weight"),
    (
        _LAYER + r"(?:input_layernorm\.|self_attention\.linear_qkv\.layer_norm_)weight",
        "plain",
        "model.layers.{}.input_layernorm.weight",
    ),
    (
        _LAYER + r"(?:pre_mlp_layernorm\.|mlp\.linear_fc1\.layer_norm_)weight",
        "plain",
        "model.layers.{}.post_attention_layernorm.weight",
    ),
    (_LAYER + r"self_attention\.([qk])_layernorm\.weight", "plain", "model.layers.{}.self_attn.{}_norm.weight"),
    (_LAYER + r"self_attention\.linear_qkv\.(weight|bias)", "qkv", "model.layers.{}.self_attn.*_proj.{}"),
    (_LAYER + r"self_attention\.linear_proj\.weight", "plain", "model.layers.{}.self_attn.o_proj.weight"),
    (_LAYER + r"mlp\.linear_fc1\.weight", "gated", "model.layers.{}.mlp.*_proj.weight"),
    (_LAYER + r"mlp\.linear_fc2\.weight", "plain", "model.layers.{}.mlp.down_proj.weight"),
    (_LAYER + r"mlp\.router\.weight", "plain", "model.layers.{}.mlp.gate.weight"),
    (_LAYER + r"mlp\.router\.expert_bias", "plain", "model.layers.{}.mlp.gate.e_score_correction_bias"),
    (
        _LAYER + r"mlp\.shared_experts\.linear_fc1\.weight",
        "gated",
        "model.layers.{}.mlp.shared_experts.*_proj.weight",
    ),
    (
        _LAYER + r"mlp\.shared_experts\.linear_fc2\.weight",
        "plain",
        "model.layers.{}.mlp.shared_experts.down_proj.weight",
    ),
    (
        _LAYER + r"self_attention\.linear_qkv\.lora_(A)",
        "all of qkv",
        "model.layers.{}.self_attn.*_proj.lora_{}.weight",
    ),
    (_LAYER + r"self_attention\.linear_qkv\.lora_(B)", "qkv", "model.layers.{}.self_attn.*_proj.lora_{}.weight"),
    (_LAYER + r"self_attention\.linear_proj\.lora_([AB])", "plain", "model.layers.{}.self_attn.o_proj.lora_{}.weight"),
    (_LAYER + r"mlp\.linear_fc1\.lora_(A)", "all of gated", "model.layers.{}.mlp.*_proj.lora_{}.weight"),
    (_LAYER + r"mlp\.linear_fc1\.lora_(B)", "gated", "model.layers.{}.mlp.*_proj.lora_{}.weight"),
    (_LAYER + r"mlp\.linear_fc2\.lora_([AB])", "plain", "model.layers.{}.mlp.down_proj.lora_{}.weight"),
    (_EXPERT.format(1), "gated", "model.layers.{}.mlp.experts.{}.*_proj.weight"),
    (_EXPERT.format(2), "plain", "model.layers.{}.mlp.experts.{}.down_proj.weight"),
)
_NAMES = [(re.compile(pattern), form, name) for pattern, form, name in _TABLE]
_GATED, _QKV = ("gate", "up"), ("q", "k", "v")
_PARTS: dict[Form, tuple[str, ...]] = {
    "plain": ("",),
    "gated": _GATED,
    "qkv": _QKV,
    "all of gated": _GATED,
    "all of qkv": _QKV,
}


def hugging_face_names(name: str) -> tuple[Form, list[str]]:
    """The form of a weight of Megatron-core, by its name in the whole model, and what it is made of.

    Raises:
        KeyError: no such weight is known.
    """
    for pattern, form, target in _NAMES:
        if match := pattern.fullmatch(name):
            filled = target.format(*(group for group in match.groups() if group is not None))
            return form, [filled.replace("*", part) for part in _PARTS[form]]
    raise KeyError(name)


def is_expert(name: str) -> bool:
    """Whether it is a weight of one expert, which other ranks share than the rest."""
    return ".mlp.experts." in name


def is_adapter(name: str) -> bool:
    """Whether it is a weight of an adapter (`hpc.training.lora`)."""
    return ".lora_" in name


def in_whole_model(name: str, *, layer: dict[int, int], first_expert: int) -> str:
    """A rank's own name of a weight as it is in the whole model.

    Args:
        layer: number in the chunk -> number in the model, from 0.
        first_expert: number of the rank's first expert.
    """
    name = re.sub(r"decoder\.layers\.(\d+)", lambda match: f"decoder.layers.{layer[int(match[1])]}", name)
    if is_expert(name):
        expert = r"(local_experts\.|linear_fc[12]\.weight)(\d+)"
        name = re.sub(expert, lambda match: f"{match[1]}{int(match[2]) + first_expert}", name)
    return name


def fuse_qkv(shape: ModelShape, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """``[heads * d, ...]`` and twice ``[groups * d, ...]`` -> ``[(heads + 2 groups) * d, ...]``."""
    groups, size, rest = shape.query_groups, shape.head_size, query.shape[1:]
    parts = [
        query.reshape(groups, shape.heads // groups * size, *rest),
        key.reshape(groups, size, *rest),
        value.reshape(groups, size, *rest),
    ]
    return torch.cat(parts, 1).reshape(-1, *rest)


def split_qkv(shape: ModelShape, fused: torch.Tensor) -> list[torch.Tensor]:
    """The reverse of `fuse_qkv`."""
    groups, size, rest = shape.query_groups, shape.head_size, fused.shape[1:]
    parts = torch.split(fused.reshape(groups, -1, *rest), [shape.heads // groups * size, size, size], 1)
    return [part.reshape(-1, *rest) for part in parts]
