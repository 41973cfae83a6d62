"""Proof that a dataset trains exactly the assistant's answers: read from the bytes, not from the builder.

The spans of answers are found anew in the ids by the turn boundaries of the chat template, and each
trained token must lie in one. Where the trajectories are at hand every example is compared with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec

from hpc.core.errors import DatasetError, TrajectoryError
from hpc.datasets import proofs
from hpc.datasets.chat import Chat
from hpc.datasets.conversations import CONVERSATIONS, Conversation, conversations
from hpc.datasets.episode import digest_of
from hpc.examples import MANIFEST, Dataset, Example
from hpc.examples.manifest import Manifest
from hpc.trajectories.exchange.source import sha256_of
from hpc.trajectories.reader import Trajectory

SHOWN = 20
"""So many findings are kept in full; all are counted."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One fault: what is wrong, in which example (empty: the dataset), and where."""

    fault: str
    example: str = ""
    detail: str = ""


class Verified(msgspec.Struct, kw_only=True):
    """What was looked at and found. ``compared`` examples were held against their trajectories."""

    examples: int = 0
    tokens: int = 0
    trained_answers: int = 0
    trained_tokens: int = 0
    compared: int = 0
    not_compared: Counter[str] = msgspec.field(default_factory=Counter)
    faults: Counter[str] = msgspec.field(default_factory=Counter)
    findings: list[Finding] = []

    @property
    def ok(self) -> bool:
        return not self.faults

    def add(self, fault: str, detail: str = "", example: str = "") -> None:
        self.faults[fault] += 1
        if len(self.findings) < SHOWN:
            self.findings.append(Finding(fault=fault, example=example, detail=detail))

    def add_all(self, example: Example, faults: Iterable[proofs.Fault]) -> None:
        try:
            for fault, detail in faults:
                self.add(fault, detail, example.id)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            self.add("what the example says of itself cannot be read", repr(error), example.id)


def verify(
    folder: Path,
    chat: Chat,
    *,
    sources: bool = True,
    on_example: Callable[[Example], None] = lambda example: None,
) -> Verified:
    """Look at every example of a dataset.

    Args:
        chat: of the model that is to be trained.
        sources: compare with the trajectories that the manifest names, where they are there and unchanged.

    Raises:
        DatasetError: there is no whole dataset to look at.
    """
    found = Verified()
    manifest = Manifest.read(folder / MANIFEST)
    if not _files(manifest, folder, found):
        return found
    about = manifest.about
    told = about.get("tokenizer") or {}
    if told.get("hash") != chat.sha256:
        found.add("another tokenizer or chat template", f"built with {told.get('model')}, not with {chat.folder}")
    known = _Sources(about, found) if sources else None
    config = about.get("config") or {}
    whole = _Whole(found, duplicates=config.get("deduplicate") is False)
    cut_off = bool(config.get("train_cut_off"))
    splits = sorted({shard.split for shard in manifest.shards})
    for split in splits:
        trained = 0
        with Dataset(folder, split=split) as dataset:
            for example, said in zip_longest(_examples(dataset, found), _said(folder, split, found)):
                if example is None:
                    found.add("a conversation without its example", said.id if said else "")
                    continue
                found.examples += 1
                found.tokens += len(example.tokens)
                found.trained_tokens += example.trained
                trained += example.trained
                found.trained_answers += len(example.meta.get("spans", []))
                whole.take(example, split)
                found.add_all(example, proofs.arrays(example, chat))
                found.add_all(example, proofs.spans(example, chat, cut_off=cut_off))
                if said is None or said.id != example.id:
                    found.add("an example without its conversation", example=example.id)
                else:
                    found.add_all(example, proofs.conversation(example, said, chat))
                if known is not None:
                    known.compare(example, chat)
                on_example(example)
        if trained != sum(shard.trained_tokens for shard in manifest.shards if shard.split == split):
            found.add("the manifest counts other trained tokens", f"{trained} in {split}")
    for other in _said(folder, None, found):
        if other.split not in splits:
            found.add("a conversation without its example", f"{other.id}, of the split {other.split}")
    whole.finish()
    if known is not None:
        known.close()
    return found


