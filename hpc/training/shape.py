"""The shape of a model, read from its Hugging Face ``config.json``. Pure: no torch.

Five families are known: Llama, Qwen2, Qwen3, Qwen3-MoE and GLM-4.5-MoE. Whatever a config asks for that is
not mapped onto Megatron-core is refused, never ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from hpc.core.errors import ConfigError


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is made of.

    ``ffn``: hidden units of dense layers; ``query_groups``: key/value heads. ``rotary_share``: the part of a
    head's dimensions that is rotated. ``llama3_factor``: of Llama 3's scaling of rotary frequencies.
    With experts: ``expert_ffn`` hidden units each, ``active`` of them for each token, ``shared_ffn`` hidden
    units that every token uses; ``moe_layers`` says of each layer whether it has experts.
    ``router``: "softmax" over the chosen, "softmax_all" over all, or "sigmoid" with a correction bias.
    """

    family: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    query_groups: int
    head_size: int
    vocabulary: int
    max_positions: int
    norm_epsilon: float
    rotary_base: float
    rotary_share: float = 1.0
    llama3_factor: float | None = None
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    experts: int = 0
    active: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    moe_layers: tuple[bool, ...] = ()
    router: str = "softmax"
    router_scale: float = 1.0
    router_groups: int = 1
    router_top_groups: int = 1
    extra_layers: int = 0
    """Layers behind the last (multi-token prediction) that are not trained and carried over as they are."""

    @property
    def has_dense_layers(self) -> bool:
        """Whether any layer is without experts."""
        return not self.experts or not all(self.moe_layers)

    @property
    def parameters(self) -> int:
        """Parameters of the whole model, without norms and biases."""
        return self._count(self.experts) + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def flops(self, lengths: Iterable[int], *, frozen: bool = False) -> float:
        """Floating-point operations of a training step over sequences of these lengths (tokens): 6 for each
        parameter that is multiplied and token, and 12 x layers x heads x head size for each pair of tokens
        that attend to each other (Narayanan et al. 2021, arXiv 2104.04473, section 5.1, for causal attention).

        ``frozen`` parameters have no gradients of their own, which leaves 4; what adapters do is not counted.
        """
        multiplied = self._count(self.active) + self.vocabulary * self.hidden
        width = self.heads * self.head_size
        each = 4.0 if frozen else 6.0
        return sum(each * multiplied * n + 6.0 * self.layers * width * n * n for n in lengths)

    def _count(self, experts: int) -> int:
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.query_groups)
        total = 0
        for layer in range(self.layers):
            if self.experts and self.moe_layers[layer]:
                router = self.hidden * self.experts
                total += attention + router + 3 * self.hidden * (experts * self.expert_ffn + self.shared_ffn)
            else:
                total += attention + 3 * self.hidden * self.ffn
        return total


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in ``folder``.

    Raises:
        ConfigError: there is no config.json, or it asks for something that is not known here.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} is no model: it has no config.json", "name a folder in Hugging Face format"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}", "download the model again") from error
    return shape_of(config, path)


def shape_of(config: dict[str, Any], where: Path | str = "config.json") -> ModelShape:
    """The shape that a parsed config.json describes; ``where`` is named in errors.

    Raises:
        ConfigError: it asks for something that is not known here, or lacks a field.
    """
    family = str(config.get("model_type"))
    read = _FAMILIES.get(family)
    if read is None:
        raise ConfigError(
            f"{where} is of a {family!r} model, which the trainer does not know", f"it knows {', '.join(_FAMILIES)}"
        )
    try:
        for name, allowed in _ALLOWED.items():
            if name in config and config[name] not in allowed:
                raise _unknown(where, name, config[name])
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        base, factor, share = _rotary(config, where)
        common = ModelShape(
            family=family,
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            ffn=int(config["intermediate_size"]),
            heads=heads,
            query_groups=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            max_positions=int(config.get("max_position_embeddings", 2048)),
            norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
            rotary_base=base,
            rotary_share=share,
            llama3_factor=factor,
            tied=bool(config.get("tie_word_embeddings", False)),
        )
        return read(config, common, where)
    except KeyError as error:
        raise ConfigError(f"{where} lacks {error.args[0]!r}", "download the model again") from error


