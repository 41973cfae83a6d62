"""Labels: verdicts on the actions of a trajectory, in a file beside it that is only ever added to.

A line of the file is a label, or a pass: the note that one author has looked through all steps with one
version of a rule. What a newer pass does not say again no longer counts; nothing is deleted.
docs/trajectory-format.md describes the file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from hpc.core.errors import TrajectoryError, TrajectoryIncomplete
from hpc.rundir import RunDir

AuthorKind = Literal["rule", "judge", "human"]
Verdict = Literal["optimal", "suboptimal", "unsure"]


class Label(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="label"):
    """A verdict on the action of step ``step``, and why.

    ``author`` names who says so: a rule, a judge's model, or a person. ``rule`` is the criterion (of a
    person may be empty) and ``rule_version`` its version. ``at`` is in Unix seconds; ``source`` says where
    the label was given (a command, Slack, the inbox).
    """

    step: int
    verdict: Verdict
    reason: str
    author_kind: AuthorKind
    author: str
    rule: str = ""
    rule_version: int = 0
    at: float = 0.0
    source: str = ""


class Pass(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="pass"):
    """``author`` has looked at the steps up to ``steps`` by ``rule``; what is labelled by it stands before
    this line. ``settings`` is a hash of what else decides the outcome."""

    author_kind: AuthorKind
    author: str
    rule: str
    rule_version: int
    steps: int
    at: float
    settings: str = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy makes of all labels of a step: whether its action is trained, or stays in the context
    alone, and why."""

    step: int
    train: bool
    reason: str


Entry = Label | Pass
_decoder = msgspec.json.Decoder(Entry)


class Labels(msgspec.Struct, frozen=True):
    """The entries of one file in order, and how many lines could not be read."""

    entries: list[Entry]
    unreadable: int = 0

    def passes(self) -> dict[tuple[str, str, str], Pass]:
        """The newest pass of each author and rule."""
        return {_by(entry): entry for entry in self.entries if isinstance(entry, Pass)}

    def current(self) -> list[Label]:
        """The labels that count, by step: of each author and rule those of the newest pass, or where there
        was none (of people) the last word on each step."""
        kept: dict[tuple[str, str, str], dict[int, Label]] = {}
        waiting: dict[tuple[str, str, str], dict[int, Label]] = {}
        for entry in self.entries:
            if isinstance(entry, Pass):
                kept[_by(entry)] = waiting.pop(_by(entry), {})
            elif entry.author_kind == "human":
                kept.setdefault(_by(entry), {})[entry.step] = entry
            else:
                waiting.setdefault(_by(entry), {})[entry.step] = entry
        found = [label for labels in kept.values() for label in labels.values()]
        return sorted(found, key=lambda label: (label.step, label.author_kind, label.author, label.rule))

    def of_version(self, rule: str, version: int) -> list[Label] | None:
        """What the last pass of ``rule`` in this version said; None where there was none."""
        found: list[Label] | None = None
        waiting: dict[int, Label] = {}
        for entry in self.entries:
            if entry.rule != rule or entry.rule_version != version:
                continue
            if isinstance(entry, Pass):
                found, waiting = list(waiting.values()), {}
            else:
                waiting[entry.step] = entry
        return found


def _by(entry: Entry) -> tuple[str, str, str]:
    return entry.author_kind, entry.author, entry.rule


def labels_path(trajectory: Path) -> Path:
    """Where the labels of a trajectory file lie: ``labels/<index>.jsonl`` of its run, or beside a file that
    is in no run."""
    for parent in trajectory.parents[:3]:
        if (parent / "config.json").is_file() and (parent / "episodes").is_dir():
            index = trajectory.stem if trajectory.parent == parent / "trajectories" else trajectory.parent.name
            return RunDir(parent).labels(int(index))
    return trajectory.with_name(f"{trajectory.name}.labels.jsonl")


def read_labels(path: Path) -> Labels:
    """What a file of labels says; nothing where there is none. A torn or foreign line is passed over.

    Raises:
        TrajectoryIncomplete: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Labels([])
    except OSError as error:
        raise TrajectoryIncomplete(f"cannot read {path}: {error.strerror}", "mend the permissions") from error
    entries: list[Entry] = []
    unreadable = 0
    for line in data.splitlines():
        if not line.strip():
            continue
        try:
            entries.append(_decoder.decode(line))
        except (msgspec.MsgspecError, ValueError):
            unreadable += 1
    return Labels(entries, unreadable)


def add_labels(path: Path, entries: Sequence[Entry]) -> None:
    """Add entries, all together and durable on return. Several processes may add to one file.

    Raises:
        TrajectoryError: the file cannot be written; it stays as it was.
    """
    data = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
    if not data:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(file.fileno()).st_size
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            try:
                _write_all(file.fileno(), b"\n" + data if torn else data)  # a torn line stays one line
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), size)
                raise
    except OSError as error:
        raise TrajectoryError(f"cannot write {path}: {error.strerror}", "free space or mend the permissions") from error


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def is_done(labels: Labels, wanted: Pass) -> bool:
    """Whether the same pass was made before: same rule, version, settings and steps."""
    before = labels.passes().get(_by(wanted))
    return before is not None and msgspec.structs.replace(before, at=wanted.at) == wanted


def steps_of(labels: Iterable[Label]) -> dict[int, list[Label]]:
    """Labels by step."""
    found: dict[int, list[Label]] = {}
    for label in labels:
        found.setdefault(label.step, []).append(label)
    return found
