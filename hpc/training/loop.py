"""The training loop: batches in order, a step, its figures, a checkpoint now and then; stops when told to."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from hpc.config import to_builtins
from hpc.config.train import TrainRunConfig
from hpc.core.errors import HpcError
from hpc.examples import Dataset
from hpc.rundir import RunDir
from hpc.training.batches import Feed, Share, default_device
from hpc.training.checkpoints import Checkpointer, describe
from hpc.training.engine import Engine, StepResult
from hpc.training.guard import Guard
from hpc.training.metrics import MetricsLog, peak_of, utilization
from hpc.training.packing import Position, fingerprint, require_same_data
from hpc.training.policy_gradient import PolicyLoss
from hpc.training.schedule import learning_rate
from hpc.training.shelf import Checkpoint, Shelf, parse_reference, shelf_of

log = logging.getLogger(__name__)

Outcome = Literal["done", "stopped"]


TASKS = 50
"""So many tasks are named in a line of the metrics; the checkpoint has all."""


class Built(NamedTuple):
    """A model as the loop needs it: this rank's chunks with the model's own weights, what rows must be a
    multiple of, the size of its vocabulary, the floating-point operations of a step over examples of
    given lengths, and what `Checkpoint.adapters` says of it."""

    chunks: list[Any]
    multiple: int
    vocabulary: int
    flops: Callable[[list[int]], float]
    adapters: dict[str, Any]


class Trainer:
    """One training, in the process group that is set up already.

    Args:
        stopping: whether this rank was told to save and go; one that was is enough.
        stack: closes what the training has opened.

    Raises:
        HpcError: the dataset, the layout or a checkpoint cannot be used; the message says which.
    """

    def __init__(
        self, run: RunDir, config: TrainRunConfig, built: Built, *, stopping: Callable[[], bool], stack: ExitStack
    ) -> None:
        self.config = config.train
        self.built = built
        self.stopping = stopping
        part = Share(
            dp_rank=parallel_state.get_data_parallel_rank(),
            dp_size=parallel_state.get_data_parallel_world_size(),
            cp_rank=parallel_state.get_context_parallel_rank(),
            cp_size=parallel_state.get_context_parallel_world_size(),
            multiple=built.multiple,
            static=parallel_state.get_pipeline_model_parallel_world_size() > 1,
        )
        self.feed = self._open(self.config.split, part, stack)
        self.validation = self._open(self.config.validation, part, stack) if self.config.validation else None
        self.steps = min(self.config.steps or self.feed.steps, self.feed.steps)
        self.data = fingerprint(self.config, self.feed.dataset)
        self.engine = Engine(built.chunks, self.config, distributed_optimizer=config.layout.distributed_optimizer)
        self.token_loss = PolicyLoss(self.config.policy) if self.config.method == "grpo" else None
        self.guard = Guard(self.config.guard)
        self.step, self.position = 0, Position()
        self.before: Counter[str] = Counter()
        self.losses: dict[str, float] = {}
        experts = built.chunks[0].config.num_moe_experts is not None
        self.layout = to_builtins(config.layout)
        self.checkpointer = Checkpointer(
            shelf_of(run), self.engine, layout=self.layout, experts=experts, adapters=built.adapters
        )
        self._resume()
        self.saved = self.step
        self.metrics: MetricsLog | None = None
        if dist.get_rank() == 0:
            self.metrics = MetricsLog(run, self.config.metrics, step=self.step, settings=to_builtins(config))
            stack.callback(self.metrics.close)
        if self.step == 0:
            rows = self.feed.rows.total(self.config.epochs)
            self._note("data", **self.feed.intake.report(), rows=rows, steps=self.steps)

    def run(self) -> Outcome:
        """Train until the steps are made or the job must go; either way the last step is in a checkpoint.

        Raises:
            HpcError: the guard ends it, or the disk is full.
        """
        while self.step < self.steps:
            self._one_step()
            self.checkpointer.finalize(blocking=False)
            last = self.step == self.steps
            due = last or self.step % self.config.checkpoints.every == 0
            if self.validation is not None and (due or self.step % self.config.validation_every == 0):
                self._validate(self.validation)
            stop = not last and self._told_to_stop()
            if due or stop:
                self._save(asynchronous=self.config.checkpoints.asynchronous and not stop and not last)
            if stop:
                return "stopped"
        self.checkpointer.finalize(blocking=True)
        return "done"

    # ---- parts
    def _one_step(self) -> None:
        started = time.perf_counter()
        feed = self.feed.batches(self.position)
        lr = learning_rate(self.config.optimizer, self.step, self.steps)
        number = self.step + 1

        def judge(loss: float, tokens: int, norm: float) -> Any:
            return self.guard.judge(number, loss=loss, tokens=tokens, norm=norm)

        try:
            result = self.engine.step(feed.batches, lr, judge, self.token_loss)
        except HpcError:  # the guard's, on every rank alike: what is being saved shall not be lost
            self.checkpointer.finalize(blocking=True)
            raise
        epoch = self.position.epoch
        self.step, self.position = number, feed.after
        self.losses["train"] = result.loss
        if number % self.config.metrics.every == 0 or number == self.steps:
            self._report(result, lr, epoch, feed.lengths, time.perf_counter() - started)

    def _report(self, result: StepResult, lr: float, epoch: int, lengths: list[int], seconds: float) -> None:
        positions = sum(lengths)
        figures: dict[str, Any] = {
            "loss": result.loss,
            "lr": lr,
            "grad_norm": result.grad_norm,
            **result.figures,
            "epoch": epoch,
            "tokens": positions,
            "trained_tokens": result.tokens,
            "trained_share": round(result.tokens / max(positions, 1), 4),
            "row_fill": round(positions / (self.config.global_batch * self.config.seq_length), 4),
            "seconds": round(seconds, 4),
            "tokens_per_second": round(positions / seconds, 1),
            "skipped": sum(self.guard.skipped.values()),
            "at": round(time.time(), 3),
        }
        if result.verdict != "ok":
            figures["verdict"] = result.verdict
            log.warning("step %d left the weights as they were: %s", self.step, result.verdict)
        if torch.cuda.is_available():
            peak = self.config.metrics.peak_tflops or peak_of(torch.cuda.get_device_name())
            if peak is not None:
                flops = self.built.flops(lengths)
                figures["mfu"] = round(utilization(flops, seconds, dist.get_world_size(), peak), 4)
        self._note("step", **figures)
        if self.metrics is not None:
            log.info(
                "step %d/%d  loss %.4f  lr %.3g  norm %.3g  %.0f tokens/s",
                self.step, self.steps, result.loss, lr, result.grad_norm, positions / seconds,
            )  # fmt: skip

    def _validate(self, feed: Feed) -> None:
        total, tokens = 0.0, 0
        for batches in feed.every_row_once():
            loss, count = self.engine.evaluate(batches)
            total, tokens = total + loss * count, tokens + count
        self.losses["validation"] = total / max(tokens, 1)
        self._note("validation", loss=self.losses["validation"], tokens=tokens)

    def _save(self, *, asynchronous: bool) -> None:
        if self.saved == self.step:
            return
        about = describe(
            self.step,
            layout=self.layout,
            data=self.data,
            adapters=self.built.adapters,
            loss=self.losses.get("train"),
            validation_loss=self.losses.pop("validation", None),
            state={
                "epoch": self.position.epoch,
                "row": self.position.row,
                "guard": self.guard.state(),
                "seen": dict(self._seen()),
            },
        )
        started = time.perf_counter()

        def done(checkpoint: Checkpoint) -> None:
            removed = self.checkpointer.shelf.prune(self.config.checkpoints.keep)
            seconds = round(time.perf_counter() - started, 3)
            self._note("checkpoint", at_step=checkpoint.step, bytes=checkpoint.bytes, seconds=seconds, removed=removed)
            log.info("checkpoint at step %d is whole (%.1f s)", checkpoint.step, seconds)

        self.checkpointer.save(about, asynchronous=asynchronous, done=done)
        self.saved = self.step
        self._note("composition", **shortened(about.state["seen"]))

    def _seen(self) -> Counter[str]:
        """What all ranks together have read since the beginning; ranks that share a share count once."""
        parts: list[Any] = [None] * parallel_state.get_data_parallel_world_size()
        dist.all_gather_object(parts, self.feed.composition, group=parallel_state.get_data_parallel_group())
        return sum(parts, Counter(self.before))

    def _told_to_stop(self) -> bool:
        told = self.stopping()
        if dist.get_world_size() == 1:
            return told
        flag = torch.tensor([int(told)], device=default_device())
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def _open(self, split: str, part: Share, stack: ExitStack) -> Feed:
        dataset = stack.enter_context(Dataset(Path(self.config.dataset), split=split))
        return Feed(dataset, self.config, part, vocabulary=self.built.vocabulary)

    def _note(self, kind: str, **figures: Any) -> None:
        if self.metrics is not None:
            self.metrics.write(kind, self.step, figures)

    def _resume(self) -> None:
        box: list[tuple[Checkpoint | None, bool]] = [self._choose() if dist.get_rank() == 0 else (None, False)]
        dist.broadcast_object_list(box, src=0)  # one decides: on a network file system others may see less
        checkpoint, goes_on = box[0]
        if checkpoint is None:
            return
        if not goes_on:
            self.checkpointer.load(checkpoint)
            log.info("weights and optimizer from %s", checkpoint.folder)
            return
        require_same_data(self.data, checkpoint.data, checkpoint.folder)
        self.checkpointer.load(checkpoint)
        state = checkpoint.state
        self.step, self.position = checkpoint.step, Position(state["epoch"], state["row"])
        self.guard.restore(state["guard"])
        self.before = Counter(state["seen"])
        log.info("going on from %s", checkpoint.folder)

    def _choose(self) -> tuple[Checkpoint | None, bool]:
        """The checkpoint to load, and whether its place in the data holds here."""
        own = self.checkpointer.shelf.latest()
        reference = self.config.start_from or self.config.warm_start
        if own is not None or reference is None:
            return own, True
        name, which = parse_reference(reference)
        return Shelf(RunDir.open(Path(name)).checkpoints).find(which), self.config.start_from is not None


def shortened(seen: dict[str, int]) -> dict[str, int]:
    """Counts without those of tasks beyond the commonest, and how many tasks there are."""
    tasks = sorted((key for key in seen if key.startswith("task_id=")), key=lambda key: (-seen[key], key))
    left_out = set(tasks[TASKS:])
    return {**{key: count for key, count in seen.items() if key not in left_out}, "tasks": len(tasks)}
