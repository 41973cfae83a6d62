"""The folder of a run's checkpoints: which are whole, which is the newest, which may go.

::

    checkpoints/
      step-00000100/
        state/             Megatron-core's distributed checkpoint
        rng/00000.pt       random states, one file for each rank
        STABLE             written last, by atomic rename: what it is, and the size of every file
      .step-00000200.x.partial/    being written, or left by a process that died

Only a folder with STABLE is a checkpoint. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import msgspec

from hpc.config.lora import LoraConfig
from hpc.core import files
from hpc.core.errors import CheckpointError, CheckpointNotFound, ConfigError
from hpc.rundir import RunDir

MARKER = "STABLE"
_NAME = re.compile(r"step-(\d{8,})")


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What the marker says of a checkpoint.

    ``step`` is how many optimizer steps were made; ``state`` what the trainer needs to go on besides
    tensors; ``data`` what the position in the data depends on; ``sizes`` the bytes of every file.
    ``adapters``: it holds adapters alone, of this rank, alpha and targets, on a model of this checksum; empty: it
    holds the whole model.
    """

    step: int
    created_at: float
    layout: dict[str, Any]
    world: int
    data: dict[str, Any]
    state: dict[str, Any]
    loss: float | None = None
    validation_loss: float | None = None
    versions: dict[str, str] = {}
    sizes: dict[str, int] = {}
    adapters: dict[str, Any] = {}
    path: str = ""

    @property
    def folder(self) -> Path:
        return Path(self.path)

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


