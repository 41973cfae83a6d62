"""Muon: the momentum of a matrix made orthogonal before it is applied; AdamW for everything else.

Sources: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025, "Muon is
scalable for LLM training" (arXiv 2502.16982), whose scaling makes AdamW's learning rates and decay fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
MOMENTUM = 0.95
RMS_OF_ADAMW = 0.2
"""Root mean square of an update by AdamW, which Muon's are scaled to."""
ELSEWHERE = ("word_embeddings", "position_embeddings", "output_layer", "router")
"""Matrices that are tables or choices, not maps between hidden states: AdamW moves these."""


def use_muon(optimizer: Any, chunks: Sequence[Any]) -> None:
    """Let Megatron-core's optimizer move the hidden layers' matrices by Muon. Its groups, states and checkpoints stay
    as they are: the momentum is where AdamW has its first moment, the second one stays zero.

    Args:
        optimizer: FP32Optimizer or Float16OptimizerWithFloat16Params, whose matrices are whole on this rank.
        chunks: the bare model chunks, for the names of their parameters.
    """
    matrices = set()
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            if parameter.ndim == 2 and not any(part in name for part in ELSEWHERE):
                matrices.add(id(getattr(parameter, "main_param", parameter)))  # the copy in fp32 that is stepped
    for each in getattr(optimizer, "chained_optimizers", [optimizer]):  # experts may have one of their own
        each.optimizer = Muon(each.optimizer.param_groups, lambda parameter: id(parameter) in matrices)


class Muon(torch.optim.AdamW):
    """AdamW but for the parameters [rows, columns] that ``is_matrix`` picks."""

    def __init__(self, groups: list[dict[str, Any]], is_matrix: Callable[[torch.Tensor], bool]) -> None:
        super().__init__(groups)
        self._is_matrix = is_matrix

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of all parameters that have a gradient."""
        held: list[tuple[dict[str, Any], torch.Tensor, torch.Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and self._is_matrix(parameter):
                    held.append((group, parameter, parameter.grad))
                    parameter.grad = None
        loss = super().step(closure)
        for group, parameter, gradient in held:
            self._move(group, parameter, gradient)
            parameter.grad = gradient
        return loss

    def _move(self, group: dict[str, Any], parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        state = self.state[parameter]
        if not state or "step" not in state:  # as a checkpoint that is about to be loaded makes it
            state.setdefault("exp_avg", torch.zeros_like(parameter))
            state.setdefault("exp_avg_sq", torch.zeros_like(parameter))
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["step"] += 1
        momentum = state["exp_avg"].mul_(MOMENTUM).add_(gradient)
        update = orthogonal(gradient + MOMENTUM * momentum)  # Nesterov's
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * RMS_OF_ADAMW * max(parameter.shape) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Nearly U V^T of the matrix [rows, columns] = U S V^T, by a few Newton-Schulz steps (singular values end
    between 0.7 and 1.2)."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    result: torch.Tensor = x.mT if matrix.shape[0] > matrix.shape[1] else x
    return result
