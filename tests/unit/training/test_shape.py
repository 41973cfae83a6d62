"""Shapes of models: five families are read, and what is not mapped is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpc.core.errors import ConfigError
from hpc.training.shape import read_shape, shape_of

REPOSITORY = Path(__file__).resolve().parents[3]
PLAIN: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "hidden_act": "silu",
}
GLM: dict[str, Any] = {
    **PLAIN,
    "model_type": "glm4_moe",
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "num_nextn_predict_layers": 1,
    "attention_bias": True,
}


def test_the_shipped_model() -> None:
    shape = read_shape(REPOSITORY / "models" / "minilab-tiny")
    assert (shape.family, shape.layers, shape.tied, shape.qk_norm) == ("qwen3", 4, True, True)
    weights = 4 * (256 * 64 * (2 * 4 + 2 * 2) + 3 * 256 * 512) + 1024 * 256
    assert shape.parameters == weights


def test_defaults_and_older_and_newer_fields() -> None:
    assert shape_of(PLAIN).head_size == 16
    assert shape_of({**PLAIN, "rope_theta": 5e5}).rotary_base == 5e5
    assert shape_of({**PLAIN, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}).rotary_base == 7.0
    assert shape_of({**PLAIN, "model_type": "qwen2"}).qkv_bias
    glm = shape_of(GLM)
    assert (glm.rotary_share, glm.moe_layers, glm.extra_layers) == (0.5, (False, True, True, True), 1)
    assert (glm.qkv_bias, glm.router, glm.shared_ffn) == (True, "sigmoid", 32)


def test_floating_point_operations_of_a_step() -> None:
    shape = shape_of(PLAIN)
    multiplied = 4 * (64 * 16 * (8 + 4) + 3 * 64 * 128) + 100 * 64
    assert shape.flops([10, 20]) == 6 * multiplied * 30 + 6 * 4 * 64 * (100 + 400)
    assert shape.flops([10, 20]) - shape.flops([10, 20], frozen=True) == 2 * multiplied * 30


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mamba"}, "'mamba'"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0}}, "low_freq_factor"),
        ({**GLM, "norm_topk_prob": False}, "norm_topk_prob"),
    ],
)
def test_what_is_not_mapped_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        shape_of({**PLAIN, **changes}, "here")


def test_a_folder_that_is_no_model_and_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot read"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**PLAIN, "vocab_size": None} | {"hidden_size": 64}))
    without = {name: value for name, value in PLAIN.items() if name != "vocab_size"}
    (tmp_path / "config.json").write_text(json.dumps(without))
    with pytest.raises(ConfigError, match="lacks 'vocab_size'"):
        read_shape(tmp_path)
