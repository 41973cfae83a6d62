"""Saving and loading the state of a training: Megatron-core's distributed checkpoints behind the shelf's marker."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any

import megatron.core
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue
from torch.distributed.checkpoint.api import CheckpointException

from hpc.core.errors import CheckpointError
from hpc.training.engine import Engine
from hpc.training.lora import adapters_of
from hpc.training.shelf import Checkpoint, Shelf, check_files, refuse_broken_moves, refuse_other_adapters

METADATA = {"distrib_optim_sharding_type": "fully_reshardable"}
"""The only format of the distributed optimizer that moves between layouts; the faster ones corrupt Adam's
step count with torch's AdamW."""


class Checkpointer:
    """Saves and loads one engine; every rank calls every method together.

    Args:
        layout: plain values, kept in the marker; it decides what may be loaded where.
        adapters: as `Checkpoint.adapters`; if there are any, nothing else of the model is written.
    """

    def __init__(
        self, shelf: Shelf, engine: Engine, *, layout: dict[str, Any], experts: bool, adapters: dict[str, Any]
    ) -> None:
        self.shelf = shelf
        self.engine = engine
        self.layout = layout
        self.experts = experts
        self.adapters = adapters
        self.rank = dist.get_rank()
        self._queue = AsyncCallsQueue()
        if self.rank == 0:
            shelf.sweep()

    # ---- saving
    def save(self, about: Checkpoint, *, asynchronous: bool, done: Callable[[Checkpoint], None]) -> None:
        """Write a checkpoint; it counts when ``done`` is called (on the first rank), which is before this
        returns unless ``asynchronous``.

        Raises:
            CheckpointError: it cannot be written; nothing is left that looks like a checkpoint.
        """
        self.finalize(blocking=True)  # one at a time
        box = [str(self.shelf.begin(about.step)) if self.rank == 0 else None]
        dist.broadcast_object_list(box, src=0)
        partial = Path(str(box[0]))
        filesystem_async._results_queue = _ResultsFile(partial / f".results-{self.rank}")

        def finish() -> None:
            (partial / f".results-{self.rank}").unlink(missing_ok=True)
            dist.barrier()
            if self.rank == 0:
                done(self.shelf.finish(partial, about))

        try:
            torch.save(_rng_state(), partial / "rng" / f"{self.rank:05d}.pt")
            request = dist_checkpointing.save(
                self._state(loading=False), str(partial / "state"), async_sharded_save=True
            )
            request.add_finalize_fn(finish)
            self._queue.schedule_async_request(request)
        except (OSError, CheckpointException, CheckpointingException, RuntimeError) as error:
            raise _unwritable(partial, error) from error
        if not asynchronous:
            self.finalize(blocking=True)

    def finalize(self, *, blocking: bool) -> None:
        """Complete a save in the background if it is through, or wait for it.

        Raises:
            CheckpointError: it could not be written.
        """
        if not self._queue.async_calls:
            return
        try:
            self._queue.maybe_finalize_async_calls(blocking=blocking)
        except (OSError, CheckpointException, CheckpointingException, RuntimeError) as error:
            raise _unwritable(self.shelf.folder, error) from error

    # ---- loading
    def load(self, checkpoint: Checkpoint) -> None:
        """Bring weights, optimizer and random numbers to where the checkpoint has them.

        Random states belong to ranks: in a world of another size they start afresh from the seed.

        Raises:
            CheckpointError: files are missing, damaged, or of another model.
            ConfigError: it cannot be loaded in this layout.
        """
        refuse_broken_moves(checkpoint.layout, self.layout, experts=self.experts)
        refuse_other_adapters(checkpoint, self.adapters)
        check_files(checkpoint)
        try:
            with torch.no_grad():
                loaded = dist_checkpointing.load(self._state(loading=True), str(checkpoint.folder / "state"))
                for index, module in enumerate(self.engine.modules):
                    module.load_state_dict(loaded[f"model{index}"], strict=False)
                self.engine.optimizer.load_state_dict(loaded["optimizer"])
        except (OSError, CheckpointException, CheckpointingException, RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"cannot load {checkpoint.folder}: {' '.join(str(error).split())[:300]}",
                "use another checkpoint of the run (`hpc checkpoint ls`), and the model it was made from",
            ) from error
        if checkpoint.world == dist.get_world_size():
            path = checkpoint.folder / "rng" / f"{self.rank:05d}.pt"
            _restore_rng(torch.load(path, map_location="cpu", weights_only=True))

    def _state(self, *, loading: bool) -> dict[str, Any]:
        models = {
            f"model{index}": model_state(module, adapters=bool(self.adapters))
            for index, module in enumerate(self.engine.modules)
        }
        optimizer = self.engine.optimizer.sharded_state_dict(models, is_loading=loading, metadata=METADATA)
        return {**models, "optimizer": optimizer}


class _ResultsFile:
    """How a writing process tells the trainer what it wrote.

    Megatron-core would start a manager process for this: seconds of start-up, and an orphan when the
    trainer is killed. A file is enough, as it is read only after the writer has ended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, results: Any) -> None:
        self.path.write_bytes(pickle.dumps(results))

    def get_nowait(self) -> Any:
        try:
            return pickle.loads(self.path.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):
            raise Empty from None


def model_state(module: Any, *, adapters: bool) -> dict[str, Any]:
    """What a checkpoint holds of a chunk, as Megatron-core's sharded state."""
    state: dict[str, Any] = module.sharded_state_dict(metadata=METADATA)
    return adapters_of(state) if adapters else state


def versions() -> dict[str, str]:
    """What wrote a checkpoint."""
    return {"torch": str(torch.__version__), "megatron-core": str(megatron.core.__version__)}


def describe(step: int, **rest: Any) -> Checkpoint:
    """What the marker of a checkpoint made now says."""
    return Checkpoint(step=step, created_at=time.time(), world=dist.get_world_size(), versions=versions(), **rest)


def _rng_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_rng(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _unwritable(path: Path, error: BaseException) -> CheckpointError:
    why = " ".join(str(error).split())[-300:] or type(error).__name__
    if "unexpected pos" in why:  # so torch says that less was written than it gave
        why = "no space left on the disk, or a limit of file sizes"
    return CheckpointError(f"cannot write the checkpoint {path}: {why}", "free space, then repeat the command")
