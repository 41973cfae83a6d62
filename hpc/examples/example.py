"""One training row."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hpc.core.errors import DatasetError


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A token sequence and what of it teaches.

    All arrays have the shape ``[tokens]``. ``loss_mask[i]`` is 1 where ``tokens[i]`` is a target, that is
    predicted from ``tokens[:i]``; the first token never is. ``logprobs`` are the natural logarithms of
    the probabilities with which the engine sampled the tokens, NaN for tokens it did not sample;
    ``advantages`` are those of policy-gradient training. Either is None where there is none.
    ``meta`` says where the example comes from (JSON values): at least ``episode_id`` and ``task_id``.
    """

    id: str
    tokens: NDArray[np.int32]
    loss_mask: NDArray[np.uint8]
    logprobs: NDArray[np.float32] | None = None
    advantages: NDArray[np.float32] | None = None
    meta: dict[str, Any] = {}

    @property
    def trained(self) -> int:
        """How many tokens are targets."""
        return int(self.loss_mask.sum())

    def check(self) -> None:
        """Raise unless the arrays fit each other.

        Raises:
            DatasetError: they do not; the message names the example and what is wrong.
        """
        length = len(self.tokens)
        for name in ("loss_mask", "logprobs", "advantages"):
            array = getattr(self, name)
            if array is not None and array.shape != (length,):
                raise DatasetError(
                    f"example {self.id}: {name} has shape {array.shape}, not ({length},)", "build the dataset again"
                )
        if length == 0:
            raise DatasetError(f"example {self.id} is empty", "leave it out")
        if self.tokens.min() < 0:
            raise DatasetError(f"example {self.id} has a negative token id", "build the dataset again")
        if self.loss_mask.max() > 1:
            raise DatasetError(f"example {self.id}: loss_mask holds other values than 0 and 1", "build it again")
        if self.loss_mask[0]:
            raise DatasetError(f"example {self.id} trains its first token, which nothing predicts", "mask it")