_ALLOWED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "use_sliding_window": (False, None),
    "mlp_bias": (False, None),
    "pretraining_tp": (1, None),
    "attention_dropout": (0, 0.0, None),
    "quantization_config": (None,),
}
"""Fields that change what is computed, and the values that are mapped."""


def _unknown(where: Path | str, name: str, value: Any) -> ConfigError:
    return ConfigError(
        f"{where} has {name}={value!r}, which the trainer does not know",
        "train another model, or serve this one only",
    )


def _rotary(config: dict[str, Any], where: Path | str) -> tuple[float, float | None, float]:
    """Base, Llama 3's factor, and the rotated share; older files say it in other fields than newer ones."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    base = float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
    share = float(rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)))
    if kind == "default":
        return base, None, share
    if kind == "llama3":
        for name, fixed in (
            ("low_freq_factor", 1.0),
            ("high_freq_factor", 4.0),
            ("original_max_position_embeddings", 8192),
        ):
            if rope.get(name) != fixed:
                raise _unknown(where, f"rope scaling's {name}", rope.get(name))
        return base, float(rope["factor"]), share
    raise _unknown(where, "rope scaling", kind)


def _llama(config: dict[str, Any], common: ModelShape, where: Path | str) -> ModelShape:
    if config.get("attention_bias"):
        raise _unknown(where, "attention_bias", True)
    return common


def _qwen2(config: dict[str, Any], common: ModelShape, where: Path | str) -> ModelShape:
    return msgspec.structs.replace(common, qkv_bias=True)


def _qwen3(config: dict[str, Any], common: ModelShape, where: Path | str) -> ModelShape:
    return msgspec.structs.replace(_llama(config, common, where), qk_norm=True)


def _qwen3_moe(config: dict[str, Any], common: ModelShape, where: Path | str) -> ModelShape:
    every, dense = int(config.get("decoder_sparse_step", 1)), set(config.get("mlp_only_layers") or [])
    return msgspec.structs.replace(
        _qwen3(config, common, where),
        experts=int(config["num_experts"]),
        active=int(config["num_experts_per_tok"]),
        expert_ffn=int(config["moe_intermediate_size"]),
        moe_layers=tuple(layer not in dense and (layer + 1) % every == 0 for layer in range(common.layers)),
        router="softmax" if config.get("norm_topk_prob") else "softmax_all",
    )


def _glm4_moe(config: dict[str, Any], common: ModelShape, where: Path | str) -> ModelShape:
    if not config.get("norm_topk_prob", True):
        raise _unknown(where, "norm_topk_prob", False)
    return msgspec.structs.replace(
        common,
        qkv_bias=bool(config.get("attention_bias")),
        qk_norm=bool(config.get("use_qk_norm")),
        rotary_share=0.5
        if common.rotary_share == 1.0 and "partial_rotary_factor" not in config
        else common.rotary_share,
        experts=int(config["n_routed_experts"]),
        active=int(config["num_experts_per_tok"]),
        expert_ffn=int(config["moe_intermediate_size"]),
        shared_ffn=int(config["moe_intermediate_size"]) * int(config.get("n_shared_experts", 1)),
        moe_layers=tuple(layer >= int(config.get("first_k_dense_replace", 1)) for layer in range(common.layers)),
        router="sigmoid",
        router_scale=float(config.get("routed_scaling_factor", 1.0)),
        router_groups=int(config.get("n_group", 1)),
        router_top_groups=int(config.get("topk_group", 1)),
        extra_layers=int(config.get("num_nextn_predict_layers") or 0),
    )


_FAMILIES: dict[str, Callable[[dict[str, Any], ModelShape, Path | str], ModelShape]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "glm4_moe": _glm4_moe,
}
