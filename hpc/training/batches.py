"""From rows of examples to the tensors that the model is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from numpy.typing import NDArray

from hpc.config.train import TrainConfig
from hpc.core.errors import ConfigError, DatasetError
from hpc.examples import Dataset, Example
from hpc.training.packing import Intake, Position, Rows, share, take_in

CACHED_TOKENS = 1 << 26
"""Datasets up to so many tokens are kept in memory once read."""


class Batch(msgspec.Struct, frozen=True):
    """One micro batch of ``b`` rows and ``s`` positions on the model's device.

    ``labels`` are the tokens that follow ``tokens`` in their own example, ``loss_mask`` is 1 where the
    loss counts (float). Packed batches have b = 1 and say in ``packed`` where examples begin; padding at
    the end is a segment of its own.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    loss_mask: torch.Tensor
    position_ids: torch.Tensor
    packed: PackedSeqParams | None
    advantages: torch.Tensor | None = None
    """Of each label, where the dataset has them (so for ``sampled``)."""
    sampled: torch.Tensor | None = None
    """The log-probability with which the engine sampled each label; 0 where it did not."""


class Portion(msgspec.Struct, frozen=True):
    """A rank's part of one optimizer step, where the next step begins, and the positions of each example
    of the whole batch."""

    batches: list[Batch]
    after: Position
    lengths: list[int]


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a batch a rank works on.

    ``multiple``: row lengths are multiples of it. ``static``: every row has the full length, as
    pipeline stages expect it of each other. ``cp_rank``/``cp_size``: with context parallelism a rank
    has two stripes of each row, one from its beginning and one from its end.
    """

    dp_rank: int = 0
    dp_size: int = 1
    cp_rank: int = 0
    cp_size: int = 1
    multiple: int = 1
    static: bool = False


class Feed:
    """The batches of one split for one rank.

    Raises:
        DatasetError: the dataset cannot be used; see `hpc.training.packing.take_in`.
        ConfigError: the batch cannot be shared among the ranks.
    """

    def __init__(self, dataset: Dataset, config: TrainConfig, part: Share, *, vocabulary: int) -> None:
        self.dataset = dataset
        self.vocabulary = vocabulary
        self.config = config
        self.part = part
        each = part.dp_size * config.micro_batch
        if config.global_batch % each:
            raise ConfigError(
                f"train.global_batch is {config.global_batch}, no multiple of {part.dp_size} data-parallel ranks x "
                f"train.micro_batch={config.micro_batch}",
                f"set train.global_batch to a multiple of {each}",
            )
        if part.static and config.seq_length % part.multiple:
            raise ConfigError(
                f"train.seq_length is {config.seq_length}, no multiple of {part.multiple}, which this layout needs",
                f"set train.seq_length={config.seq_length // part.multiple * part.multiple or part.multiple}",
            )
        self.intake: Intake = take_in(dataset, config)
        self.rows = Rows(self.intake, room=config.seq_length, seed=config.seed, packing=config.packing)
        self._cache: dict[int, Example] = {}
        self.composition: Counter[str] = Counter()
        """What this rank has read, by kind: examples, tokens, trained tokens, and examples of each task and arm."""

    @property
    def steps(self) -> int:
        """Optimizer steps until the epochs are over."""
        return -(-self.rows.total(self.config.epochs) // self.config.global_batch)

    def batches(self, start: Position) -> Portion:
        """This rank's micro batches of the step that begins at ``start``.

        Raises:
            DatasetError: an example is damaged, or has tokens that the model does not know.
        """
        config, part = self.config, self.part
        rows, after = self.rows.take(start, config.global_batch, epochs=config.epochs)
        micro = share(rows, rank=part.dp_rank, ranks=part.dp_size, micro_batch=config.micro_batch)
        lengths = [int(self.intake.positions[index]) for row in rows for index in row]
        return Portion([self._build(batch) for batch in micro], after, lengths)

    def every_row_once(self) -> Iterator[list[Batch]]:
        """This rank's micro batches of one pass, batch by batch, the same count on every rank."""
        once = self.rows.epoch(0)
        size = self.config.global_batch
        part = self.part
        for start in range(0, len(once), size):
            rows = once[start : start + size]
            rows = rows + [[] for _ in range(-len(rows) % (part.dp_size * self.config.micro_batch))]
            micro = share(rows, rank=part.dp_rank, ranks=part.dp_size, micro_batch=self.config.micro_batch)
            yield [self._build(batch) for batch in micro]

    def _build(self, rows: list[list[int]]) -> Batch:
        examples = [[self._read(index) for index in row] for row in rows]
        length = self.config.seq_length if self.part.static else None
        policy = self.config.method == "grpo"
        if self.config.packing:
            return to_device(packed_row(examples[0], self.part.multiple, length, policy=policy), self.part)
        alone = [row[0] if row else None for row in examples]
        return to_device(padded_rows(alone, self.part.multiple, length, policy=policy), self.part)

    def _read(self, index: int) -> Example:
        example = self._cache.get(index)
        if example is None:
            example = self.dataset[int(self.intake.numbers[index])]
            if example.tokens.max() >= self.vocabulary:
                raise DatasetError(
                    f"example {example.id} has the token {example.tokens.max()}, the model knows {self.vocabulary}",
                    "train the model whose tokenizer the dataset was built with",
                )
            if self.config.method == "grpo":
                _require_policy(example)
            if self.intake.tokens <= CACHED_TOKENS:
                self._cache[index] = example
        end = int(self.intake.positions[index]) + 1
        mask = example.loss_mask[:end]
        self.composition["examples"] += 1
        self.composition["tokens"] += end
        self.composition["trained_tokens"] += int(mask.sum())
        for key in ("task_id", "arm"):
            if key in example.meta:
                self.composition[f"{key}={example.meta[key]}"] += 1
        if self.config.method != "grpo":
            return msgspec.structs.replace(
                example, tokens=example.tokens[:end], loss_mask=mask, advantages=None, logprobs=None
            )
        return msgspec.structs.replace(
            example,
            tokens=example.tokens[:end],
            loss_mask=mask,
            advantages=None if example.advantages is None else example.advantages[:end],
            logprobs=None if example.logprobs is None else example.logprobs[:end],
        )


