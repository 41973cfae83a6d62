"""The lessons of the tiny policy as datasets for `hpc train sft`: bare words, then drills, then whole episodes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from hpc.core import files
from hpc.examples import DatasetWriter
from hpc.examples import Example as Row
from tiny_policy.drills import drill, pairs, permutations, search
from tiny_policy.teacher import demonstrate
from tiny_policy.tokens import OPTION_WEIGHT, Encoder, Example

Draw = Callable[[random.Random, Encoder], Example]


def _drilled(make: Callable[[random.Random], Any]) -> Draw:
    return lambda rng, encode: encode.example(make(rng), 0.0)


LESSONS: dict[str, list[tuple[float, Draw]]] = {
    "words": [(0.5, pairs), (0.5, permutations)],
    "drills": [(0.57, _drilled(drill)), (0.43, _drilled(search))],
    "episodes": [(0.5, _drilled(demonstrate)), (0.25, _drilled(drill)), (0.25, _drilled(search))],
}
"""Each lesson's kinds of examples, with their shares of its examples."""


def write_lesson(
    name: str, folder: Path, tokenizer: PreTrainedTokenizerFast, model: Path, *, tokens: int, seed: int
) -> None:
    """Write a lesson of so many tokens. The same seed gives the same examples.

    Args:
        model: its tokenizer.json is named in the manifest, so that no other model is trained on it.
    """
    encode = Encoder(tokenizer)
    rng = random.Random(f"tiny-policy:{name}:{seed}")
    about = {"arm": f"tiny-policy {name}", "tokenizer": {"sha256": files.sha256(model / "tokenizer.json")}}
    with DatasetWriter(folder, about=about) as writer:
        written = 0
        for number, example in enumerate(_drawn(LESSONS[name], rng, encode)):
            mask = taught_at(example, rng)
            row = Row(id=f"{name}-{number}", tokens=np.array(example.ids, np.int32), loss_mask=mask)
            writer.add(row)
            written += len(example.ids)
            if written >= tokens:
                return


def _drawn(kinds: list[tuple[float, Draw]], rng: random.Random, encode: Encoder) -> Iterator[Example]:
    shares = [share for share, _ in kinds]
    while True:
        yield rng.choices([draw for _, draw in kinds], shares)[0](rng, encode)


def taught_at(example: Example, rng: random.Random) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Where the loss is. What takes thought, the options, weighs `OPTION_WEIGHT` times the rest: so of the turns
    of an example with options only one in so many is taught whole."""
    weights = np.array(example.weights)
    mask = (weights > 0).astype(np.uint8)
    if (weights >= OPTION_WEIGHT).any():
        edges = np.diff(mask.astype(np.int8), prepend=0, append=0)
        starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        for start, end in zip(starts, ends, strict=True):
            if rng.random() > 1 / OPTION_WEIGHT:
                mask[start:end] &= weights[start:end] >= OPTION_WEIGHT
    return mask
