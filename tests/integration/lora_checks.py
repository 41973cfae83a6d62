"""What `training_checks` does with adapters: one step compared with plain transformers, and several."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.integration.layout_checks import data, gradient_of, share_of, step, wrapped

# isort: split
import torch
import torch.distributed as dist
import transformers

from hpc.config.layout import LayoutConfig
from hpc.config.lora import LoraConfig
from hpc.config.train import OptimizerConfig, TrainConfig
from hpc.training.batches import Batch
from hpc.training.convert import Weights, checksum, load_hf, whole_tensors
from hpc.training.engine import Engine
from hpc.training.export import export_hf
from hpc.training.lora import merge_adapters
from hpc.training.model import build_model, start_parallel
from hpc.training.shape import read_shape

FUSED = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gated", "up": "gated"}
"""Parts of fused layers, which share their A."""


def build(root: Path, case: dict[str, Any], **options: Any) -> tuple[list[Any], Any, LayoutConfig, LoraConfig]:
    layout, lora = LayoutConfig(**case.get("layout", {})), LoraConfig(rank=4, alpha=6.0, **case.get("lora", {}))
    shape = read_shape(root / case["model"])
    start_parallel(layout, shape, seed=1)
    chunks = build_model(shape, layout, precision="fp32", lora=lora, seed=5, **options)
    load_hf(chunks, shape, root / case["model"])
    return chunks, shape, layout, lora


def fill(chunks: list[Any]) -> None:
    """B of random numbers: at its zeros A would have no gradient. Ranks that share B agree on it."""
    for chunk in chunks:
        names = {number: layer.layer_number for number, layer in enumerate(chunk.decoder.layers)}
        for name, parameter in chunk.named_parameters():
            if name.endswith("lora_B"):
                number = int(name.split("layers.")[1].split(".")[0])
                part = dist.get_rank() if getattr(parameter, "tensor_model_parallel", False) else 0
                copies = chunk.config.tensor_model_parallel_size
                key = f"{names[number]}.{name.split('.', 3)[3]}.{part % copies}".encode()
                seed = int.from_bytes(hashlib.sha256(key).digest()[:6], "big")
                values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
                parameter.data.copy_(0.05 * values)


def whole_adapters(chunks: list[Any], shape: Any, value: Any = torch.Tensor.detach) -> dict[str, torch.Tensor]:
    """All adapters of the whole model, on every rank."""
    mine = {whole.name: whole.tensor.clone() for whole in whole_tensors(chunks, shape, value, adapters=True)}
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return {name: tensor for each in gathered for name, tensor in each.items()}


class Reference:
    """Plain transformers with the adapters added to its matrices: what is to come out."""

    def __init__(self, folder: Path, adapters: dict[str, torch.Tensor], scale: float) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        self.parameters = dict(self.model.named_parameters())
        self.layers = sorted(name.removesuffix(".lora_A.weight") for name in adapters if ".lora_A." in name)
        for layer in self.layers:
            a, b = adapters[f"{layer}.lora_A.weight"], adapters[f"{layer}.lora_B.weight"]
            self.parameters[f"{layer}.weight"].data += scale * b @ a
        tokens, mask = data()
        self.logits = self.model(tokens[:, :-1]).logits
        losses = torch.nn.functional.cross_entropy(self.logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        loss = (losses * mask).sum() / mask.sum()
        loss.backward()
        self.loss = float(loss)
        self.gradients: dict[str, torch.Tensor] = {}
        shared: dict[str, torch.Tensor] = {}
        for layer in self.layers:  # of W + scale B A: dB = scale dW A', dA = scale B' dW, summed where A is shared
            gradient = self.parameters[f"{layer}.weight"].grad
            assert gradient is not None
            a, b = adapters[f"{layer}.lora_A.weight"], adapters[f"{layer}.lora_B.weight"]
            self.gradients[f"{layer}.lora_B.weight"] = scale * gradient @ a.T
            shared[self.fused(layer)] = shared.get(self.fused(layer), 0) + scale * b.T @ gradient
        for layer in self.layers:
            self.gradients[f"{layer}.lora_A.weight"] = shared[self.fused(layer)]

    @staticmethod
    def fused(layer: str) -> str:
        before, _, last = layer.rpartition(".")
        return f"{before}.{FUSED.get(last.removesuffix('_proj'), last)}"


def check_adapters(root: Path, case: dict[str, Any]) -> dict[str, Any]:
    """Loss and gradients of adapters that are not zero, where they begin, and the export that has them merged."""
    chunks, shape, layout, lora = build(root, case, recompute=case.get("recompute", "none"))
    begin = whole_adapters(chunks, shape)
    fill(chunks)
    base = checksum(chunks, shape)
    tokens, mask = data()
    loss = step(wrapped(chunks), tokens, mask, layout, micro=case.get("micro", 1))
    adapters, gradients = whole_adapters(chunks, shape), whole_adapters(chunks, shape, gradient_of)
    trained = [name for chunk in chunks for name, each in chunk.named_parameters() if each.requires_grad]
    merge_adapters(chunks)
    target = root / "exports" / case["name"]
    export_hf(chunks, shape, root / case["model"], target)
    logits = chunks[0](tokens[:, :-1], torch.arange(16).expand(4, 16), None) if dist.get_world_size() == 1 else None
    if dist.get_rank():
        return {}
    reference = Reference(root / case["model"], adapters, lora.scale)
    exported = Weights(target)
    adapted = [f"{name}.weight" for name in reference.layers]
    untouched = exported.names - set(adapted)
    source = Weights(root / case["model"])
    served = transformers.AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    return {
        "begin": hashlib.sha256(b"".join(begin[name].numpy().tobytes() for name in sorted(begin))).hexdigest(),
        "base": base,
        "zeros": all(not tensor.any() for name, tensor in begin.items() if ".lora_B." in name),
        "layers": reference.layers,
        "trained": all(".lora_" in name for name in trained) and bool(trained),
        "loss": abs(loss - reference.loss),
        "gradients": max(float((gradients[n] - reference.gradients[n]).abs().max()) for n in reference.gradients),
        "smallest": min(float(each.abs().max()) for each in reference.gradients.values()),
        "merged": max(float((reference.parameters[n] - exported.get(n)).abs().max()) for n in adapted),
        "differing": [name for name in untouched if not torch.equal(exported.get(name), source.get(name))],
        "logits": None if logits is None else float((served(tokens[:, :-1]).logits - logits).abs().max().detach()),
    }


def check_training(root: Path, case: dict[str, Any]) -> dict[str, Any]:
    """Steps of the trainer's engine: the losses, and whether the frozen weights stay as they are."""
    chunks, shape, layout, _ = build(root, case)
    optimizer = OptimizerConfig(lr=0.01, weight_decay=0.1, clip_grad=0.05, schedule="constant")
    config = TrainConfig(dataset="none", precision="fp32", packing=False, micro_batch=1, optimizer=optimizer)
    engine = Engine(chunks, config, distributed_optimizer=layout.distributed_optimizer)
    inputs = share_of(*data(), layout)
    batches = [
        Batch(*(inputs[name][row : row + 1].contiguous() for name in ("tokens", "labels", "mask", "positions")), None)
        for row in range(len(inputs["tokens"]))
    ]
    steps = [engine.step(batches, 0.01, lambda *_: "ok") for _ in range(6)]
    source = Weights(root / case["model"])
    changed = [
        each.name for each in whole_tensors(chunks, shape) if not torch.equal(each.tensor, source.get(each.name))
    ]
    return {
        "losses": [step.loss for step in steps],
        "norms": [step.grad_norm for step in steps],
        "changed": changed,
        "moved": any(each.any() for name, each in whole_adapters(chunks, shape).items() if ".lora_B." in name),
    }
