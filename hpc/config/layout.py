"""How the ranks of a training share the model and the data."""

from __future__ import annotations

from hpc.config.base import Config


class LayoutConfig(Config):
    """The parallel layout, in Megatron-core's terms. What is left of the ranks is data parallelism."""

    tensor: int = 1
    """Ranks that share each matrix (TP)."""
    sequence: bool = False
    """Share activations outside the matrices along the sequence, too (SP); needs tensor above 1."""
    pipeline: int = 1
    """Stages of layers (PP)."""
    virtual_pipeline: int = 1
    """Chunks of layers on each stage, interleaved (VPP); needs pipeline above 1."""
    context: int = 1
    """Ranks that share each sequence (CP)."""
    expert: int = 1
    """Ranks that share the experts (EP)."""
    expert_tensor: int | None = None
    """Ranks that share each expert's matrices (ETP); None: as `tensor`, or 1 with expert above 1."""
    distributed_optimizer: bool = False
    """Shard the optimizer over the data-parallel ranks; needs a GPU, where checkpoints are to be resumed."""

    def __post_init__(self) -> None:
        for name in ("tensor", "pipeline", "virtual_pipeline", "context", "expert", "expert_tensor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, it must be 1 or more")
        if self.sequence and self.tensor == 1:
            raise ValueError("sequence is true with tensor=1, there is nothing to share; set sequence=false")
        if self.virtual_pipeline > 1 and self.pipeline == 1:
            raise ValueError(f"virtual_pipeline is {self.virtual_pipeline}, it needs pipeline=2 or more")

    @property
    def model_ranks(self) -> int:
        """Ranks that hold one copy of the dense part of the model and one sequence."""
        return self.tensor * self.pipeline * self.context

    @property
    def experts_tensor(self) -> int:
        """`expert_tensor` with its default."""
        if self.expert_tensor is not None:
            return self.expert_tensor
        return self.tensor if self.expert == 1 else 1

    @property
    def row_multiple(self) -> int:
        """Rows of tokens must have a length that is a multiple of this."""
        return (self.tensor if self.sequence else 1) * (2 * self.context if self.context > 1 else 1)
