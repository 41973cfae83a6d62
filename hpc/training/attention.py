"""Attention by torch's own scaled dot product, for the CPU and for GPUs without TransformerEngine.

Megatron-core's own fallback knows neither packed sequences nor context parallelism.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from torch.nn.functional import scaled_dot_product_attention

from hpc.core.errors import ConfigError


class DotProductAttention(torch.nn.Module):
    """Causal self-attention; the constructor's arguments are those of Megatron-core's core attention.

    Shapes: ``[s, b, heads, d]``, or packed ``[tokens, heads, d]``, where no token sees another segment.
    With context parallelism a rank has two stripes of each sequence (Megatron-core's zig-zag order) and
    gathers all keys and values.
    """

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
        **_: Any,
    ) -> None:
        super().__init__()
        self.config = config
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        self.group = pg_collection.cp if pg_collection is not None else parallel_state.get_context_parallel_group()

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        /,
        *,
        attn_mask_type: Any = None,
        attention_bias: Any = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> torch.Tensor:
        """``[s, b, heads * d]`` or packed ``[tokens, heads * d]``."""
        if packed_seq_params is None:
            return self._whole(query, key, value)
        if self.group.size() > 1:
            raise ConfigError(
                f"packed rows cannot be shared by layout.context={self.group.size()} ranks",
                "set train.packing=false, or layout.context=1",
            )
        return self._packed(query, key, value, packed_seq_params)

    def _whole(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        length, ranks = len(query), self.group.size()
        mask = None
        if ranks > 1:
            key = gather_from_sequence_parallel_region(key.contiguous(), group=self.group)
            value = gather_from_sequence_parallel_region(value.contiguous(), group=self.group)
            mine = _positions(length, ranks, self.group.rank(), query.device)
            theirs = torch.cat([_positions(length, ranks, rank, query.device) for rank in range(ranks)])
            mask = mine[:, None] >= theirs[None, :]
        query, key, value = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        output = self._attend(query, key, value, mask)
        return output.permute(2, 0, 1, 3).reshape(length, output.shape[0], -1)

    def _packed(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: PackedSeqParams
    ) -> torch.Tensor:
        """Segment by segment: the work is the sum of the squares of their lengths, not the square of the sum."""
        query, key, value = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
        bounds = packed.cu_seqlens_q.tolist()
        outputs = [
            self._attend(query[:, :, start:end], key[:, :, start:end], value[:, :, start:end], None)
            for start, end in itertools.pairwise(bounds)
            if end > start
        ]
        output = torch.cat(outputs, 2)
        return output.squeeze(0).transpose(0, 1).reshape(output.shape[2], -1)

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        grouped = key.shape[1] != query.shape[1]
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=self.scale, enable_gqa=grouped
        )


def _positions(length: int, ranks: int, rank: int, device: torch.device) -> torch.Tensor:
    """Places in the sequence of a rank's ``length`` tokens."""
    half = length // 2
    steps = torch.arange(half, device=device)
    return torch.cat([rank * half + steps, (2 * ranks - 1 - rank) * half + steps])
