"""From labels to decisions, and how far labellers agree."""

from __future__ import annotations

from typing import Any

import pytest

from hpc.config.supervision import SupervisionConfig
from hpc.supervision.agreement import agreement, kappa
from hpc.supervision.policy import decide
from hpc.supervision.report import Labelled, report
from hpc.trajectories.labels import Label


def a_label(
    step: int, verdict: Any, kind: Any = "rule", author: str = "rules", rule: str = "rollback", **more: Any
) -> Label:
    return Label(step=step, verdict=verdict, reason="why", author_kind=kind, author=author, rule=rule, **more)


def trained(labels: list[Label], **config: Any) -> bool:
    return decide(labels, [1], SupervisionConfig(**config))[1].train


def test_what_nobody_labelled() -> None:
    assert trained([])
    assert not trained([], unlabelled="context")


def test_people_beat_judges_and_judges_beat_rules() -> None:
    rule, judge = a_label(1, "suboptimal"), a_label(1, "optimal", "judge", "tiny")
    human = a_label(1, "suboptimal", "human", "ada")
    assert not trained([rule])
    assert trained([rule, judge])
    assert not trained([rule, judge, human])
    assert not trained([rule, judge], precedence="any")


def test_two_people_who_differ_are_heeded_by_the_stricter() -> None:
    labels = [a_label(1, "optimal", "human", "ada"), a_label(1, "suboptimal", "human", "bob")]
    decision = decide(labels, [1], SupervisionConfig())[1]
    assert not decision.train
    assert decision.reason == "human bob: why"


def test_what_is_switched_off_or_unsure_does_not_count() -> None:
    assert trained([a_label(1, "suboptimal")], rules=("blind_retry",))
    assert trained([a_label(1, "suboptimal", "judge", "tiny")], judge=False)
    assert trained([a_label(1, "suboptimal", "human", "ada")], humans=False)
    assert trained([a_label(1, "unsure", "human", "ada")])
    with pytest.raises(ValueError, match="'bogus', which is no rule"):
        SupervisionConfig(rules=("bogus",))


def test_kappa_against_figures_worked_out_by_hand() -> None:
    # Cohen's own kind of table: 20 both yes, 15 both no, 5 and 10 apart: observed .7, expected .5, kappa .4
    pairs = [(True, True)] * 20 + [(False, False)] * 15 + [(True, False)] * 5 + [(False, True)] * 10
    assert kappa(pairs) == pytest.approx(0.4)
    assert kappa([(True, True)] * 5) is None
    assert kappa([]) is None
    assert kappa([(True, False), (False, True)]) == -1.0


def test_agreement_counts_what_both_judged_and_has_an_interval() -> None:
    verdicts = [({1: True, 2: False, 3: True}, {1: True, 2: False}), ({1: False, 2: True}, {1: True, 2: True})] * 10
    found = agreement("a", "b", verdicts)
    assert found.steps == 40
    assert found.equal == 0.75
    assert found.kappa is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.kappa <= found.high
    assert agreement("a", "b", []).kappa is None


def test_a_report_says_what_is_dropped_by_whom_and_where() -> None:
    labels = [a_label(1, "suboptimal"), a_label(2, "suboptimal"), a_label(2, "suboptimal", rule="blind_retry")]
    config = SupervisionConfig()
    one = Labelled(name="r/0", task="t1", steps=4, labels=labels, decisions=decide(labels, range(1, 5), config))
    two = Labelled(name="r/1", task="t2", steps=2, labels=[], decisions=decide([], (1, 2), config))
    found = report([one, two])
    assert (found.trajectories, found.steps, found.kept, found.dropped) == (2, 6, 4, 2)
    assert [(line.labeller, line.suboptimal, line.alone) for line in found.rules] == [
        ("rollback", 2, 1),
        ("blind_retry", 1, 0),
    ]
    assert [(line.task, line.kept) for line in found.tasks] == [("t1", 2), ("t2", 2)]
