"""Judges each step before the weights change: is its loss a number, is its gradient of the usual size?"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import Any, Literal

from hpc.config.train import GuardConfig
from hpc.core.errors import HpcError

Verdict = Literal["ok", "empty", "nan", "spike"]
"""ok: apply it; empty: no token of the batch is trained; nan: the loss or the gradient is no finite
number; spike: the gradient is far beyond the usual. All but ok leave the weights as they are."""


class Guard:
    """Remembers what was usual. Every rank gives it the same figures and gets the same verdicts."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.norms: list[float] = []
        self.in_a_row = 0
        self.skipped: Counter[str] = Counter()

    def judge(self, step: int, *, loss: float, tokens: int, norm: float) -> Verdict:
        """What to do with a step.

        Raises:
            HpcError: the policy is to stop, or too many steps in a row were skipped.
        """
        verdict = self._verdict(loss, tokens, norm)
        if verdict == "ok":
            self.in_a_row = 0
            self.norms = [*self.norms, norm][-self.config.window :]
            return verdict
        self.skipped[verdict] += 1
        if verdict == "empty":
            return verdict
        self.in_a_row += 1
        what = f"step {step}: loss {loss:g}, norm of the gradient {norm:g} ({verdict})"
        if self.config.policy == "stop":
            raise HpcError(f"training stopped at {what}", "look at its batch, or set train.guard.policy=skip")
        if self.in_a_row >= self.config.max_skips:
            raise HpcError(
                f"training stopped at {what}, the {self.in_a_row}th such step in a row",
                "lower train.optimizer.lr, and go on from an earlier checkpoint with train.start_from",
            )
        return verdict

    def _verdict(self, loss: float, tokens: int, norm: float) -> Verdict:
        if tokens == 0:
            return "empty"
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return "nan"
        factor = self.config.spike_factor
        if factor is not None and len(self.norms) >= self.config.window:
            return "spike" if norm > factor * statistics.median(self.norms) else "ok"
        return "ok"

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"norms": self.norms, "in_a_row": self.in_a_row, "skipped": dict(self.skipped)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on as the one whose `state` this is."""
        self.norms = [float(norm) for norm in state["norms"]]
        self.in_a_row = int(state["in_a_row"])
        self.skipped = Counter(state["skipped"])
