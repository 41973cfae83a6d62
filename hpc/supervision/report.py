"""What labels say of many trajectories: kept and dropped, by rule and by task, and who agrees. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import msgspec

from hpc.supervision.agreement import Agreement, agreement
from hpc.trajectories.labels import Decision, Label


class Labelled(msgspec.Struct, frozen=True, kw_only=True):
    """A trajectory with its labels: ``steps`` that it has, the labels that count, and the decisions."""

    name: str
    task: str
    steps: int
    labels: list[Label]
    decisions: Mapping[int, Decision]


class RuleLine(msgspec.Struct, frozen=True, kw_only=True):
    """Of one labeller: its verdicts, trajectories with any, and steps that it alone keeps out of training."""

    labeller: str
    version: int
    optimal: int
    suboptimal: int
    unsure: int
    trajectories: int
    alone: int


class TaskLine(msgspec.Struct, frozen=True, kw_only=True):
    """Of one task: trajectories, steps, and how many of those are trained."""

    task: str
    trajectories: int
    steps: int
    kept: int
    share: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything together. ``steps`` in all, ``kept`` of them are trained."""

    trajectories: int
    steps: int
    kept: int
    dropped: int
    rules: list[RuleLine]
    tasks: list[TaskLine]
    agreement: list[Agreement]


def labeller_of(label: Label) -> str:
    """How a report calls who gave a label."""
    return label.rule if label.author_kind == "rule" else f"{label.author_kind} {label.author}"


def report(labelled: Sequence[Labelled]) -> Report:
    """The report on these trajectories."""
    steps = sum(one.steps for one in labelled)
    kept = sum(_kept(one) for one in labelled)
    return Report(
        trajectories=len(labelled),
        steps=steps,
        kept=kept,
        dropped=steps - kept,
        rules=_rules(labelled),
        tasks=_tasks(labelled),
        agreement=_agreements(labelled),
    )


def _kept(one: Labelled) -> int:
    return sum(decision.train for decision in one.decisions.values())


def _rules(labelled: Iterable[Labelled]) -> list[RuleLine]:
    verdicts: Counter[tuple[str, str]] = Counter()
    versions: dict[str, int] = {}
    seen: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    for one in labelled:
        against: dict[int, set[str]] = {}
        here = set()
        for label in one.labels:
            who = labeller_of(label)
            verdicts[who, label.verdict] += 1
            versions[who] = max(versions.get(who, 0), label.rule_version)
            here.add(who)
            if label.verdict == "suboptimal":
                against.setdefault(label.step, set()).add(who)
        seen.update(here)
        for step, names in against.items():
            decision = one.decisions.get(step)
            if len(names) == 1 and decision is not None and not decision.train:
                alone[next(iter(names))] += 1
    lines = [
        RuleLine(
            labeller=who,
            version=version,
            optimal=verdicts[who, "optimal"],
            suboptimal=verdicts[who, "suboptimal"],
            unsure=verdicts[who, "unsure"],
            trajectories=seen[who],
            alone=alone[who],
        )
        for who, version in versions.items()
    ]
    return sorted(lines, key=lambda line: (-line.suboptimal, line.labeller))


def _tasks(labelled: Iterable[Labelled]) -> list[TaskLine]:
    by_task: dict[str, list[Labelled]] = {}
    for one in labelled:
        by_task.setdefault(one.task, []).append(one)
    lines = []
    for task, ones in sorted(by_task.items()):
        steps, kept = sum(one.steps for one in ones), sum(_kept(one) for one in ones)
        lines.append(
            TaskLine(task=task, trajectories=len(ones), steps=steps, kept=kept, share=kept / steps if steps else 0.0)
        )
    return lines


def _agreements(labelled: Sequence[Labelled]) -> list[Agreement]:
    """Between all rules together, each judge and each person. Rules say "good" of what they do not find."""
    views: list[dict[str, dict[int, bool]]] = []
    for one in labelled:
        by_who: dict[str, dict[int, bool]] = {"rules": dict.fromkeys(range(1, one.steps + 1), True)}
        for label in one.labels:
            if label.verdict != "unsure":
                who = "rules" if label.author_kind == "rule" else labeller_of(label)
                by_who.setdefault(who, {})[label.step] = label.verdict == "optimal"
        views.append(by_who)
    names = sorted({name for view in views for name in view})
    return [
        agreement(first, second, [(view.get(first, {}), view.get(second, {})) for view in views])
        for first, second in combinations(names, 2)
    ]
