"""How the ranks of a training share the model and the data."""

from __future__ import annotations

from hpc.config.base import Config


class LayoutConfig(Config):
    """Data parallelism alone: every rank has the whole model."""

    distributed_optimizer: bool = False
    """Shard the optimizer over the data-parallel ranks."""
