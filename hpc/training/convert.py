"""Weights between Hugging Face's safetensors and the chunks of Megatron-core, in every layout.

One tensor at a time: no rank ever holds more than its own part of the model and one whole tensor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from safetensors import SafetensorError, safe_open

from hpc.core.errors import CheckpointError
from hpc.training.batches import default_device
from hpc.training.naming import (
    EMBEDDING,
    HEAD,
    fuse_qkv,
    hugging_face_names,
    in_whole_model,
    is_adapter,
    is_expert,
    split_qkv,
)
from hpc.training.shape import ModelShape

INDEX = "model.safetensors.index.json"


class Weights:
    """The tensors of a folder in Hugging Face format, read when asked for.

    Raises:
        CheckpointError: there are none, or a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / INDEX
        try:
            if index.exists():
                self._file: dict[str, str] = json.loads(index.read_text())["weight_map"]
            else:
                with safe_open(folder / "model.safetensors", "pt") as file:
                    self._file = dict.fromkeys(file.keys(), "model.safetensors")
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"cannot read the weights in {folder}: {error}", "download the model again"
            ) from error
        self._open: dict[str, Any] = {}

    @property
    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self._file)

    def get(self, name: str) -> torch.Tensor:
        """One whole tensor, on the CPU.

        Raises:
            CheckpointError: it is missing, or its file is damaged.
        """
        if name not in self._file:
            raise CheckpointError(f"{self.folder} has no tensor {name}", "its config.json and weights do not fit")
        try:
            file = self._file[name]
            if file not in self._open:
                self._open[file] = safe_open(self.folder / file, "pt")
            tensor: torch.Tensor = self._open[file].get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"cannot read {name} in {self.folder}: {error}", "download the model again"
            ) from error
        return tensor


class Whole(NamedTuple):
    """A tensor of the whole model, and whether this rank is the one of its copies that shall write it."""

    name: str
    tensor: torch.Tensor
    mine: bool


@torch.no_grad()
def load_hf(chunks: Sequence[Any], shape: ModelShape, folder: Path) -> None:
    """Give this rank's chunks the weights in ``folder``, cast to their own precision; adapters stay as they are.

    Raises:
        CheckpointError: a tensor is missing or has another shape, or a file is damaged.
    """
    weights = Weights(folder)
    for name, parameter in _own(chunks):
        form, names = hugging_face_names(name)
        if shape.tied and names == [HEAD]:  # the last stage's copy of the embedding
            names = [EMBEDDING]
        group, dimension = _group(name), _dimension(parameter)
        parts = [weights.get(part) for part in names]
        if form == "qkv":
            parts = [fuse_qkv(shape, *parts)]
        if dimension is not None and group.size() > 1:
            parts = [part.chunk(group.size(), dimension)[group.rank()] for part in parts]
        tensor = torch.cat(parts) if form == "gated" else parts[0]
        if tensor.shape != parameter.shape:
            raise CheckpointError(
                f"{' + '.join(names)} in {folder}: this rank's part has the shape {tuple(tensor.shape)}, the model "
                f"needs {tuple(parameter.shape)}",
                "its config.json and weights do not fit",
            )
        parameter.copy_(tensor)


@torch.no_grad()
def whole_tensors(
    chunks: Sequence[Any],
    shape: ModelShape,
    value: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.detach,
    *,
    adapters: bool = False,
) -> Iterator[Whole]:
    """The tensors of the whole model that this rank has a part of, under Hugging Face's names.

    All ranks of a tensor-parallel group must iterate together.

    Args:
        value: what to take of each parameter; ``lambda p: p.main_grad`` gives gradients.
        adapters: those of the adapters instead, as `NAME.lora_A.weight` and `NAME.lora_B.weight`.
    """
    for name, parameter in _own(chunks, adapters=adapters):
        form, names = hugging_face_names(name)
        if shape.tied and names == [HEAD]:
            continue
        group, dimension, own = _group(name), _dimension(parameter), value(parameter)
        parts = [own]
        if dimension is not None and group.size() > 1:
            parts = [torch.empty_like(own) for _ in range(group.size())]
            dist.all_gather(parts, own.contiguous(), group=group)
        if form == "gated":
            halves = [part.chunk(2) for part in parts]
            tensors = [torch.cat([half[number] for half in halves], dimension or 0) for number in (0, 1)]
        else:
            fused = torch.cat(parts, dimension or 0) if len(parts) > 1 else parts[0]
            tensors = split_qkv(shape, fused) if form == "qkv" else [fused] * len(names)
        mine = _is_writer(name)
        yield from (Whole(part, tensor.contiguous(), mine) for part, tensor in zip(names, tensors, strict=True))


@torch.no_grad()
def checksum(chunks: Sequence[Any], shape: ModelShape) -> str:
    """Tells the weights of whole models apart, adapters aside: the sum of their bits as integers, modulo 2^64.

    It is the same in every layout. All ranks call it together.
    """
    total = torch.zeros((), dtype=torch.int64, device=default_device())
    for name, parameter in _own(chunks):
        if shape.tied and hugging_face_names(name)[1] == [HEAD]:
            continue
        if _copy(name) == 0 and (_dimension(parameter) is not None or _group(name).rank() == 0):
            bits = torch.int32 if parameter.element_size() == 4 else torch.int16
            total += parameter.detach().view(bits).sum(dtype=torch.int64)
    dist.all_reduce(total)
    return f"{int(total) % (1 << 64):016x}"


def _own(chunks: Sequence[Any], *, adapters: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    """This rank's weights under their names in the whole model; the routers' biases are buffers."""
    for chunk in chunks:
        experts = chunk.config.num_moe_experts or 0
        share = experts // chunk.config.expert_model_parallel_size
        first = parallel_state.get_expert_model_parallel_rank() * share if experts else 0
        layers = {number: layer.layer_number - 1 for number, layer in enumerate(chunk.decoder.layers)}
        biases = ((name, buffer) for name, buffer in chunk.named_buffers() if name.endswith("router.expert_bias"))
        for name, parameter in (*chunk.named_parameters(), *biases):
            if parameter is not None and is_adapter(name) == adapters:
                yield in_whole_model(name, layer=layers, first_expert=first), parameter


def _group(name: str) -> dist.ProcessGroup:
    """The ranks that share a weight's matrix."""
    group: dist.ProcessGroup = (
        parallel_state.get_expert_tensor_parallel_group()
        if is_expert(name)
        else parallel_state.get_tensor_model_parallel_group()
    )
    return group


def _dimension(parameter: torch.Tensor) -> int | None:
    """The dimension along which it is shared; None: every rank has all of it."""
    if not getattr(parameter, "tensor_model_parallel", False):
        return None
    dimension = getattr(parameter, "partition_dim", -1)
    return dimension if dimension >= 0 else None


def _copy(name: str) -> int:
    """Which of the copies of a weight that data-parallel ranks have is this rank's."""
    copy: int = (
        parallel_state.get_expert_data_parallel_rank()
        if is_expert(name)
        else parallel_state.get_data_parallel_rank(with_context_parallel=True)
    )
    return copy


def _is_writer(name: str) -> bool:
    return bool(_group(name).rank() == 0 and _copy(name) == 0)
