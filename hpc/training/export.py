"""A model in Hugging Face format from the chunks of Megatron-core: weights, config, tokenizer, template.

Every rank writes its own tensors into files beside each other; the first puts them in order. The folder
appears at once, whole, with the marker ``STABLE`` in it; what a killed export left is removed by the next.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from hpc.config.lora import LoraConfig
from hpc.core import files
from hpc.core.errors import ExportFailed, HpcError
from hpc.training.convert import INDEX, Weights, whole_tensors
from hpc.training.shape import ModelShape

MARKER = "STABLE"
FILE_BYTES = 4 << 30
"""Most bytes of tensors in one file."""
READABLE = 0o644
CARRIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "LICENSE.txt",
)
"""Files that come with the weights; those that the source has are copied."""


def export_hf(
    chunks: Sequence[Any],
    shape: ModelShape,
    source: Path,
    target: Path,
    *,
    about: dict[str, Any] | None = None,
    dtype: str | None = None,
    file_bytes: int = FILE_BYTES,
) -> None:
    """Write ``target``; every rank calls it together, and all see the same file system.

    Tensors have the precision that the source's have, unless ``dtype`` names another. Tensors of the source that
    are not trained here (layers for multi-token prediction) are carried over as they are.

    Args:
        source: the model that training began from, in Hugging Face format.
        target: must not exist; its parent may be made.
        about: JSON values for the marker, such as the checkpoint's run and step.

    Raises:
        ExportFailed: it exists already, the disk is full, or the tensors are not those of the source.
    """
    draft = target.with_name(f".{target.name}.partial")
    _together(lambda: _begin(target, draft) if dist.get_rank() == 0 else None)
    try:
        parts = _write(chunks, shape, Weights(source), draft, dtype, file_bytes)
        told = about or {}
        _together(lambda: _complete(draft, target, source, parts, told, dtype) if dist.get_rank() == 0 else None)
    finally:
        if dist.get_rank() == 0:
            shutil.rmtree(draft, ignore_errors=True)


def export_adapters(
    chunks: Sequence[Any], shape: ModelShape, lora: LoraConfig, base: Path, target: Path, *, about: dict[str, Any]
) -> None:
    """Write the adapters alone, as peft and vLLM read them; one process that has the whole model is enough.

    Raises:
        ExportFailed: the folder exists already, or the disk is full.
    """
    draft = target.with_name(f".{target.name}.partial")

    def write() -> None:
        _begin(target, draft)
        tensors = {
            f"base_model.model.{whole.name}": whole.tensor.to("cpu").clone()
            for whole in whole_tensors(chunks, shape, adapters=True)
        }
        save_file(tensors, draft / "adapter_model.safetensors", metadata={"format": "pt"})
        settings = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(base),
            "r": lora.rank,
            "lora_alpha": lora.full_alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "inference_mode": True,
            "target_modules": sorted({name.split(".lora_")[0].rpartition(".")[2] for name in tensors}),
        }
        (draft / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        _appear(draft, target, {"from": str(base), **about})

    try:
        _together(write)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(
    chunks: Sequence[Any], shape: ModelShape, weights: Weights, draft: Path, dtype: str | None, file_bytes: int
) -> list[tuple[str, list[str], int]]:
    """Write what is this rank's to write; of all ranks' files the name, the tensors in it, and their bytes."""
    rank = dist.get_rank()
    parts: list[tuple[str, list[str], int]] = []
    # an error of one rank must not leave the others waiting for it: it is told at the end
    problem: Exception | None = None
    held: dict[str, torch.Tensor] = {}
    size = 0

    def flush() -> None:
        nonlocal size
        if held:
            name = f"part-{rank:05d}-{len(parts):05d}.safetensors"
            save_file(held, draft / name, metadata={"format": "pt"})
            parts.append((name, sorted(held), size))
            held.clear()
            size = 0

    for whole in whole_tensors(chunks, shape):
        if not whole.mine or problem is not None:
            continue
        try:
            tensor = whole.tensor.to("cpu", getattr(torch, dtype) if dtype else weights.get(whole.name).dtype)
            if size and size + tensor.nbytes > file_bytes:
                flush()
            held[whole.name] = tensor.clone()
            size += tensor.nbytes
        except Exception as error:
            problem = error

    def finish() -> None:
        if problem is not None:
            raise problem
        if rank == 0:
            for name in _carried(weights, shape):
                held[name] = weights.get(name)
        flush()

    _together(finish)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, parts)
    return [part for theirs in gathered for part in theirs]


def _together(work: Any) -> None:
    """Do something on every rank; where one fails, all do.

    Raises:
        ExportFailed: it failed on this rank or another.
    """
    message: tuple[str, str] | None = None
    try:
        work()
    except HpcError as error:
        message = (error.message, error.hint)
    except Exception as error:
        message = (f"the export failed on rank {dist.get_rank()}: {error}", "free space or mend what it names")
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, message)
    for found in told:
        if found is not None:
            raise ExportFailed(*found)


def _begin(target: Path, draft: Path) -> None:
    if target.exists():
        raise ExportFailed(f"{target} exists already", "name another folder, or remove it")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)


def _carried(weights: Weights, shape: ModelShape) -> list[str]:
    """Tensors of layers behind the last."""
    extra = range(shape.layers, shape.layers + shape.extra_layers)
    prefixes = tuple(f"model.layers.{layer}." for layer in extra)
    return sorted(name for name in weights.names if prefixes and name.startswith(prefixes))


def _complete(
    draft: Path,
    target: Path,
    source: Path,
    parts: list[tuple[str, list[str], int]],
    about: dict[str, Any],
    dtype: str | None,
) -> None:
    """Number the files, write their index, copy what belongs to them, and let the folder appear."""
    where = {name: file for file, names, _ in parts for name in names}
    there = Weights(source).names
    expected = {name for name in there if not re.search(r"rotary_emb\.inv_freq$", name)}
    expected -= {"lm_head.weight"} - where.keys()  # some files of tied models have it twice
    if missing := expected - where.keys():
        raise ExportFailed(f"{len(missing)} tensors would be missing, {min(missing)} among them", "report this")
    if added := where.keys() - there:
        raise ExportFailed(f"{len(added)} tensors are not in {source}, {min(added)} among them", "report this")
    names = {}
    for number, (file, _, _) in enumerate(sorted(parts), 1):
        single = len(parts) == 1
        names[file] = "model.safetensors" if single else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        (draft / file).rename(draft / names[file])
    if len(parts) > 1:
        total = sum(size for _, _, size in parts)
        index = {"metadata": {"total_size": total}, "weight_map": {name: names[where[name]] for name in sorted(where)}}
        (draft / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    for name in CARRIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, draft / name)
    if dtype is not None:
        config = json.loads((draft / "config.json").read_text())
        named = [key for key in ("dtype", "torch_dtype") if key in config] or [
            "dtype"
        ]  # as this file's version says it
        (draft / "config.json").write_text(json.dumps(config | dict.fromkeys(named, dtype), indent=2) + "\n")
    _appear(draft, target, {"from": str(source), **about})


def _appear(draft: Path, target: Path, marker: dict[str, Any]) -> None:
    """Let the folder appear, whole and durable, its marker last."""
    for path in draft.iterdir():
        path.chmod(READABLE)  # safetensors writes for its owner alone
        with path.open("rb") as file_:
            os.fsync(file_.fileno())
    files.write_json(draft / MARKER, marker)
    draft.rename(target)
    files.fsync_dir(target.parent)
