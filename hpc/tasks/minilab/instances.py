"""Instances of MiniLab: which value each stage names, and the order of the stages."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from hpc.tasks.minilab.facts import CATEGORIES, KNOBS

Split = Literal["train", "eval"]
EVAL_EVERY = 5
"""One combination in so many belongs to the split "eval"."""


class Stage(msgspec.Struct, frozen=True):
    """One stage: the knob to tune and the value it is tuned for."""

    knob: str
    value: str


class Instance(msgspec.Struct, frozen=True):
    """One assignment: six stages, one for each knob."""

    id: str
    split: Split
    stages: tuple[Stage, ...]


def split_of(values: Sequence[str]) -> Split:
    """The split a combination of six values belongs to, whatever the order of the stages.

    The values' positions in their categories are summed; multiples of `EVAL_EVERY` are "eval".

    Raises:
        KeyError: not one value of each category.
    """
    position = {value: i for members in CATEGORIES.values() for i, value in enumerate(members)}
    return "eval" if sum(position[value] for value in values) % EVAL_EVERY == 0 else "train"


def make_instance(split: Split, seed: int, index: int) -> Instance:
    """Instance ``index`` (from 0, without end) of a split; the same for the same arguments."""
    draw = random.Random(f"minilab-instance:{split}:{seed}:{index}")
    while True:
        values = [draw.choice(members) for members in CATEGORIES.values()]
        if split_of(values) == split:
            break
    stages = [Stage(knob, value) for knob, value in zip(KNOBS, values, strict=True)]
    draw.shuffle(stages)
    return Instance(f"minilab-{split}-{seed}-{index:05d}", split, tuple(stages))


def instances(split: Split, seed: int) -> Iterator[Instance]:
    """All instances of a split, in order, without end."""
    return (make_instance(split, seed, index) for index in itertools.count())
