"""One rank from beginning to end: the process group, the model, the loop; and the way back to Hugging Face weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state

from hpc.config.layout import LayoutConfig
from hpc.config.train import TrainRunConfig
from hpc.core.errors import CheckpointError, ConfigError, DatasetError
from hpc.examples import MANIFEST
from hpc.examples.manifest import Manifest
from hpc.rundir import RunDir
from hpc.training.checkpoints import model_state
from hpc.training.convert import checksum, load_hf
from hpc.training.export import export_adapters, export_hf
from hpc.training.loop import Built, Outcome, Trainer
from hpc.training.lora import merge_adapters
from hpc.training.model import build_model, start_parallel
from hpc.training.platform import backend, prepare
from hpc.training.shape import ModelShape, read_shape
from hpc.training.shelf import Checkpoint, describe_adapters, refuse_other_adapters
from hpc.training.world import Place, meet

COLLECTIVE_TIMEOUT = timedelta(minutes=30)


def train(run: RunDir, config: TrainRunConfig, place: Place, *, stopping: Callable[[], bool]) -> Outcome:
    """Train, or go on with it, until it is over or the job must go.

    Raises:
        HpcError: something cannot be used, or the disk is full; the message says what.
    """
    if config.layout.distributed_optimizer and prepare() == "cpu":
        raise ConfigError(
            "layout.distributed_optimizer on the CPU: its checkpoints lose Adam's step count there",
            "set layout.distributed_optimizer=false",
        )
    folder = Path(config.model.path)
    shape = read_shape(folder)
    with _ranks(place, config.layout, shape, threads=config.train.threads, seed=config.train.seed):
        chunks = build_model(
            shape,
            config.layout,
            precision=config.train.precision,
            recompute=config.train.recompute,
            lora=config.lora,
            seed=config.train.seed,
        )
        load_hf(chunks, shape, folder)
        built = Built(
            chunks,
            config.layout.row_multiple,
            shape.vocabulary,
            partial(shape.flops, frozen=config.lora.enabled),
            _adapters(config, chunks, shape),
        )
        with ExitStack() as stack:
            outcome = Trainer(run, config, built, stopping=stopping, stack=stack).run()
        dist.barrier()
    return outcome


def export_weights(
    config: TrainRunConfig,
    checkpoint: Checkpoint,
    target: Path,
    *,
    run: str,
    dtype: str | None = None,
    adapters: bool = False,
) -> None:
    """Write a checkpoint as Hugging Face weights; one process is enough, whatever the layout was.

    Adapters are merged into the weights of the model that they were trained on.

    Args:
        dtype: precision of the tensors (float32, bfloat16 or float16); None: the source's.
        adapters: write the adapters alone, in their own precision, instead of a model that they are merged into.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ConfigError: the model that its adapters were trained on is another by now.
        ExportFailed: the folder is there already, or the disk is full.
    """
    source = Path(config.model.path)
    shape = read_shape(source)
    with tempfile.TemporaryDirectory() as temporary:
        place = Place(rank=0, world=1, local_rank=0, meeting=Path(temporary) / "meeting.json")
        with _ranks(place, LayoutConfig(), shape, threads=config.train.threads, seed=0):
            chunks = build_model(shape, LayoutConfig(), precision=config.train.precision, lora=config.lora)
            if config.lora.enabled:
                load_hf(chunks, shape, source)
                refuse_other_adapters(checkpoint, _adapters(config, chunks, shape))
            try:
                wanted = {"model0": model_state(chunks[0], adapters=config.lora.enabled)}
                loaded = dist_checkpointing.load(wanted, str(checkpoint.folder / "state"))
                chunks[0].load_state_dict(loaded["model0"], strict=False)
            except (OSError, RuntimeError, KeyError, ValueError) as error:
                raise CheckpointError(
                    f"cannot read {checkpoint.folder}: {' '.join(str(error).split())[:300]}", "export another one"
                ) from error
            about = {"run": run, "step": checkpoint.step, "dataset": _dataset_of(config)}
            about |= {"start_from": config.train.start_from, "warm_start": config.train.warm_start}
            if adapters:
                export_adapters(chunks, shape, config.lora, source, target, about=about)
                return
            merge_adapters(chunks)
            export_hf(chunks, shape, source, target, about=about, dtype=dtype)


def _dataset_of(config: TrainRunConfig) -> dict[str, str | None]:
    """What was trained on, for whoever evaluates the weights; ``content`` is None where it is gone by now."""
    try:
        content = Manifest.read(Path(config.train.dataset) / MANIFEST).content
    except DatasetError:
        content = None
    return {"folder": config.train.dataset, "content": content}


def _adapters(config: TrainRunConfig, chunks: list[Any], shape: ModelShape) -> dict[str, Any]:
    """What `Checkpoint.adapters` says of a model with its weights."""
    return {**describe_adapters(config.lora), "base": checksum(chunks, shape)} if config.lora.enabled else {}


@contextmanager
def _ranks(place: Place, layout: LayoutConfig, shape: ModelShape, *, threads: int, seed: int) -> Iterator[None]:
    """The process group and Megatron-core's groups in it, as long as the block lasts."""
    torch.set_num_threads(threads)
    if prepare() == "cuda":
        torch.cuda.set_device(place.local_rank)
    dist.init_process_group(
        backend(), store=meet(place), rank=place.rank, world_size=place.world, timeout=COLLECTIVE_TIMEOUT
    )
    try:
        start_parallel(layout, shape, seed=seed)
        yield
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
