"""Which examples make a row, in which order: decided by lengths, seed and epoch alone.

Rows do not depend on how many ranks there are, so a position in them means the same in every layout.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hpc.config.train import TrainConfig
from hpc.core import files
from hpc.core.errors import ConfigError, DatasetError
from hpc.examples import Dataset

WINDOW = 1024
"""Examples that are packed together: enough to fill rows well, few enough to stay in random order."""


class Position(msgspec.Struct, frozen=True):
    """A place in the stream of rows: the next row to be trained."""

    epoch: int = 0
    row: int = 0


class Intake(msgspec.Struct, frozen=True, kw_only=True):
    """What of a dataset is trained on, and what is left out and why.

    ``numbers`` are the examples, ``positions`` how many of their tokens the model sees as input: all
    but the last one, which is only predicted. Counts of tokens are of the dataset's.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.int64]
    examples: int
    tokens: int
    dropped: int = 0
    truncated: int = 0
    lost_tokens: int = 0
    lost_trained: int = 0

    def report(self) -> dict[str, int]:
        """Counts for people and files."""
        return {
            "examples": self.examples,
            "tokens": self.tokens,
            "used_examples": len(self.numbers),
            "dropped_examples": self.dropped,
            "truncated_examples": self.truncated,
            "lost_tokens": self.lost_tokens,
            "lost_trained_tokens": self.lost_trained,
        }


def take_in(dataset: Dataset, config: TrainConfig) -> Intake:
    """Apply the policy for overlong examples.

    An example of n tokens needs n - 1 positions. One of a single token teaches nothing and is dropped.

    Raises:
        DatasetError: an example is too long and the policy is ``error``, or nothing is left.
    """
    positions = dataset.lengths - 1
    overlong = np.flatnonzero(positions > config.seq_length)
    if len(overlong) and config.overlong == "error":
        longest = int(overlong[np.argmax(positions[overlong])])
        raise DatasetError(
            f"{len(overlong)} of {len(dataset)} examples of {dataset.folder} are longer than train.seq_length="
            f"{config.seq_length}; the longest, {dataset[longest].id}, needs {positions[longest]}",
            "raise train.seq_length, or set train.overlong=truncate or drop",
        )
    kept = positions.copy()
    truncated = lost_trained = 0
    for number in overlong:
        mask = dataset[int(number)].loss_mask
        end = _last_fitting_end(mask, config.seq_length + 1) if config.overlong == "truncate" else 0
        kept[number] = max(end - 1, 0)
        truncated += end > 0
        lost_trained += int(mask[end:].sum())
    numbers = np.flatnonzero(kept > 0)
    if not len(numbers):
        raise DatasetError(
            f"nothing of {dataset.folder} can be trained on with train.seq_length={config.seq_length}",
            "raise train.seq_length, or build a dataset of shorter examples",
        )
    return Intake(
        numbers=numbers,
        positions=kept[numbers],
        examples=len(dataset),
        tokens=int(dataset.lengths.sum()),
        dropped=len(dataset) - len(numbers),
        truncated=truncated,
        lost_tokens=int((dataset.lengths - np.where(kept > 0, kept + 1, 0)).sum()),
        lost_trained=lost_trained,
    )


def _last_fitting_end(mask: NDArray[np.uint8], room: int) -> int:
    """Tokens up to the end of the last whole trained span within the first ``room`` tokens; 0: there is none.

    A span is an action with its end-of-turn token; cut through its middle it would teach never to end.
    """
    ends = np.flatnonzero(np.diff(mask.astype(np.int8), append=0) == -1) + 1
    fitting = ends[ends <= room]
    return int(fitting[-1]) if len(fitting) else 0


