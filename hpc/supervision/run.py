"""Labelling one trajectory by rules, and what people said of it. Repeating it adds nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from hpc.supervision.history import Past
from hpc.supervision.rules import RULES, Rule
from hpc.trajectories.labels import Entry, Label, Labels, Pass, add_labels, is_done, read_labels

AUTHOR = "rules"


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What labelling a trajectory did: passes made now and labels added with them."""

    passes: int
    labels: int


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """What a person said of the steps of an alert: "false_alarm" means that nothing was wrong with them."""

    alert: str
    annotator: str
    at: float
    source: str


def rules_named(names: Sequence[str]) -> list[Rule]:
    """The rules of these names."""
    return [RULES[name] for name in names]


def apply_rules(past: Past, path: Path, rules: Iterable[Rule], *, again: bool = False, write: bool = True) -> Applied:
    """Label by each rule, unless it has looked at just these steps in its present version.

    Args:
        path: the file of labels.
        again: make the passes again, whatever was done before.
        write: False finds only.

    Raises:
        TrajectoryError: the labels cannot be written.
    """
    before = read_labels(path)
    entries: list[Entry] = []
    passes = 0
    for rule in rules:
        now = time.time()
        done = Pass(
            author_kind="rule", author=AUTHOR, rule=rule.name, rule_version=rule.version, steps=len(past.steps), at=now
        )
        if is_done(before, done) and not again:
            continue
        entries += [
            Label(
                step=step,
                verdict="suboptimal",
                reason=reason,
                author_kind="rule",
                author=AUTHOR,
                rule=rule.name,
                rule_version=rule.version,
                at=now,
            )
            for step, reason in found_by(rule, past).items()
        ]
        entries.append(done)
        passes += 1
    if write:
        add_labels(path, entries)
    return Applied(passes=passes, labels=len(entries) - passes)


def found_by(rule: Rule, past: Past) -> dict[int, str]:
    """What a rule finds: step -> reason, in order; the first reason counts."""
    found: dict[int, str] = {}
    for one in rule.find(past):
        found.setdefault(one.step, one.reason)
    return dict(sorted(found.items()))


def add_words(past: Past, path: Path, words: Sequence[Word]) -> int:
    """Turn what people said of alerts into labels, once each; how many were added.

    "Looks fine" says of the steps that the alert shows that they are as they should be.
    """
    known = {(label.author, label.step, label.rule) for label in people(read_labels(path))}
    alerts = {alert.id: alert for alert in past.alerts}
    entries: list[Entry] = []
    for word in words:
        alert = alerts.get(word.alert)
        if alert is None:
            continue
        for step in sorted(set(alert.evidence) or {alert.step}):
            if (word.annotator, step, "false_alarm") not in known:
                entries.append(
                    Label(
                        step=step,
                        verdict="optimal",
                        reason=f"{alert.detector} raised an alert, {word.annotator} found nothing wrong",
                        author_kind="human",
                        author=word.annotator,
                        rule="false_alarm",
                        at=word.at,
                        source=word.source,
                    )
                )
    add_labels(path, entries)
    return len(entries)


def people(labels: Labels) -> list[Label]:
    """The labels that people gave."""
    return [label for label in labels.current() if label.author_kind == "human"]
