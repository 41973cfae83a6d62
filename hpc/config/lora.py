"""Configuration of low-rank adapters (LoRA)."""

from __future__ import annotations

from typing import Literal

from hpc.config.base import Config

Target = Literal["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"]
TARGETS: tuple[Target, ...] = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")


class LoraConfig(Config):
    """Train low-rank adapters beside the model's linear layers instead of its weights (Hu et al. 2021)."""

    rank: int = 0
    """Rank of the adapters; 0: none, the weights themselves are trained."""
    alpha: float | None = None
    """An adapter's output is multiplied by alpha / rank; None: alpha is twice the rank."""
    targets: tuple[Target, ...] = TARGETS
    """Megatron-core's names of the layers with adapters: linear_qkv (queries, keys, values), linear_proj (the
    output of attention), linear_fc1 (gate and up), linear_fc2 (down). Models with experts take the first two."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"rank is {self.rank}, it must be 1 or more, or 0 for no adapters")
        if self.rank == 0 and (self.alpha is not None or self.targets != TARGETS):
            name, value = ("targets", list(self.targets)) if self.alpha is None else ("alpha", self.alpha)
            raise ValueError(f"{name} is {value} with rank=0, which trains no adapters; set lora=on, or a rank")
        if self.alpha is not None and self.alpha <= 0:
            raise ValueError(f"alpha is {self.alpha}, it must be positive")
        if not self.targets or len(set(self.targets)) != len(self.targets):
            raise ValueError(f"targets is {list(self.targets)}, it must name one layer or more, each once")

    @property
    def enabled(self) -> bool:
        """Whether there are adapters."""
        return self.rank > 0

    @property
    def full_alpha(self) -> float:
        """`alpha` with its default."""
        return float(2 * self.rank if self.alpha is None else self.alpha)

    @property
    def scale(self) -> float:
        """What an adapter's output is multiplied by."""
        return self.full_alpha / self.rank
