"""Proving a dataset: that exactly the agent's whole answers are trained, and nothing else.

A trained span must begin right behind the ids with which the template begins an answer, and end with the
id that ends a turn, with none inside. Whatever a mask has wrong (shifted, an end left out, tool output,
guidance or a prompt trained, turns run together, an answer cut) breaks one of these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc.core.errors import DatasetError
from hpc.datasets.template import Template
from hpc.examples import MANIFEST, Dataset, Example, Manifest
from hpc.trajectories.turns import real_user

MAX_FAULTS = 100
"""So many are listed; the rest is counted."""


class Fault(NamedTuple):
    """Something that must not be: of an example, or of the whole dataset (empty ``example``)."""

    kind: str
    example: str
    what: str


class Proof(NamedTuple):
    """What was looked at, and every fault. ``faults`` is cut at `MAX_FAULTS`; ``total`` is not."""

    examples: int
    spans: int
    trained_tokens: int
    faults: list[Fault]
    total: int


def trained_spans(mask: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Runs of ones: (first, behind the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask, [0])).astype(np.int8)))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def verify(folder: Path, template: Template, *, on_example: Callable[[], None] = lambda: None) -> Proof:
    """Look at every example of a dataset.

    Raises:
        DatasetError: there is no dataset, or none that can be read at all.
    """
    manifest = Manifest.read(folder / MANIFEST)
    faults: list[Fault] = []
    count = spans = trained = examples = 0
    for fault in _whole(folder, manifest, template):
        count += 1
        faults.append(fault)
    tasks: dict[str, str] = {}
    seen: dict[bytes, str] = {}
    for split in dict.fromkeys(entry.split for entry in manifest.shards):
        try:
            with Dataset(folder, split=split) as dataset:
                for example in dataset:
                    examples += 1
                    trained += example.trained
                    spans += len(trained_spans(example.loss_mask))
                    for fault in _faults(example, split, manifest, template, tasks, seen):
                        count += 1
                        if len(faults) < MAX_FAULTS:
                            faults.append(fault)
                    on_example()
        except DatasetError as error:
            count += 1
            faults.append(Fault("unreadable", "", str(error)))
    stated = sum(entry.trained_tokens for entry in manifest.shards)
    if stated != trained:
        count += 1
        faults.append(Fault("counts", "", f"the manifest says {stated} trained tokens, there are {trained}"))
    return Proof(examples, spans, trained, faults, count)


def _whole(folder: Path, manifest: Manifest, template: Template) -> Iterator[Fault]:
    for entry in manifest.shards:
        path = folder / entry.file
        if not path.is_file():
            yield Fault("missing shard", "", f"{entry.file} is not there")
        elif _sha256(path) != entry.sha256:
            yield Fault("changed shard", "", f"{entry.file} is not the file that was built")
    told = manifest.about.get("tokenizer", {}).get("hash")
    if told != template.hash:
        yield Fault("tokenizer", "", f"the tokenizer in {template.folder} is not the one it was built with")


def _faults(
    example: Example,
    split: str,
    manifest: Manifest,
    template: Template,
    tasks: dict[str, str],
    seen: dict[bytes, str],
) -> Iterator[Fault]:
    try:
        example.check()
    except DatasetError as error:
        yield Fault("arrays", example.id, error.message)
        return
    tokens = example.tokens
    if int(tokens.max()) >= template.vocabulary:
        yield Fault(
            "vocabulary", example.id, f"id {int(tokens.max())} is beyond the {template.vocabulary} of the tokenizer"
        )
        return
    task = str(example.meta.get("task_id"))
    if tasks.setdefault(task, split) != split:
        yield Fault("task in two splits", example.id, f"task {task} is in {tasks[task]} and {split}")
    fingerprint = hashlib.sha256(tokens.tobytes() + example.loss_mask.tobytes()).digest()
    if seen.setdefault(fingerprint, example.id) != example.id:
        yield Fault("duplicate", example.id, f"the same as {seen[fingerprint]}")
    spans = trained_spans(example.loss_mask)
    if not spans:
        yield Fault("nothing trained", example.id, "it has no trained token")
    header = np.asarray(template.header)
    for start, end in spans:
        text = template.decode(tokens[start:end].tolist())
        if start < len(header) or not np.array_equal(tokens[start - len(header) : start], header):
            yield Fault("not an answer", example.id, f"tokens {start} to {end} do not begin an answer: {_short(text)}")
        ends = np.flatnonzero(tokens[start:end] == template.end)
        if not len(ends):
            yield Fault("no end of turn", example.id, f"tokens {start} to {end} end without their end: {_short(text)}")
        elif ends[0] != end - start - 1:
            yield Fault("past the end", example.id, f"tokens {start} to {end} go past a turn's end: {_short(text)}")
    steps = example.meta.get("steps")
    if isinstance(steps, list) and len(steps) != len(spans):
        yield Fault("spans", example.id, f"{len(spans)} trained spans for {len(steps)} trained steps")
    options = manifest.about.get("dataset", {})
    if options.get("guidance") == "drop" and _guided(template) in template.decode(tokens.tolist()):
        yield Fault("guidance", example.id, "guidance is in a context from which it was to be dropped")


def _guided(template: Template) -> str:
    """How every turn of guidance begins."""
    _, written = template.user_turn(real_user("\0"))
    return written.partition("\0")[0]


def sample(example: Example, template: Template, *, limit: int = 4000) -> Any:
    """An example for the eyes: trained text in colour, context plain (a `rich.text.Text`), cut in the middle."""
    from rich.text import Text

    text = Text()
    position = 0
    for start, end in [*trained_spans(example.loss_mask), (len(example.tokens), len(example.tokens))]:
        text.append(_middle(template.decode(example.tokens[position:start].tolist()), limit // 8), style="dim")
        text.append(template.decode(example.tokens[start:end].tolist()), style="bold green")
        position = end
        if len(text) > limit:
            text.append(f" … {len(example.tokens) - position} tokens more", style="dim")
            break
    return text


def _middle(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"


def _short(text: str, limit: int = 60) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= limit else f"{line[: limit - 1]}…")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