def _require_policy(example: Example) -> None:
    """Raise unless every trained token has an advantage and the engine's log-probability."""
    trained = example.loss_mask.astype(bool)
    for name in ("advantages", "logprobs"):
        values = getattr(example, name)
        if values is None or not np.isfinite(values[trained]).all():
            raise DatasetError(
                f"example {example.id} has trained tokens without {name}, which GRPO needs",
                "build the dataset from rollouts of our own server, with rewards",
            )


class Arrays(msgspec.Struct, frozen=True):
    """A micro batch before it becomes tensors; shapes [b, s]. ``ends``: where packed segments end."""

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    loss_mask: NDArray[np.float32]
    position_ids: NDArray[np.int64]
    advantages: NDArray[np.float32] | None = None
    sampled: NDArray[np.float32] | None = None
    ends: list[int] | None = None


def packed_row(
    examples: Sequence[Example], multiple: int = 1, length: int | None = None, *, policy: bool = False
) -> Arrays:
    """One row of several examples, each with positions from 0; padded to ``length`` or the next multiple.
    ``policy``: it has advantages and log-probabilities also where no example is in it."""
    counts = [len(example.tokens) - 1 for example in examples]
    used = sum(counts)
    size = length if length is not None else max(-(-used // multiple), 1) * multiple
    ends = np.cumsum(counts).tolist()
    if size > used:
        ends.append(size)
        counts.append(size - used)
    arrays = _zeros(1, size, ends, policy=policy or any(example.advantages is not None for example in examples))
    start = 0
    for example, count in zip(examples, counts, strict=False):
        _put(arrays, 0, start, example)
        start += count
    arrays.position_ids[0] = np.concatenate([np.arange(count) for count in counts])
    return arrays


def padded_rows(
    examples: Sequence[Example | None], multiple: int = 1, length: int | None = None, *, policy: bool = False
) -> Arrays:
    """One example in each row, padded at its end; None: a row of padding alone. ``policy`` as of `packed_row`."""
    used = max((len(example.tokens) - 1 for example in examples if example is not None), default=1)
    size = length if length is not None else -(-used // multiple) * multiple
    policy = policy or any(example is not None and example.advantages is not None for example in examples)
    arrays = _zeros(len(examples), size, None, policy=policy)
    for row, example in enumerate(examples):
        if example is not None:
            _put(arrays, row, 0, example)
    arrays.position_ids[:] = np.arange(size)
    return arrays


def to_device(arrays: Arrays, part: Share, device: torch.device | None = None) -> Batch:
    """The tensors of a rank: with context parallelism its two stripes of every row."""

    def tensor(array: NDArray[Any]) -> torch.Tensor:
        if part.cp_size > 1:
            array = stripes(array, part.cp_rank, part.cp_size)
        return torch.from_numpy(np.ascontiguousarray(array)).to(device or default_device())

    packed = None
    if arrays.ends is not None:
        starts = torch.tensor([0, *arrays.ends], dtype=torch.int32, device=device or default_device())
        longest = int(np.diff([0, *arrays.ends]).max())
        packed = PackedSeqParams(
            qkv_format="thd", cu_seqlens_q=starts, cu_seqlens_kv=starts, max_seqlen_q=longest, max_seqlen_kv=longest
        )
    return Batch(
        tokens=tensor(arrays.tokens),
        labels=tensor(arrays.labels),
        loss_mask=tensor(arrays.loss_mask),
        position_ids=tensor(arrays.position_ids),
        packed=packed,
        advantages=None if arrays.advantages is None else tensor(arrays.advantages),
        sampled=None if arrays.sampled is None else tensor(arrays.sampled),
    )


def stripes(array: NDArray[Any], rank: int, size: int) -> NDArray[Any]:
    """The columns of one context-parallel rank: stripe ``rank`` and stripe ``2 size - 1 - rank`` of 2 size
    equal ones, so that every rank has as much to attend to (Megatron-core's order)."""
    parts = np.split(array, 2 * size, axis=1)
    return np.concatenate([parts[rank], parts[2 * size - 1 - rank]], axis=1)


def default_device() -> torch.device:
    """Where the model is: this rank's GPU, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def _zeros(rows: int, size: int, ends: list[int] | None, *, policy: bool) -> Arrays:
    def whole() -> NDArray[np.int64]:
        return np.zeros((rows, size), np.int64)

    def real() -> NDArray[np.float32]:
        return np.zeros((rows, size), np.float32)

    return Arrays(
        tokens=whole(),
        labels=whole(),
        loss_mask=real(),
        position_ids=whole(),
        advantages=real() if policy else None,
        sampled=real() if policy else None,
        ends=ends,
    )


def _put(arrays: Arrays, row: int, start: int, example: Example) -> None:
    end = start + len(example.tokens) - 1
    arrays.tokens[row, start:end] = example.tokens[:-1]
    arrays.labels[row, start:end] = example.tokens[1:]
    arrays.loss_mask[row, start:end] = example.loss_mask[1:]
    if arrays.advantages is not None and arrays.sampled is not None and example.advantages is not None:
        arrays.advantages[row, start:end] = example.advantages[1:]
        arrays.sampled[row, start:end] = np.nan_to_num(example.logprobs[1:]) if example.logprobs is not None else 0.0
