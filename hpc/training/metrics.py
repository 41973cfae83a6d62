"""The figures of a training: one JSON line a step, TensorBoard beside it, Weights & Biases if asked for."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpc.config.train import MetricsConfig
from hpc.core import files
from hpc.core.errors import HpcError, MissingExtra
from hpc.rundir import RunDir

log = logging.getLogger(__name__)

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "H800": 989.0, "A100": 312.0, "A800": 312.0, "B200": 2250.0, "L40S": 362.0}
"""Dense bf16 peaks of the makers' data sheets, by part of the GPU's name."""


class MetricsLog:
    """Writes the figures of one training; only the first rank has one.

    What an earlier process wrote of steps beyond the one that is resumed is taken back, so that each
    step has one line.

    Raises:
        MissingExtra: Weights & Biases is asked for and not installed.
    """

    def __init__(self, run: RunDir, config: MetricsConfig, *, step: int, settings: dict[str, Any]) -> None:
        self.config = config
        self.path = run.metrics
        self._wandb: Any = _wandb(run, config, settings) if config.wandb != "off" else None
        keep_until(self.path, step)
        self._file = self.path.open("a", encoding="utf-8")
        self._board: Any = _tensorboard(run.tensorboard, step) if config.tensorboard else None

    def write(self, kind: str, step: int, figures: dict[str, Any]) -> None:
        """Append one line; ``kind`` says what it is about: ``step``, ``validation``, ``data``, ``checkpoint``.

        Raises:
            HpcError: the disk is full.
        """
        try:
            self._file.write(json.dumps({"kind": kind, "step": step, **figures}) + "\n")
            self._file.flush()
        except OSError as error:
            raise HpcError(f"cannot write {self.path}: {error.strerror}", "free space, repeat the command") from error
        numbers = {
            f"{kind}/{name}": value
            for name, value in figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_metrics(path: Path, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file; one that is half written is left out."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                record: dict[str, Any] = json.loads(line)
                if line.endswith(b"\n") and kind in (None, record.get("kind")):
                    yield record


def keep_until(path: Path, step: int) -> None:
    """Take back the lines of steps beyond ``step``, and one that is half written."""
    if path.exists():
        kept = [json.dumps(record) + "\n" for record in read_metrics(path) if record["step"] <= step]
        files.write_text(path, "".join(kept))


def utilization(flops: float, seconds: float, devices: int, peak_tflops: float) -> float:
    """The share of the devices' peak that the model's own arithmetic used (MFU; Chowdhery et al. 2022, B)."""
    return flops / (seconds * devices * peak_tflops * 1e12)


def peak_of(device: str) -> float | None:
    """The peak of a GPU by its name, TFLOP/s; None: unknown."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if name in device), None)


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.warning("tensorboard is not installed: its files are not written")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _wandb(run: RunDir, config: MetricsConfig, settings: dict[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise MissingExtra("train.metrics.wandb needs wandb", "pip install wandb, or set it off") from error
    return wandb.init(
        project=config.wandb_project,
        name=run.name,
        id=run.name,
        resume="allow",
        mode=config.wandb,
        dir=str(run.root),
        config=settings,
    )