class Rows:
    """The rows of every epoch.

    Args:
        intake: the examples.
        room: positions of a row.
        seed: decides the order.
        packing: several examples in a row; else each is a row.
    """

    def __init__(self, intake: Intake, *, room: int, seed: int, packing: bool) -> None:
        self.intake = intake
        self.room = room
        self.seed = seed
        self.packing = packing
        self._epoch = functools.lru_cache(maxsize=2)(self._pack)

    def epoch(self, number: int) -> list[list[int]]:
        """Rows of one epoch: indices into the intake. Every example is in exactly one row."""
        return self._epoch(number)

    def _pack(self, number: int) -> list[list[int]]:
        generator = np.random.default_rng([self.seed, number])
        order = generator.permutation(len(self.intake.numbers)).tolist()
        if not self.packing:
            return [[index] for index in order]
        rows: list[list[int]] = []
        for start in range(0, len(order), WINDOW):
            packed = best_fit(order[start : start + WINDOW], self.intake.positions, self.room)
            rows += [packed[index] for index in generator.permutation(len(packed)).tolist()]
        return rows

    def total(self, epochs: int) -> int:
        """Rows of so many epochs."""
        return sum(len(self.epoch(number)) for number in range(epochs))

    def take(self, start: Position, count: int, *, epochs: int) -> tuple[list[list[int]], Position]:
        """The next rows, over the border of epochs, and where the ones after them begin.

        Behind the last epoch rows are empty: a last batch that is not full trains nothing twice.
        """
        taken: list[list[int]] = []
        epoch, row = start.epoch, start.row
        while len(taken) < count and epoch < epochs:
            rows = self.epoch(epoch)
            part = rows[row : row + count - len(taken)]
            taken += part
            row += len(part)
            if row >= len(rows):
                epoch, row = epoch + 1, 0
        return taken + [[] for _ in range(count - len(taken))], Position(epoch, row)


def best_fit(order: list[int], positions: NDArray[np.int64], room: int) -> list[list[int]]:
    """Pack examples into rows of ``room`` positions: the longest first, each into the fullest row that has
    room for it (best fit decreasing: never more than 11/9 of the fewest rows possible, plus one).

    Raises:
        ValueError: an example is longer than a row.
    """
    rows: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (free positions, row), sorted
    for index in sorted(order, key=lambda index: -int(positions[index])):
        length = int(positions[index])
        if length > room:
            raise ValueError(f"an example of {length} positions does not fit into a row of {room}")
        at = bisect.bisect_left(space, (length, -1))
        if at == len(space):
            rows.append([index])
            free, row = room - length, len(rows) - 1
        else:
            free, row = space.pop(at)
            rows[row].append(index)
            free -= length
        bisect.insort(space, (free, row))
    return rows


def share(rows: list[list[int]], *, rank: int, ranks: int, micro_batch: int) -> Iterator[list[list[int]]]:
    """The micro batches of one data-parallel rank; together the ranks have every row of the batch once.

    Raises:
        ValueError: the batch cannot be divided so.
    """
    if len(rows) % (ranks * micro_batch):
        raise ValueError(f"{len(rows)} rows cannot be shared by {ranks} ranks in micro batches of {micro_batch}")
    for start in range(rank * micro_batch, len(rows), ranks * micro_batch):
        yield rows[start : start + micro_batch]


def require_tokenizer(dataset: Dataset, folder: Path) -> None:
    """Refuse a dataset that was built with another tokenizer than the one in ``folder``, as far as its
    manifest names it: ``about.tokenizer.sha256`` of tokenizer.json.

    Raises:
        DatasetError: another tokenizer, whose token ids mean something else.
    """
    about = dataset.manifest.about.get("tokenizer")
    wanted = about.get("sha256") if isinstance(about, dict) else None
    path = folder / "tokenizer.json"
    if wanted is None or not path.is_file():
        return
    if files.sha256(path) != wanted:
        raise DatasetError(
            f"{dataset.folder} was built with another tokenizer than {path}",
            "train the model it was built for, or build the dataset again with this model's tokenizer",
        )


def fingerprint(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """All that a position in the data depends on; the number of ranks is not among it."""
    names = ("method", "split", "seed", "seq_length", "packing", "overlong", "epochs", "global_batch")
    return {"content": dataset.manifest.content, **{name: getattr(config, name) for name in names}}


def require_same_data(now: dict[str, Any], before: dict[str, Any], folder: Path) -> None:
    """Refuse a checkpoint in ``folder`` whose position is one in other rows.

    Raises:
        ConfigError: what differs.
    """
    differing = sorted(key for key in now if now[key] != before.get(key))
    if differing:
        raise ConfigError(
            f"{folder} was trained on other data or rows ({', '.join(differing)} differ): "
            "its position means nothing here",
            "keep them as they were, or start from its exported weights: hpc checkpoint export, then model.path",
        )
