"""What is made of all labels of a step: train its action, or keep it in the context alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from hpc.config.supervision import SupervisionConfig
from hpc.trajectories.labels import Decision, Label, steps_of

_ORDER = {"human": 0, "judge": 1, "rule": 2}


def decide(labels: Iterable[Label], steps: Iterable[int], config: SupervisionConfig) -> dict[int, Decision]:
    """The decision on each step.

    A person's verdict beats a judge's, a judge's those of rules, unless ``config.precedence`` is "any":
    then one sub-optimal verdict is enough. Rules that are not switched on count for nothing.
    """
    by_step = steps_of(label for label in labels if _counts(label, config))
    return {step: _decide(step, by_step.get(step, []), config) for step in steps}


def _counts(label: Label, config: SupervisionConfig) -> bool:
    if label.verdict == "unsure":
        return False
    if label.author_kind == "rule":
        return label.rule in config.rules
    return config.judge if label.author_kind == "judge" else config.humans


def _decide(step: int, labels: list[Label], config: SupervisionConfig) -> Decision:
    if not labels:
        train = config.unlabelled == "train"
        return Decision(step=step, train=train, reason="no label against it" if train else "no label for it")
    if config.precedence == "rank":
        best = min(_ORDER[label.author_kind] for label in labels)
        labels = [label for label in labels if _ORDER[label.author_kind] == best]
    against = [label for label in labels if label.verdict == "suboptimal"]
    chosen = max(against or labels, key=lambda label: label.at)
    who = chosen.rule if chosen.author_kind == "rule" else f"{chosen.author_kind} {chosen.author}"
    return Decision(step=step, train=not against, reason=f"{who}: {chosen.reason}" if chosen.reason else who)
