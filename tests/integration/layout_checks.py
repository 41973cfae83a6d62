"""What `training_checks` does in many layouts: one step compared with plain transformers, exports, masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hpc.training import platform

platform.prepare()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import transformers  # noqa: E402
from megatron.core import parallel_state  # noqa: E402
from megatron.core.distributed import (  # noqa: E402
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.packed_seq_params import PackedSeqParams  # noqa: E402
from megatron.core.pipeline_parallel import get_forward_backward_func  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from hpc.config.layout import LayoutConfig  # noqa: E402
from hpc.core.errors import ExportFailed  # noqa: E402
from hpc.training.convert import load_hf, whole_tensors  # noqa: E402
from hpc.training.export import export_hf  # noqa: E402
from hpc.training.model import build_model, start_parallel  # noqa: E402
from hpc.training.shape import read_shape  # noqa: E402

ROWS, LENGTH, WORDS = 4, 16, 128
COMMON = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.1,
    "max_position_embeddings": 64,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-scaled": ("Llama", {"rope_scaling": LLAMA3, "max_position_embeddings": 131072, "rope_theta": 500000.0}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
    "qwen3-moe": ("Qwen3Moe", {"num_experts": 8, "mlp_only_layers": [1], **EXPERTS}),
    "qwen3-moe-all": ("Qwen3Moe", {"num_experts": 8, **EXPERTS, "norm_topk_prob": False}),
    "glm4-moe": (
        "Glm4Moe",
        {
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "use_qk_norm": True,
            "attention_bias": True,
            "routed_scaling_factor": 2.5,
            **EXPERTS,
        },
    ),
}


def make_reference(root: Path, name: str) -> None:
    """A model with random weights, and its loss, gradients and logits on the data."""
    kind, changes = MODELS[name]
    torch.manual_seed(7)
    fields = {**COMMON, "tie_word_embeddings": False, **changes}
    if kind == "Qwen2":
        fields.pop("head_dim")
    config = getattr(transformers, f"{kind}Config")(**fields)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float()
    for buffer_name, buffer in model.named_buffers():
        if "e_score_correction_bias" in buffer_name:
            buffer.uniform_(-0.2, 0.2)
    model.save_pretrained(root / name)
    tokens, mask = data()
    logits = model(tokens[:, :-1]).logits
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    loss = (losses * mask).sum() / mask.sum()
    loss.backward()
    gradients = {
        key: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad  # of an expert nobody chose
        for key, parameter in model.named_parameters()
    }
    torch.save({"loss": loss.detach(), "logits": logits.detach(), "gradients": gradients}, root / f"{name}.pt")


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens ``[rows, length + 1]`` and the mask of their labels ``[rows, length]``."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, WORDS, (ROWS, LENGTH + 1), generator=generator)
    return tokens, (torch.rand(ROWS, LENGTH, generator=generator) < 0.6).float()


def share_of(tokens: torch.Tensor, mask: torch.Tensor, layout: LayoutConfig) -> dict[str, torch.Tensor]:
    """This rank's part of the rows, and of each row."""
    ranks, rank = parallel_state.get_data_parallel_world_size(), parallel_state.get_data_parallel_rank()
    mine = slice(rank * len(tokens) // ranks, (rank + 1) * len(tokens) // ranks)
    inputs = {"tokens": tokens[mine, :-1], "labels": tokens[mine, 1:], "mask": mask[mine]}
    inputs["positions"] = torch.arange(inputs["tokens"].shape[1]).expand_as(inputs["tokens"])
    if layout.context > 1:
        place, count = parallel_state.get_context_parallel_rank(), 2 * layout.context
        inputs = {
            key: value.reshape(len(value), count, -1)[:, [place, count - 1 - place]].reshape(len(value), -1)
            for key, value in inputs.items()
        }
    return inputs


def step(models: list[Any], tokens: torch.Tensor, mask: torch.Tensor, layout: LayoutConfig, *, micro: int = 1) -> float:
    """One forward and backward pass over all ranks; the mean loss over the trained tokens."""
    inputs = share_of(tokens, mask, layout)

    def batches() -> Any:
        for start in range(0, len(inputs["tokens"]), micro):
            yield {key: value[start : start + micro].contiguous() for key, value in inputs.items()}

    def forward(batch_iterator: Any, model: Any) -> Any:
        batch = next(batch_iterator)
        output = model(batch["tokens"], batch["positions"], None, labels=batch["labels"])

        def reduce(output: torch.Tensor) -> Any:
            total, count = (output.float() * batch["mask"]).sum(), batch["mask"].sum()
            return total, count.to(torch.int), torch.stack([total.detach(), count])

        return output, reduce

    for model in models:
        model.zero_grad_buffer()
    sums = get_forward_backward_func()(
        forward_step_func=forward,
        data_iterator=[batches() for _ in models] if len(models) > 1 else batches(),
        model=models if len(models) > 1 else models[0],
        num_microbatches=len(inputs["tokens"]) // micro,
        seq_length=LENGTH,
        micro_batch_size=micro,
        forward_only=False,
    )
    total = torch.zeros(2)
    for one in sums:
        total += one
    dist.all_reduce(total, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
    dist.broadcast(
        total,
        src=parallel_state.get_pipeline_model_parallel_last_rank(),
        group=parallel_state.get_pipeline_model_parallel_group(),
    )
    return float(total[0] / total[1])


def wrapped(chunks: list[Any]) -> list[Any]:
    options = DistributedDataParallelConfig(grad_reduce_in_fp32=True)
    for chunk in chunks:
        chunk.config.finalize_model_grads_func = finalize_model_grads
    return [DistributedDataParallel(chunk.config, options, chunk) for chunk in chunks]


def gradient_of(parameter: torch.Tensor) -> torch.Tensor:
    return getattr(parameter, "main_grad", torch.zeros_like(parameter))


def check_layout(root: Path, case: dict[str, Any]) -> dict[str, Any]:
    """Loss and gradients against the reference, and the way back to Hugging Face's format."""
    name, layout = case["model"], LayoutConfig(**case.get("layout", {}))
    reference = torch.load(root / f"{name}.pt")
    shape = read_shape(root / name)
    start_parallel(layout, shape, seed=1)
    chunks = build_model(shape, layout, precision="fp32", recompute=case.get("recompute", "none"))
    load_hf(chunks, shape, root / name)
    tokens, mask = data()
    loss = step(wrapped(chunks), tokens, mask, layout, micro=case.get("micro", 1))
    worst, seen = 0.0, set()
    for whole in whole_tensors(chunks, shape, gradient_of):
        expected = reference["gradients"].get(whole.name)
        if expected is not None:
            seen.add(whole.name)
            worst = max(worst, float((whole.tensor - expected).abs().max()))
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, (worst, seen))
    target = root / "exports" / case["name"]
    export_hf(chunks, shape, root / name, target, file_bytes=case.get("file_bytes", 1 << 30))
    missing = reference["gradients"].keys() - set().union(*(names for _, names in gathered))
    return {
        "loss": abs(loss - float(reference["loss"])),
        "gradients": max(value for value, _ in gathered),
        "largest": max(float(value.abs().max()) for value in reference["gradients"].values()),
        "missing": sorted(missing),
        "differing": differing(root / name, target) if dist.get_rank() == 0 else [],
        "files": len(list(target.glob("*.safetensors"))),
    }


def differing(one: Path, other: Path) -> list[str]:
    """Names of tensors that are not the same to the bit in two folders."""

    def tensors(folder: Path) -> dict[str, torch.Tensor]:
        found = {}
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                found |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return found

    first, second = tensors(one), tensors(other)
    same = {key for key in first.keys() & second.keys() if torch.equal(first[key], second[key])}
    same = {key for key in same if first[key].dtype == second[key].dtype}
    return sorted((first.keys() | second.keys()) - same)


def check_logits(root: Path, case: dict[str, Any]) -> dict[str, Any]:
    """Logits against the reference; the rows packed into one against the rows by themselves."""
    name, layout = case["model"], LayoutConfig()
    reference = torch.load(root / f"{name}.pt")
    shape = read_shape(root / name)
    start_parallel(layout, shape, seed=1)
    (chunk,) = build_model(shape, layout, precision="fp32")
    load_hf([chunk], shape, root / name)
    tokens, _ = data()
    inputs = tokens[:, :-1]
    positions = torch.arange(LENGTH).expand_as(inputs)
    with torch.no_grad():
        logits = chunk(inputs, positions, None)
        bounds = torch.tensor([0, LENGTH, LENGTH + 5, 2 * LENGTH, 3 * LENGTH, 4 * LENGTH], dtype=torch.int32)
        packed = PackedSeqParams(
            qkv_format="thd", cu_seqlens_q=bounds, cu_seqlens_kv=bounds, max_seqlen_q=LENGTH, max_seqlen_kv=LENGTH
        )
        # the second row is two segments: its first five tokens, and the rest with positions from 0
        row = inputs.reshape(1, -1)
        spots = torch.cat([torch.arange(n) for n in torch.diff(bounds).tolist()])[None]
        together = chunk(row, spots, None, packed_seq_params=packed).reshape(ROWS, LENGTH, -1)
        tail = chunk(inputs[1:2, 5:], positions[1:2, : LENGTH - 5], None)
    return {
        "logits": float((logits - reference["logits"]).abs().max()),
        "packed": max(
            float((together[[0, 2, 3]] - logits[[0, 2, 3]]).abs().max()),
            float((together[1, :5] - logits[1, :5]).abs().max()),
            float((together[1, 5:] - tail[0]).abs().max()),
        ),
    }


def check_masked(root: Path, case: dict[str, Any]) -> dict[str, Any]:
    """What changing one label does to the gradients: nothing where it is masked, something where not."""
    name, layout = case["model"], LayoutConfig()
    shape = read_shape(root / name)
    start_parallel(layout, shape, seed=1)
    chunks = build_model(shape, layout, precision="fp32")
    load_hf(chunks, shape, root / name)
    models = wrapped(chunks)
    tokens, mask = data()

    def gradients(tokens: torch.Tensor) -> list[torch.Tensor]:
        step(models, tokens, mask, layout)
        return [whole.tensor.clone() for whole in whole_tensors(chunks, shape, gradient_of)]

    def changed(row: int, place: int) -> bool:
        # labels alone: the last token of a row is no input of any other
        other = tokens.clone()
        other[row, place] = (other[row, place] + 1) % WORDS
        found = [torch.equal(one, two) for one, two in zip(before, gradients(other), strict=True)]
        return not all(found)

    mask[:, -1] = torch.tensor([1.0, 0.0, 1.0, 0.0])
    before = gradients(tokens)
    again = gradients(tokens)
    return {
        "repeatable": all(torch.equal(one, two) for one, two in zip(before, again, strict=True)),
        "trained": [changed(row, LENGTH) for row in (0, 2)],
        "masked": [changed(row, LENGTH) for row in (1, 3)],
        "every_masked_label": relabelled(models, chunks, shape, tokens, mask, layout, before),
    }


def relabelled(
    models: list[Any],
    chunks: list[Any],
    shape: Any,
    tokens: torch.Tensor,
    mask: torch.Tensor,
    layout: LayoutConfig,
    before: list[torch.Tensor],
) -> list[bool]:
    """Whether gradients stay when all masked labels change while the inputs stay, and whether they change with
    one trained label."""
    model = models[0]

    def gradients(labels: torch.Tensor) -> list[torch.Tensor]:
        model.zero_grad_buffer()
        for row in range(ROWS):
            losses = model(tokens[row : row + 1, :-1], torch.arange(LENGTH)[None], None, labels=labels[row : row + 1])
            (losses.float() * mask[row]).sum().backward()
        finalize_model_grads([model], mask.sum().to(torch.int))
        return [whole.tensor.clone() for whole in whole_tensors(chunks, shape, gradient_of)]

    labels = tokens[:, 1:].clone()
    plain = gradients(labels)
    masked = torch.where(mask == 0, (labels + 17) % WORDS, labels)
    place = np.argwhere(mask.numpy() == 1)[0]
    trained = labels.clone()
    trained[tuple(place)] = (trained[tuple(place)] + 17) % WORDS
    return [
        all(torch.equal(one, two) for one, two in zip(plain, gradients(masked), strict=True)),
        not all(torch.equal(one, two) for one, two in zip(plain, gradients(trained), strict=True)),
    ]


def check_export(root: Path, case: dict[str, Any]) -> dict[str, Any]:
    """Exports that exist already, were killed before, carry layers over, or cannot be had."""
    layout, rank = LayoutConfig(**case["layout"]), dist.get_rank()
    source, target = root / "with-extra", root / "exports" / "extra"
    extra = "model.layers.4.eh_proj.weight"
    if rank == 0:
        shutil.copytree(root / case["model"], source)
        tensors = load_file(source / "model.safetensors")
        save_file({**tensors, extra: torch.ones(3)}, source / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))
        draft = target.with_name(f".{target.name}.partial")
        draft.mkdir()
        (draft / "part-00000-00000.safetensors").write_bytes(b"left by a killed export")
        unfit = root / "unfit"
        shutil.copytree(source, unfit)
        fewer = {name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}
        save_file(fewer, unfit / "model.safetensors", metadata={"format": "pt"})
    dist.barrier()
    shape = read_shape(source)
    start_parallel(layout, shape, seed=1)
    chunks = build_model(shape, layout, precision="bf16")
    load_hf(chunks, shape, source)
    export_hf(chunks, shape, source, target, about={"run": "here", "step": 7})
    problems = {}
    for name, origin, folder in (("twice", source, target), ("unfit", root / "unfit", root / "exports" / "unfit")):
        try:
            export_hf(chunks, shape, origin, folder)
        except ExportFailed as error:
            problems[name] = str(error)
    if rank:
        return problems
    names = {path.name for path in target.iterdir()}
    index = json.loads((target / "model.safetensors.index.json").read_text())["weight_map"]
    model = transformers.AutoModelForCausalLM.from_pretrained(target)
    marker = json.loads((target / "STABLE").read_text())
    return {
        **problems,
        "left": [path.name for path in target.parent.glob(".*")] + [name for name in names if name.startswith("part-")],
        "carried": sorted(name for name in index if name.startswith("model.layers.4.")),
        "differing": [name for name in differing(source, target) if not rounded(source, target, name)],
        "marker": {key: marker[key] for key in ("run", "step")},
        "modes": sorted({oct(path.stat().st_mode & 0o777) for path in target.iterdir()}),
        "unfit_left": (root / "exports" / "unfit").exists(),
        "generated": model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2).shape == (1, 5),
    }


def rounded(one: Path, other: Path, name: str) -> bool:
    """Whether a tensor of ``other`` is that of ``one`` in bfloat16, as the model has it."""

    def get(folder: Path) -> torch.Tensor:
        found = [load_file(path) for path in folder.glob("*.safetensors")]
        return next(tensors[name] for tensors in found if name in tensors)

    return torch.equal(get(one).bfloat16().float(), get(other).float())
