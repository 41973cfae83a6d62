"""Building a dataset: trajectory by trajectory, in constant memory, with every refusal counted."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hpc.config.dataset import DatasetConfig
from hpc.core.errors import DatasetError, TrajectoryError
from hpc.datasets.guidance import Dropper, NotFound
from hpc.datasets.segments import Segment, StepIds, segments
from hpc.datasets.template import Template
from hpc.datasets.texts import NotStable, from_texts
from hpc.examples import DatasetWriter, Example
from hpc.examples.advantages import group_advantages
from hpc.trajectories.exchange.conversation import parts_of
from hpc.trajectories.labels import Decision
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import OutcomeReached

Decide = Callable[[Trajectory], Mapping[int, Decision]]
"""What of an episode is trained: step -> decision. A step without one is."""


class Source(msgspec.Struct, frozen=True):
    """A trajectory to be taken in: its file, and how it is opened."""

    name: str
    path: Path
    open: Callable[[], Trajectory]


class Counts(msgspec.Struct):
    """What became of what: ``episodes`` and ``steps`` by outcome ("taken", "trained", or the reason why not)."""

    episodes: Counter[str] = msgspec.field(default_factory=Counter)
    steps: Counter[str] = msgspec.field(default_factory=Counter)
    examples: Counter[str] = msgspec.field(default_factory=Counter)
    guidance: Counter[str] = msgspec.field(default_factory=Counter)
    tokens: int = 0
    trained_tokens: int = 0


class Builder:
    """Turns trajectories into examples.

    Args:
        decide: what the filter lets through; used where ``config.filter`` is set.
    """

    def __init__(self, template: Template, config: DatasetConfig, decide: Decide) -> None:
        self.template = template
        self.config = config
        self.counts = Counts()
        self.sources: dict[str, str] = {}
        """Name of each trajectory taken -> SHA-256 of its file."""
        self._decide = decide
        self.rewards: dict[str, float] = {}
        """With ``config.rewards``: reward of each episode, in [0, 1]."""
        self._advantages: dict[str, float] = {}
        self._seen: set[bytes] = set()

    def examples(self, sources: Iterable[Source]) -> Iterator[tuple[Example, str]]:
        """The examples and their splits, in the order of the sources. An unreadable trajectory is counted."""
        if self.config.rewards != "none":
            sources = list(sources)
            self._advantages = self._compare(sources)
        for source in sources:
            try:
                with source.open() as trajectory:
                    yield from self._episode(source, trajectory)
            except TrajectoryError as error:
                self.counts.episodes[f"unreadable: {type(error).__name__}"] += 1

    def _compare(self, sources: Iterable[Source]) -> dict[str, float]:
        """The advantage of each episode that is taken, by episode id; those of groups without a difference are not
        in it."""
        rewards: dict[str, float] = {}
        groups: dict[str, str] = {}
        for source in sources:
            with contextlib.suppress(TrajectoryError), source.open() as trajectory:
                outcome = trajectory.outcome
                score = None if outcome is None else self._score(outcome)
                if score is not None and not self._refusal(trajectory):
                    rewards[trajectory.header.episode_id] = score / 100.0
                    groups[trajectory.header.episode_id] = trajectory.header.task_id
        advantages = group_advantages(list(rewards.values()), list(groups.values()))
        self.rewards = rewards
        return {name: float(value) for name, value in zip(rewards, advantages, strict=True) if value != 0.0}

    def _score(self, outcome: OutcomeReached) -> float | None:
        return outcome.final_score if self.config.score == "final" else outcome.best_score

    def about(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """What the manifest says of how the dataset came to be."""
        return {
            "dataset": msgspec.to_builtins(self.config),
            "tokenizer": {
                "hash": self.template.hash,
                "sha256": self.template.sha256,
                "end": self.template.end,
                "header": self.template.header,
            },
            "counts": msgspec.to_builtins(self.counts),
            "mean_reward": sum(self.rewards.values()) / len(self.rewards) if self.rewards else None,
            "sources": self.sources,
            **extra,
        }

    def _episode(self, source: Source, trajectory: Trajectory) -> Iterator[tuple[Example, str]]:
        refusal = self._refusal(trajectory)
        if refusal:
            self.counts.episodes[refusal] += 1
            return
        if self.config.rewards != "none" and trajectory.header.episode_id not in self._advantages:
            self.counts.episodes["no difference in its group"] += 1
            return
        decisions = self._decide(trajectory) if self.config.filter else {}
        reasons = {step: decision.reason for step, decision in decisions.items() if not decision.train}
        dropper = Dropper(
            self.template,
            trajectory.guidance,
            self.config.guidance,
            self.config.drop_probability,
            self.config.seed,
        )
        try:
            found = self._segments(trajectory, reasons, dropper)
        except (NotFound, NotStable) as error:
            self.counts.episodes[f"refused: {type(error).__name__}"] += 1
            return
        self.counts.episodes["taken"] += 1
        self.counts.guidance["dropped"] += dropper.dropped
        self.counts.guidance["kept"] += dropper.kept
        self.sources[source.name] = _sha256(source.path)
        for number, segment in enumerate(found):
            example = self._example(trajectory, number, segment)
            if example is not None:
                yield example, self._split(str(example.meta["task_id"]))

    def _refusal(self, trajectory: Trajectory) -> str:
        config, outcome = self.config, trajectory.outcome
        if outcome is None:
            return "still running"
        if outcome.status not in config.statuses:
            return f"status {outcome.status}"
        if (config.interaction == "guided") != bool(trajectory.guidance) and config.interaction != "any":
            return "no guidance" if config.interaction == "guided" else "guidance"
        if config.min_score is not None:
            score = self._score(outcome)
            if score is None or score < config.min_score:
                return f"score below {config.min_score:g}"
        return ""

    def _segments(self, trajectory: Trajectory, reasons: Mapping[int, str], dropper: Dropper) -> list[Segment]:
        steps = [
            StepIds(
                step=step.action.step,
                shared=step.action.shared_tokens,
                new=step.action.new_prompt_ids,
                answer=step.action.token_ids,
                logprobs=step.action.logprobs,
            )
            for step in trajectory.steps
        ]

        branch = trajectory.header.branched_from
        copied = branch.step if branch is not None else 0

        def why_not(step: int) -> str:
            return "copied from the episode it branched off" if step <= copied else reasons.get(step, "")

        if any(step.answer for step in steps):
            dropper.check({step.step: step for step in steps})
            found = list(segments(steps, end=self.template.end, why_not=why_not, cuts=dropper.cuts))
        else:
            if dropper.dropped:
                raise NotFound("a trajectory without token ids", "guidance=keep")
            messages = [message for part in parts_of(trajectory.records()) for message in part.messages]
            found = [from_texts(self.template, messages, trajectory.header.tools, why_not)]
        for segment in found:
            for span in segment.spans:
                self.counts.steps[span.untrained.split(":")[0] or "trained"] += 1
        return [segment for segment in found if any(segment.mask)]

    def _example(self, trajectory: Trajectory, number: int, segment: Segment) -> Example | None:
        header, outcome = trajectory.header, trajectory.outcome
        tokens = np.asarray(segment.tokens, np.int32)
        mask = np.asarray(segment.mask, np.uint8)
        if self.config.max_tokens is not None and len(tokens) > self.config.max_tokens:
            self.counts.examples["too long"] += 1
            return None
        advantage = self._advantages.get(header.episode_id) if self.config.rewards != "none" else None
        fingerprint = hashlib.sha256(tokens.tobytes() + mask.tobytes()).digest()
        if self.config.deduplicate and fingerprint in self._seen:
            self.counts.examples["duplicate"] += 1
            return None
        self._seen.add(fingerprint)
        self.counts.examples["written"] += 1
        self.counts.tokens += len(tokens)
        self.counts.trained_tokens += int(mask.sum())
        return Example(
            id=f"{header.episode_id}#{number}",
            tokens=tokens,
            loss_mask=mask,
            logprobs=np.asarray(segment.logprobs, np.float32),
            advantages=None if advantage is None else mask.astype(np.float32) * np.float32(advantage),
            meta={
                "episode_id": header.episode_id,
                "task_id": header.task_id,
                "task_family": header.task_family,
                "arm": self.config.arm,
                "score": outcome.final_score if outcome is not None else None,
                "advantage": advantage,
                "steps": [span.step for span in segment.spans if not span.untrained],
                "cuts": segment.cuts,
            },
        )

    def _split(self, task: str) -> str:
        digest = hashlib.sha256(f"{self.config.seed}:{task}".encode()).digest()
        return "validation" if int.from_bytes(digest[:7], "big") / 2**56 < self.config.validation_share else "train"


def build(
    target: Path, builder: Builder, sources: Iterable[Source], extra: Mapping[str, Any], on_example: Callable[[], None]
) -> None:
    """Write the dataset ``target``.

    Raises:
        DatasetError: it exists already, nothing is left to train, or the disk is full. Nothing is left behind.
    """
    with DatasetWriter(target, about={}) as writer:
        for example, split in builder.examples(sources):
            writer.add(example, split=split)
            on_example()
        if not builder.counts.examples["written"]:
            raise DatasetError(f"nothing to train: {describe(builder.counts)}", "choose other episodes or another arm")
        writer.about = builder.about(extra)


def describe(counts: Counts) -> str:
    """What became of the episodes, in a line."""
    parts = [f"{number} {reason}" for reason, number in sorted(counts.episodes.items())]
    return ", ".join(parts) or "no episodes"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