class _Whole:
    """What must hold between examples."""

    def __init__(self, found: Verified, *, duplicates: bool) -> None:
        self._found = found
        self._duplicates = duplicates  # the arm keeps them: equal rollouts of several episodes each count
        self._digests: dict[str, str] = {}
        self._steps: dict[tuple[str, int], str] = {}
        self._tasks: dict[str, set[str]] = {}

    def take(self, example: Example, split: str) -> None:
        meta = example.meta
        digest = digest_of(example.tokens, example.loss_mask)
        if not self._duplicates and (twin := self._digests.setdefault(digest, example.id)) is not example.id:
            self._found.add("an example is there twice", f"as {twin}", example.id)
        for _, _, step in meta.get("spans", []):
            key = (str(meta.get("episode_id")), int(step))
            if (other := self._steps.setdefault(key, example.id)) is not example.id:
                self._found.add("an answer is trained twice", f"step {step}, also in {other}", example.id)
        self._tasks.setdefault(f"{meta.get('task_family')}/{meta.get('task_id')}", set()).add(split)

    def finish(self) -> None:
        for task, splits in self._tasks.items():
            if len(splits) > 1:
                self._found.add("a task is in two splits", f"{task} is in {' and '.join(sorted(splits))}")


class _Sources:
    """The trajectories that the manifest names, one open at a time."""

    def __init__(self, about: dict[str, Any], found: Verified) -> None:
        self._listed: list[dict[str, Any]] = about.get("sources") or []
        self._found = found
        self._number = -1
        self._open: Trajectory | None = None
        self._why = ""

    def compare(self, example: Example, chat: Chat) -> None:
        if example.meta.get("ids") == "text":
            self._found.not_compared["it was tokenised from text, its messages were compared"] += 1
            return
        number = int(example.meta.get("source", -1))
        if number != self._number:
            self.close()
            self._number = number
            self._why = self._look(number)
        if self._open is None:
            self._found.not_compared[self._why] += 1
            return
        try:
            self._found.add_all(example, proofs.source(example, self._open, chat))
        except (TrajectoryError, KeyError) as error:
            self._found.add("cannot be compared with its trajectory", str(error), example.id)
        self._found.compared += 1

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = None

    def _look(self, number: int) -> str:
        """Open a source; why it cannot be, if it cannot."""
        if not 0 <= number < len(self._listed):
            return "the manifest does not name its source"
        path = Path(self._listed[number]["file"])
        if not path.is_file():
            return "its trajectory is not there"
        if sha256_of(path) != self._listed[number]["sha256"]:
            return "its trajectory has changed"
        try:
            self._open = Trajectory.open(path)
        except TrajectoryError as error:
            return str(error)
        return ""


def _files(manifest: Manifest, folder: Path, found: Verified) -> bool:
    """Look at the files as bytes; whether the shards can be read at all."""
    if manifest.content != Manifest.content_of(manifest.shards):
        found.add("the shards are not those that were built", "their hashes do not give the manifest's content")
    readable = bool(manifest.shards)
    if not readable:
        found.add("the manifest names no shard", str(folder))
    for split in sorted({shard.split for shard in manifest.shards}):
        try:
            with Dataset(folder, split=split) as dataset:
                dataset.check_files()
        except (DatasetError, OSError) as error:
            found.add("a shard is not the file that was built", str(error))
            readable = readable and not _unreadable(folder, split)
    told = manifest.about.get("conversations") or {}
    path = folder / CONVERSATIONS
    if not path.is_file() or sha256_of(path) != told.get("sha256"):
        found.add("the conversations are not the file that was built", str(path))
    return readable


def _unreadable(folder: Path, split: str) -> bool:
    try:
        Dataset(folder, split=split).close()
    except DatasetError:
        return True
    return False


def _examples(dataset: Dataset, found: Verified) -> Iterator[Example]:
    for number in range(len(dataset)):
        try:
            example = dataset[number]
            example.check()
        except DatasetError as error:
            found.add("an example cannot be read", error.message)
        else:
            yield example


def _said(folder: Path, split: str | None, found: Verified) -> Iterator[Conversation]:
    try:
        yield from (said for said in conversations(folder) if split in (None, said.split))
    except DatasetError as error:
        found.add("the conversations cannot be read", error.message)
