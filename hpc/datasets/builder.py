"""Many trajectories to a dataset on disk: one arm, in memory of one episode at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from hpc.config import config_hash, to_builtins
from hpc.config.dataset import DatasetConfig
from hpc.core import files
from hpc.core.errors import DatasetError, TrajectoryError
from hpc.core.provenance import git_state
from hpc.datasets.chat import Chat
from hpc.datasets.conversations import CONVERSATIONS, Conversation
from hpc.datasets.episode import examples_of, left_out
from hpc.datasets.guidance import Refused, draws
from hpc.datasets.rollouts import compare, with_advantage
from hpc.datasets.segments import Verdict
from hpc.examples import MANIFEST, DatasetWriter, Example
from hpc.trajectories.exchange.source import sha256_of
from hpc.trajectories.labels import Decision
from hpc.trajectories.reader import Trajectory

TRAIN, VALIDATION = "train", "validation"
BUILDER_VERSION = 1

Add = Callable[[Example, Conversation], None]
Decide = Callable[[Trajectory], Mapping[int, Verdict]]


class Report(msgspec.Struct, kw_only=True):
    """What a build took and what it left out, with the reasons. All counts; ``guidance`` in turns."""

    episodes: int = 0
    episodes_used: int = 0
    examples: Counter[str] = msgspec.field(default_factory=Counter)
    tokens: int = 0
    trained_tokens: int = 0
    trained_answers: int = 0
    left_out: Counter[str] = msgspec.field(default_factory=Counter)
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    context_only: Counter[str] = msgspec.field(default_factory=Counter)
    guidance: Counter[str] = msgspec.field(default_factory=Counter)
    cut: int = 0
    duplicates: int = 0
    rewards: dict[str, list[float]] = {}
    """Of the episodes taken, by group."""
    failed: dict[str, str] = {}
    """Sources that could not be read, by name, with the error."""

    def plain(self) -> dict[str, Any]:
        value: dict[str, Any] = msgspec.to_builtins(self)
        return value


def split_of(config: DatasetConfig, family: str, task: str) -> str:
    """The split of a task: the same for all its episodes, arms and runs."""
    share = draws(config.seed, family, task)
    return VALIDATION if share < config.validation_share else TRAIN


def build(
    sources: Iterable[Path],
    folder: Path | None,
    config: DatasetConfig,
    chat: Chat,
    decide: Decide | None,
    *,
    name: str,
    about: Mapping[str, Any] | None = None,
    on_source: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Build one arm.

    Args:
        sources: files of trajectories.
        folder: where to; None counts and writes nothing.
        decide: the label policy; needed where the arm filters.
        about: more for the manifest, such as versions of policy and rules.
        on_source: called after each source.

    Raises:
        DatasetError: no example came of it, there is a dataset already, or the disk is full.
    """
    if config.filter and decide is None:
        raise DatasetError(f"the arm {config.arm} filters, but there is no label policy", "set dataset.filter=false")
    report = Report()
    advantages: dict[str, float] | None = None
    if config.rewards != "none":
        sources = list(sources)
        advantages = compare(sources, config, report)
    used: list[dict[str, Any]] = []
    seen: set[bytes] = set()
    told = {
        "name": name,
        "arm": config.arm,
        "config": to_builtins(config),
        "config_hash": config_hash(config),
        "builder_version": BUILDER_VERSION,
        "tokenizer": {
            "model": config.model,
            "hash": chat.sha256,
            "sha256": sha256_of(chat.folder / "tokenizer.json"),  # what the trainer compares
            "vocabulary": chat.vocabulary,
        },
        "end_of_turn": sorted(chat.end_of_turn),
        "git": git_state(Path(__file__)),
        **(about or {}),
    }
    with _output(folder, told) as add:
        for path in sources:
            report.episodes += 1
            try:
                with Trajectory.open(path) as trajectory:
                    numbered = _numbered(add, len(used))
                    count = _take(trajectory, config, chat, decide, report, seen, numbered, advantages)
                if count:
                    report.episodes_used += 1
                    used.append({"file": str(path), "sha256": sha256_of(path), "examples": count})
            except TrajectoryError as error:
                report.failed[str(path)] = str(error)
            on_source(report)
        told["sources"] = used
        told["counts"] = report.plain()
        if folder is not None and not report.examples:
            reasons = ", ".join(f"{why} ({count})" for why, count in (report.left_out + report.refused).most_common(4))
            raise DatasetError(
                f"no example came of {report.episodes} episodes: {reasons or 'none has a trained answer'}",
                "choose another arm, or see `hpc dataset build … --dry-run`",
            )
    return report