class Shelf:
    """The checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, step: int) -> Path:
        """An empty folder to write a checkpoint into; not one yet.

        Raises:
            CheckpointError: it cannot be made.
        """
        partial = self.folder / f".{_name(step)}.{uuid.uuid4().hex[:8]}.partial"
        try:
            for inner in ("state", "rng"):
                (partial / inner).mkdir(parents=True)
        except OSError as error:
            raise CheckpointError(f"cannot make {partial}: {error.strerror}", "free space") from error
        return partial

    def finish(self, partial: Path, about: Checkpoint) -> Checkpoint:
        """Everything is written: make it a checkpoint.

        Raises:
            CheckpointError: the disk is full, or something of the folder is missing.
        """
        target = self.folder / _name(about.step)
        try:
            sizes = {}
            for path in sorted(partial.rglob("*")):
                if path.is_file():
                    _fsync(path)
                    sizes[path.relative_to(partial).as_posix()] = path.stat().st_size
                else:
                    files.fsync_dir(path)
            if target.exists():  # of the same step, without its marker
                self._remove(target)
            partial.rename(target)
            files.fsync_dir(self.folder)
            whole = msgspec.structs.replace(about, sizes=sizes, path=str(target))
            files.write_bytes(target / MARKER, msgspec.json.format(msgspec.json.encode(whole), indent=2))
        except OSError as error:
            raise CheckpointError(
                f"cannot write {target}: {error.strerror}", "free space, repeat the command"
            ) from error
        return whole

    def stable(self) -> list[Checkpoint]:
        """The whole checkpoints, the oldest first."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                if _NAME.fullmatch(path.name):
                    with contextlib.suppress(OSError, msgspec.MsgspecError):
                        about = msgspec.json.decode((path / MARKER).read_bytes(), type=Checkpoint)
                        found.append(msgspec.structs.replace(about, path=str(path)))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint."""
        return next(reversed(self.stable()), None)

    def best(self) -> Checkpoint | None:
        """The one with the lowest loss on the validation split; None where none was measured."""
        measured = [each for each in self.stable() if each.validation_loss is not None]
        return min(measured, key=lambda each: (each.validation_loss, -each.step), default=None)

    def find(self, which: str | None = None) -> Checkpoint:
        """The checkpoint of a step, ``best``, or the newest.

        Raises:
            CheckpointNotFound: there is no such one, or it is not whole.
        """
        stable = self.stable()
        steps = ", ".join(str(each.step) for each in stable) or "none"
        if which is None or which == "latest":
            found = stable[-1] if stable else None
        elif which == "best":
            found = self.best()
        elif which.isdigit():
            found = next((each for each in stable if each.step == int(which)), None)
        else:
            raise CheckpointNotFound(f"{which!r} names no checkpoint", "a step, best or latest")
        if found is None:
            raise CheckpointNotFound(
                f"{self.folder} has no whole checkpoint {which or 'yet'}", f"whole ones are at the steps: {steps}"
            )
        check_files(found)
        return found

    def prune(self, keep: int) -> list[int]:
        """Remove all but the newest ``keep`` and the best; the steps removed."""
        stable = self.stable()
        best = self.best()
        spared = {each.step for each in stable[-keep:]} | ({best.step} if best is not None else set())
        gone = [each for each in stable if each.step not in spared]
        for each in gone:
            self._remove(each.folder)
        return [each.step for each in gone]

    def sweep(self) -> None:
        """Remove what processes that died have left half written."""
        whole = {each.folder.name for each in self.stable()}
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                leftover = path.name.startswith(".step-") or (_NAME.fullmatch(path.name) and path.name not in whole)
                if path.is_dir() and leftover:
                    self._remove(path)

    def _remove(self, path: Path) -> None:
        """The marker first, so that it never looks whole while it goes."""
        (path / MARKER).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)


def shelf_of(run: RunDir) -> Shelf:
    """The checkpoints of a run."""
    return Shelf(run.checkpoints)


def parse_reference(reference: str) -> tuple[str, str | None]:
    """``RUN`` or ``RUN@WHICH`` as (run, which)."""
    name, at, which = reference.partition("@")
    return name, which if at else None


def check_files(checkpoint: Checkpoint) -> None:
    """Every file is there with the size it was written with.

    Raises:
        CheckpointError: one is not; the message names it.
    """
    for name, size in checkpoint.sizes.items():
        path = checkpoint.folder / name
        try:
            there = path.stat().st_size
        except OSError:
            there = -1
        if there != size:
            raise CheckpointError(
                f"{path} is {'missing' if there < 0 else f'{there} bytes long, not {size}'}",
                "use another checkpoint of the run (`hpc checkpoint ls`), or restore it from a copy",
            )


def refuse_broken_moves(before: dict[str, Any], now: dict[str, Any], *, experts: bool) -> None:
    """Refuse what Megatron-core 0.16.1 is known to load wrongly.

    Raises:
        ConfigError: between these layouts.
    """

    def size(layout: dict[str, Any], name: str) -> Any:
        return layout.get(name, 1)

    if experts and (size(before, "expert") > 1) != (size(now, "expert") > 1):
        raise ConfigError(
            f"the optimizer of experts cannot move from layout.expert={size(before, 'expert')} "
            f"to {size(now, 'expert')}",
            "keep expert parallelism on or off, or start from the exported weights",
        )
    if bool(before.get("distributed_optimizer")) != bool(now.get("distributed_optimizer")):
        raise ConfigError(
            f"a checkpoint with layout.distributed_optimizer={before.get('distributed_optimizer')} cannot be loaded "
            f"with {now.get('distributed_optimizer')}",
            "keep it as it was, or start from the exported weights",
        )


def describe_adapters(lora: LoraConfig) -> dict[str, Any]:
    """What `Checkpoint.adapters` says of adapters, without the model that they stand on."""
    if not lora.enabled:
        return {}
    return {"rank": lora.rank, "alpha": lora.full_alpha, "targets": sorted(lora.targets)}


def refuse_other_adapters(checkpoint: Checkpoint, now: dict[str, Any]) -> None:
    """Refuse a checkpoint of other adapters, or of a whole model for adapters and the reverse.

    Args:
        now: as `Checkpoint.adapters`; without ``base`` where the model is not loaded yet.

    Raises:
        ConfigError: it cannot be loaded with them.
    """
    before = checkpoint.adapters
    for name in ("rank", "alpha", "targets"):
        was, wanted = _shown(before.get(name)), _shown(now.get(name))
        if was != wanted:
            raise ConfigError(
                f"{checkpoint.folder} was made with lora.{name}={was}, not {wanted}",
                "keep lora as it was, or start from the exported weights",
            )
    if "base" in now and before["base"] != now["base"]:
        raise ConfigError(
            f"the adapters in {checkpoint.folder} stand on another model than model.path, or train.precision differs",
            "name the model that they were trained on, as it was then",
        )


def _shown(value: Any) -> str:
    return "none" if value is None else f"[{','.join(value)}]" if isinstance(value, list) else str(value)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
