"""One optimizer step over the model chunks of this rank: gradients over all trained tokens of the batch,
judged before they are applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer, get_standard_config_overrides
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.module import Float16Module

from hpc.config.train import TrainConfig
from hpc.training.batches import Batch, default_device
from hpc.training.guard import Verdict
from hpc.training.muon import use_muon

Judge = Callable[[float, int, float], Verdict]
"""(mean loss, trained tokens, norm of the gradient) -> what to do with the step."""


class TokenLoss(Protocol):
    """The loss of a method other than SFT, from the logits [b, s, vocabulary / tensor ranks]."""

    names: tuple[str, ...]
    """Of the figures that it gives beside the loss."""

    def __call__(self, logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each token, [b, s], and each figure as a sum over the batch's trained tokens."""


class StepResult(NamedTuple):
    """Of the whole batch, the same on every rank. ``loss`` is the mean over its trained tokens."""

    loss: float
    tokens: int
    grad_norm: float
    verdict: Verdict
    figures: dict[str, float]
    """Means over the trained tokens of what the method gives beside the loss."""


class Engine:
    """Wraps the chunks for data parallelism and steps them.

    Args:
        chunks: this rank's model chunks (more than one with interleaved pipeline stages).
        config: precision, optimizer and micro batch.
        distributed_optimizer: shard the optimizer over the data-parallel ranks.
    """

    def __init__(self, chunks: Sequence[Any], config: TrainConfig, *, distributed_optimizer: bool) -> None:
        self.config = config
        self.modules = list(chunks)
        """The bare chunks, whose weights checkpoints and exports hold."""
        half = config.precision == "bf16"
        model_config = chunks[0].config
        ddp = DistributedDataParallelConfig(
            grad_reduce_in_fp32=True, overlap_grad_reduce=False, use_distributed_optimizer=distributed_optimizer
        )
        self.chunks = [
            DistributedDataParallel(model_config, ddp, Float16Module(model_config, chunk) if half else chunk)
            for chunk in chunks
        ]
        wanted = config.optimizer
        settings = MegatronOptimizerConfig(
            optimizer="adam",
            lr=wanted.lr,
            min_lr=wanted.min_lr,
            weight_decay=wanted.weight_decay,
            adam_beta1=wanted.beta1,
            adam_beta2=wanted.beta2,
            adam_eps=wanted.eps,
            clip_grad=wanted.clip_grad,
            bf16=half,
            fp16=False,
            params_dtype=torch.bfloat16 if half else torch.float32,
            use_distributed_optimizer=distributed_optimizer,
        )
        self.optimizer = get_megatron_optimizer(settings, self.chunks, get_standard_config_overrides(settings))
        for group in self.optimizer.param_groups:
            if "fused" in group:  # torch's own AdamW: one pass over each tensor, 5 % of a step on the CPU
                group.update(fused=True, foreach=False)
        if wanted.kind == "muon":
            use_muon(self.optimizer, self.modules)
        for chunk in chunks:
            chunk.config.finalize_model_grads_func = finalize_model_grads
            chunk.config.grad_scale_func = self.optimizer.scale_loss

    def step(
        self, batches: Sequence[Batch], lr: float, judge: Judge, token_loss: TokenLoss | None = None
    ) -> StepResult:
        """Forward, backward, and the weights' update if the judge finds nothing against it.

        Args:
            batches: this rank's micro batches, as many on every rank.
            token_loss: of a method other than SFT; without it the model is given labels and gives losses.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_mult", 1.0)
        for chunk in self.chunks:
            chunk.train()
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        loss, tokens, figures = self._run(self.chunks, batches, forward_only=False, token_loss=token_loss)
        with torch.no_grad():
            self.optimizer.prepare_grads()
            norm = float(self.optimizer.get_grad_norm())
            verdict = judge(loss, tokens, norm)
            if verdict == "ok":
                self._clip(norm)
                self.optimizer.step_with_ready_grads()
        return StepResult(loss, tokens, norm, verdict, figures)

    def evaluate(self, batches: Sequence[Batch]) -> tuple[float, int]:
        """Mean loss and trained tokens of one batch, without gradients."""
        for chunk in self.chunks:
            chunk.eval()
        with torch.no_grad():
            loss, tokens, _ = self._run(self.chunks, batches, forward_only=True, token_loss=None)
        return loss, tokens

    def _run(
        self, chunks: list[Any], batches: Sequence[Batch], *, forward_only: bool, token_loss: TokenLoss | None
    ) -> tuple[float, int, dict[str, float]]:
        iterators = [iter(batches) for _ in chunks]
        losses = get_forward_backward_func()(
            forward_step_func=partial(_forward, token_loss=token_loss),
            data_iterator=iterators if len(chunks) > 1 else iterators[0],
            model=chunks if len(chunks) > 1 else chunks[0],
            num_microbatches=len(batches),
            seq_length=batches[0].tokens.shape[1] * parallel_state.get_context_parallel_world_size(),
            micro_batch_size=batches[0].tokens.shape[0],
            forward_only=forward_only,
        )
        names = token_loss.names if token_loss is not None else ()
        total = torch.zeros(2 + len(names), dtype=torch.float64, device=default_device())
        for sums in losses:  # on the last pipeline stage; elsewhere there are none
            total += sums.to(total)
        dist.all_reduce(total, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        if parallel_state.get_pipeline_model_parallel_world_size() > 1:
            dist.broadcast(
                total,
                src=parallel_state.get_pipeline_model_parallel_last_rank(),
                group=parallel_state.get_pipeline_model_parallel_group(),
            )
        loss, tokens, *sums = total.tolist()
        count = max(tokens, 1.0)
        return loss / count, int(tokens), {name: value / count for name, value in zip(names, sums, strict=True)}

    def _clip(self, norm: float) -> None:
        limit = self.config.optimizer.clip_grad
        if limit <= 0:
            return
        for optimizer in getattr(self.optimizer, "chained_optimizers", [self.optimizer]):
            if parameters := optimizer.get_parameters():
                clip_grad_by_total_norm_fp32(parameters, max_norm=limit, total_norm=norm)


def _forward(
    batches: Iterator[Batch], chunk: Any, *, token_loss: TokenLoss | None
) -> tuple[torch.Tensor, Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
    """What Megatron-core's schedules ask for: a micro batch's output, and the function that makes of it
    (sum of losses, trained tokens, both for the record)."""
    batch = next(batches)
    output = chunk(
        batch.tokens,
        batch.position_ids,
        None,
        labels=batch.labels if token_loss is None else None,
        packed_seq_params=batch.packed,
    )

    def reduce(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if token_loss is None:
            losses, more = output.float(), output.new_zeros(0)
        else:
            losses, more = token_loss(output, batch)
        total, count = (losses * batch.loss_mask).sum(), batch.loss_mask.sum()
        return total, count.to(torch.int), torch.cat([torch.stack([total.detach(), count]), more.detach()])

    return output, reduce