def _take(
    trajectory: Trajectory,
    config: DatasetConfig,
    chat: Chat,
    decide: Decide | None,
    report: Report,
    seen: set[bytes],
    add: Add,
    advantages: Mapping[str, float] | None,
) -> int:
    episode = trajectory.header.episode_id
    reason = left_out(trajectory, config)
    if not reason and advantages is not None and episode not in advantages:
        reason = "no difference in its group"
    if reason:
        report.left_out[reason] += 1
        return 0
    try:
        made = examples_of(trajectory, chat, config, _verdicts(trajectory, decide if config.filter else None))
    except Refused as error:
        report.refused[error.reason] += 1
        return 0
    report.refused += made.refused
    report.context_only += made.context_only
    report.guidance += made.guidance
    report.cut += made.cut
    split = split_of(config, trajectory.header.task_family, trajectory.header.task_id)
    count = 0
    for example, conversation in made.examples:
        digest = bytes.fromhex(example.meta["digest"])[:16]
        if config.deduplicate and digest in seen:
            report.duplicates += 1
            continue
        seen.add(digest)
        if advantages is not None:
            example = with_advantage(example, advantages[episode])
        add(example, msgspec.structs.replace(conversation, split=split))
        count += 1
        report.examples[split] += 1
        report.tokens += len(example.tokens)
        report.trained_tokens += example.trained
        report.trained_answers += len(example.meta["spans"])
    return count


def _verdicts(trajectory: Trajectory, decide: Decide | None) -> Mapping[int, Verdict] | None:
    """The policy's verdicts; what was copied as the episode branched off another is trained there."""
    branch = trajectory.header.branched_from
    if branch is None:
        return decide(trajectory) if decide is not None else None
    steps = range(1, len(trajectory.steps) + 1)
    everything = {step: Decision(step=step, train=True, reason="") for step in steps}
    copied = "copied from the episode that it branched off"
    return {
        **(decide(trajectory) if decide is not None else everything),
        **{step: Decision(step=step, train=False, reason=copied) for step in steps if step <= branch.step},
    }


def _numbered(add: Add, source: int) -> Add:
    """Examples say which of the manifest's sources they come from."""

    def numbered(example: Example, conversation: Conversation) -> None:
        example.meta["source"] = source
        add(example, conversation)

    return numbered


@contextmanager
def _output(folder: Path | None, about: dict[str, Any]) -> Iterator[Add]:
    """Where examples go. Conversations are whole before the manifest, which makes the dataset whole, is written."""
    if folder is None:
        yield lambda example, conversation: None
        return
    writer = DatasetWriter(folder, about=about)
    temporary = folder / f"{CONVERSATIONS}.tmp"
    try:
        with writer:
            with temporary.open("wb") as file, zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packed:

                def add(example: Example, conversation: Conversation) -> None:
                    writer.add(example, split=conversation.split)
                    packed.write(msgspec.json.encode(conversation) + b"\n")

                yield add
            about["conversations"] = {"file": CONVERSATIONS, "sha256": sha256_of(temporary)}
            temporary.rename(folder / CONVERSATIONS)
            files.fsync_dir(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        if not (folder / MANIFEST).exists():
            (folder / CONVERSATIONS).unlink(missing_ok=True)
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise
