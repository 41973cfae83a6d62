"""Megatron-core against plain transformers: the same loss, gradients and logits in every layout that the CPU
can run, and the same bits on the way back to Hugging Face's format; so with adapters, beside which nothing is
trained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FAMILIES = ["llama", "llama-scaled", "qwen2", "qwen3", "qwen3-moe", "qwen3-moe-all", "glm4-moe"]
LAYOUTS: dict[str, dict[str, Any]] = {
    "tp": {"model": "llama", "world": 2, "layout": {"tensor": 2}},
    "tp+sp, tied": {"model": "qwen3", "world": 2, "layout": {"tensor": 2, "sequence": True}},
    "tp+sp, biases": {"model": "qwen2", "world": 2, "layout": {"tensor": 2, "sequence": True}},
    "pp": {"model": "llama", "world": 2, "layout": {"pipeline": 2}},
    "pp, tied": {"model": "qwen3", "world": 2, "layout": {"pipeline": 2}},
    "vpp": {"model": "qwen2", "world": 2, "layout": {"pipeline": 2, "virtual_pipeline": 2}},
    "dp": {"model": "qwen3", "world": 2},
    "dp of 4, rows of 1": {"model": "llama", "world": 4},
    "cp": {"model": "qwen3", "world": 2, "layout": {"context": 2}},
    "tp+sp+cp": {"model": "llama", "world": 4, "layout": {"tensor": 2, "sequence": True, "context": 2}},
    "tp+sp+pp, many files": {
        "model": "qwen3",
        "world": 4,
        "layout": {"tensor": 2, "sequence": True, "pipeline": 2},
        "file_bytes": 20_000,
    },
    "pp+dp": {"model": "qwen2", "world": 4, "layout": {"pipeline": 2}},
    "pp+cp": {"model": "llama", "world": 4, "layout": {"pipeline": 2, "context": 2}},
    "micro batches of 2": {"model": "qwen3", "world": 1, "micro": 2},
    "recompute": {"model": "qwen3", "world": 1, "recompute": "full"},
    "ep": {"model": "qwen3-moe", "world": 2, "layout": {"expert": 2}},
    "ep of 4": {"model": "glm4-moe", "world": 4, "layout": {"expert": 4}},
    "etp": {"model": "qwen3-moe", "world": 2, "layout": {"tensor": 2, "sequence": True}},
    "ep+tp+sp": {"model": "glm4-moe", "world": 4, "layout": {"expert": 2, "tensor": 2, "sequence": True}},
    "ep+pp": {"model": "glm4-moe", "world": 4, "layout": {"expert": 2, "pipeline": 2}},
    "ep+vpp": {"model": "qwen3-moe", "world": 4, "layout": {"expert": 2, "pipeline": 2, "virtual_pipeline": 2}},
    "experts+dp": {"model": "glm4-moe", "world": 2},
    "experts+cp": {"model": "qwen3-moe", "world": 2, "layout": {"context": 2}},
    "experts, recompute": {"model": "glm4-moe", "world": 1, "recompute": "full"},
}
ATTENTION = {"targets": ["linear_qkv", "linear_proj"]}
TP_SP = {"tensor": 2, "sequence": True}
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora, one rank": {"model": "qwen3", "world": 1},
    "lora, recompute, micro batches of 2": {"model": "qwen3", "world": 1, "recompute": "full", "micro": 2},
    "lora, tp": {"model": "llama", "world": 2, "layout": {"tensor": 2}},
    "lora, tp+sp, biases": {"model": "qwen2", "world": 2, "layout": TP_SP},
    "lora, pp, tied": {"model": "qwen3", "world": 2, "layout": {"pipeline": 2}},
    "lora, vpp": {"model": "llama", "world": 2, "layout": {"pipeline": 2, "virtual_pipeline": 2}},
    "lora, cp": {"model": "qwen3", "world": 2, "layout": {"context": 2}},
    "lora, dp, mlp alone": {"model": "llama", "world": 2, "lora": {"targets": ["linear_fc2", "linear_fc1"]}},
    "lora, tp+sp+pp": {"model": "qwen3", "world": 4, "layout": {**TP_SP, "pipeline": 2}},
    "lora, beside experts": {"model": "glm4-moe", "world": 1, "lora": ATTENTION},
    "lora, ep+tp+sp": {"model": "glm4-moe", "world": 4, "layout": {"expert": 2, **TP_SP}, "lora": ATTENTION},
}
TRAINING: dict[str, dict[str, Any]] = {
    "trained by one": {"model": "llama", "world": 1},
    "trained by tp+sp": {"model": "llama", "world": 2, "layout": TP_SP},
    "trained by dp, sharded optimizer": {"model": "llama", "world": 2, "layout": {"distributed_optimizer": True}},
    "trained by pp": {"model": "llama", "world": 2, "layout": {"pipeline": 2}},
}
CASES: dict[str, dict[str, Any]] = {
    **{f"logits of {name}": {"check": "logits", "model": name, "world": 1} for name in FAMILIES},
    **{f"{name} on one rank": {"check": "layout", "model": name, "world": 1} for name in FAMILIES},
    **{name: {"check": "layout", **case} for name, case in LAYOUTS.items()},
    "exports": {"check": "export", "model": "glm4-moe", "world": 2, "layout": {"expert": 2}},
    **{name: {"check": "adapters", **case} for name, case in ADAPTERS.items()},
    **{name: {"check": "training", **case} for name, case in TRAINING.items()},
    **{f"masks of {name}": {"check": "masked", "model": name, "world": 1} for name in ("llama", "glm4-moe")},
}

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("training-layouts")]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each case found: one process runs them all, for the sake of the imports."""
    cases = [{"name": name, **case} for name, case in CASES.items()]
    folder = str(tmp_path_factory.mktemp("layouts"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.training_checks", folder, json.dumps(cases)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=380,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == len(cases), done.stderr[-3000:]
    return {line["name"]: line for line in lines}


def of(found: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    assert "error" not in found[name], found[name].get("trace") or found[name]["error"]
    return found[name]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["check"] == "layout"])
def test_loss_and_gradients_are_those_of_transformers(found: dict[str, dict[str, Any]], name: str) -> None:
    case = of(found, name)
    assert case["largest"] > 0.05  # gradients that could hide nothing
    assert case["loss"] <= 1e-5
    assert case["gradients"] <= 1e-5
    assert case["missing"] == []


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["check"] == "layout"])
def test_the_way_back_changes_no_bit(found: dict[str, dict[str, Any]], name: str) -> None:
    case = of(found, name)
    assert case["differing"] == []
    assert case["files"] > 10 if "many files" in name else case["files"] <= 4


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers_and_packed_rows_see_only_themselves(
    found: dict[str, dict[str, Any]], family: str
) -> None:
    case = of(found, f"logits of {family}")
    assert case["logits"] <= 1e-5
    assert case["packed"] <= 1e-5


@pytest.mark.parametrize("family", ["llama", "glm4-moe"])
def test_what_is_masked_changes_no_gradient(found: dict[str, dict[str, Any]], family: str) -> None:
    case = of(found, f"masks of {family}")
    assert case["repeatable"]
    assert case["trained"] == [True, True]
    assert case["masked"] == [False, False]
    assert case["every_masked_label"] == [True, True]


def test_an_export_is_whole_or_absent(found: dict[str, dict[str, Any]]) -> None:
    case = of(found, "exports")
    assert "exists already" in case["twice"]
    assert case["left"] == []  # of an export that was killed
    assert case["carried"] == ["model.layers.4.eh_proj.weight"]
    assert case["differing"] == []
    assert case["modes"] == ["0o644"]
    assert case["marker"] == {"run": "here", "step": 7}
    assert "no tensor model.norm.weight" in case["unfit"]
    assert not case["unfit_left"]
    assert case["generated"]  # transformers loads it


@pytest.mark.parametrize("name", ADAPTERS)
def test_loss_and_gradients_are_those_of_transformers_with_the_matrices_added(
    found: dict[str, dict[str, Any]], name: str
) -> None:
    case = of(found, name)
    assert case["smallest"] > 1e-3  # gradients that could hide nothing
    assert case["loss"] <= 1e-5
    assert case["gradients"] <= 1e-5
    assert case["trained"]
    wanted = {"q_proj", "k_proj", "v_proj", "o_proj"} if "mlp" not in name else set()
    wanted |= {"gate_proj", "up_proj", "down_proj"} if "lora" not in ADAPTERS[name] or "mlp" in name else set()
    assert {layer.rpartition(".")[2] for layer in case["layers"]} == wanted
    assert len(case["layers"]) == 4 * len(wanted)


@pytest.mark.parametrize("name", ADAPTERS)
def test_training_begins_at_the_model_and_alike_in_every_layout(found: dict[str, dict[str, Any]], name: str) -> None:
    case = of(found, name)
    assert case["zeros"]
    alike = [of(found, other) for other in ADAPTERS if ADAPTERS[other].get("lora") == ADAPTERS[name].get("lora")]
    assert {other["begin"] for other in alike} == {case["begin"]}
    same = [of(found, other) for other in ADAPTERS if ADAPTERS[other]["model"] == ADAPTERS[name]["model"]]
    assert {other["base"] for other in same} == {case["base"]}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_export_has_the_adapters_merged_and_all_else_as_it_was(found: dict[str, dict[str, Any]], name: str) -> None:
    case = of(found, name)
    assert case["merged"] <= 1e-6
    assert case["differing"] == []
    assert (case["logits"] or 0) <= 1e-5
    assert (case["logits"] is None) == (ADAPTERS[name]["world"] > 1)


def test_the_loss_falls_alike_in_every_layout_and_no_bit_of_the_model_changes(found: dict[str, dict[str, Any]]) -> None:
    one = of(found, "trained by one")
    assert one["losses"][-1] < one["losses"][0] - 1
    assert min(one["norms"]) > 0.05  # it is clipped
    for name in TRAINING:
        case = of(found, name)
        np.testing.assert_allclose(case["losses"], one["losses"], rtol=1e-5)
        np.testing.assert_allclose(case["norms"], one["norms"], rtol=1e-5)
        assert case["moved"] and case["changed"] == [], name
