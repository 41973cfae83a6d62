"""Each rule: what it finds, what it leaves alone, and where its limits are."""

from __future__ import annotations

from typing import Any

import pytest

from hpc.config.supervision import RULES as CONFIGURED
from hpc.supervision.history import Past
from hpc.supervision.rules import RULES
from hpc.trajectories.records import StepView
from tests.unit.supervision.pasts import a_past, a_step, an_alert, guidance


def found(rule: str, past: Past) -> list[int]:
    return sorted({one.step for one in RULES[rule].find(past)})


def failing(step: int, text: str = "no such file") -> StepView:
    return a_step(step, "run_command", text, arguments={"command": "make"}, is_error=True)


def edit(step: int, content: str, start: int = 1, path: str = "a.py", **fields: Any) -> StepView:
    arguments = {"path": path, "start": start, "end": start, "content": content}
    return a_step(step, "edit_file", arguments=arguments, **fields)


def run(step: int, **fields: Any) -> StepView:
    return a_step(step, "run_command", arguments={"command": "python train.py"}, **fields)


def test_the_configuration_knows_every_rule_and_each_says_what_it_is() -> None:
    assert set(CONFIGURED) == set(RULES)
    for name, rule in RULES.items():
        assert rule.name == name
        assert rule.version >= 1
        assert rule.criterion
        assert rule.source


def test_blind_retry_begins_with_the_third_failure() -> None:
    assert found("blind_retry", a_past(*(failing(n) for n in (1, 2, 3, 4)))) == [3, 4]
    assert found("blind_retry", a_past(failing(1), failing(2), failing(3, "something else"))) == []
    assert found("blind_retry", a_past(failing(1), failing(2), edit(3, "x"), failing(4))) == []
    assert found("blind_retry", a_past(failing(1), failing(2), run(3), failing(4))) == []  # as after an installation
    changing = [failing(n, f"2026-01-01 10:00:0{n} error at 0xdead000{n}") for n in (1, 2, 3)]
    assert found("blind_retry", a_past(*changing)) == [3]
    between = a_past(failing(1), a_step(2, "think"), failing(3), a_step(4, "list_files"), failing(5))
    assert found("blind_retry", between) == [5]


def look(step: int, **fields: Any) -> StepView:
    return a_step(step, "get_session_output", "loss 2.3", polling=True, **fields)


def test_monitoring_is_a_deadlock_from_the_tenth_look_that_sees_nothing_move() -> None:
    assert found("monitoring_deadlock", a_past(*(look(n) for n in range(1, 12)))) == [10, 11]
    moving = [look(n, job_progressed=n == 6) for n in range(1, 16)]
    assert found("monitoring_deadlock", a_past(*moving)) == []
    thinking = [a_step(n, "think") if n == 5 else look(n) for n in range(1, 12)]
    assert found("monitoring_deadlock", a_past(*thinking)) == [11]
    unmarked = [a_step(n, "get_session_output", "loss 2.3") for n in range(1, 11)]
    assert found("monitoring_deadlock", a_past(*unmarked)) == [10]
    acting = [run(n) if n == 5 else look(n) for n in range(1, 15)]
    assert found("monitoring_deadlock", a_past(*acting)) == []


def test_evaluating_again_needs_something_done_in_between() -> None:
    evaluation = [a_step(n, "eval") for n in (1, 3)]
    assert found("evaluation_abuse", a_past(evaluation[0], a_step(2, "think"), evaluation[1])) == [3]
    assert found("evaluation_abuse", a_past(evaluation[0], edit(2, "x"), evaluation[1])) == []
    assert found("evaluation_abuse", a_past(evaluation[0], run(2), evaluation[1])) == []
    assert found("evaluation_abuse", a_past(evaluation[0], edit(2, "x", is_error=True), evaluation[1])) == [3]


def test_an_edit_wants_the_file_to_have_been_looked_at() -> None:
    opened = a_step(1, "open_file", arguments={"path": "/workspace/a.py"})
    assert found("edit_without_read", a_past(opened, edit(2, "x"))) == []
    assert found("edit_without_read", a_past(opened, edit(21, "x"))) == []
    assert found("edit_without_read", a_past(opened, edit(22, "x"))) == [22]
    assert found("edit_without_read", a_past(edit(1, "x"), edit(2, "y"))) == [1]
    printed = a_step(1, "run_command", arguments={"command": "cd src && sed -n 1,40p a.py"})
    assert found("edit_without_read", a_past(printed, edit(2, "x"))) == []
    other = a_step(1, "run_command", arguments={"command": "cat b.py"})
    assert found("edit_without_read", a_past(other, edit(2, "x"))) == [2]
    created = a_step(1, "create_file", arguments={"filename": "a.py"})
    assert found("edit_without_read", a_past(created, edit(2, "x"))) == []
    assert found("edit_without_read", a_past(edit(1, "x", is_error=True))) == []


def test_an_edit_that_is_undone_counts_and_so_does_the_undoing() -> None:
    assert found("rollback", a_past(edit(1, "x"), edit(2, "y"), edit(3, "x"))) == [2, 3]
    assert found("rollback", a_past(edit(1, "x"), edit(2, "y"), edit(7, "x"))) == [2, 7]
    assert found("rollback", a_past(edit(1, "x"), edit(2, "y"), edit(8, "x"))) == []
    assert found("rollback", a_past(edit(1, "x"), edit(2, "y", start=5), edit(3, "x"))) == []

    def replace(step: int, old: str, new: str) -> StepView:
        return a_step(step, "str_replace", arguments={"path": "b.py", "old_str": old, "new_str": new})

    assert found("rollback", a_past(replace(1, "p", "q"), replace(2, "q", "p"))) == [1, 2]
    assert found("rollback", a_past(replace(1, "p", "q"), replace(2, "q", "r"))) == []


def test_an_edit_replaced_after_a_command_without_progress_was_fruitless() -> None:
    assert found("fruitless_edit", a_past(edit(1, "x"), run(2), edit(3, "y"), run(4), edit(5, "z"))) == [1, 3]
    assert found("fruitless_edit", a_past(edit(1, "x"), edit(2, "y"))) == []  # nothing was tried
    assert found("fruitless_edit", a_past(edit(1, "x"), run(2, progress=0.2), edit(3, "y"))) == []
    assert found("fruitless_edit", a_past(edit(1, "x"), run(2), edit(3, "y", start=4))) == []
    later = a_past(run(1, progress=0.5), edit(2, "x"), run(3, progress=0.5), edit(4, "y"))
    assert found("fruitless_edit", later) == [2]


def test_a_session_leaks_that_is_neither_used_nor_closed() -> None:
    def session(step: int, action: str, name: str) -> StepView:
        return a_step(step, action, arguments={"session_id": name})

    opened = [session(n, "create_session", f"s{n}") for n in (1, 2, 3)]
    assert found("session_leak", a_past(*opened)) == [1, 2]
    assert (
        found("session_leak", a_past(*opened, session(4, "run_command", "s1"), session(5, "close_session", "s2"))) == []
    )
    assert found("session_leak", a_past(*opened, a_step(4, "close_all_sessions"))) == []


def test_no_action_and_failed_actions() -> None:
    past = a_past(a_step(1, "null", "no tool call", is_malformed=True, is_error=True), failing(2), run(3))
    assert found("no_action", past) == [1]
    assert found("failed_action", past) == [2]


def test_what_a_person_corrected_is_the_evidence_and_the_failures_until_then() -> None:
    steps = [run(1), failing(2), run(3), failing(4), run(5), failing(6)]
    given = {"alerts": [an_alert(4, [2, 4])], "guidance": [guidance(5)]}
    assert found("corrected", a_past(*steps, **given)) == [2, 4]
    assert found("corrected", a_past(*steps, alerts=[an_alert(3, [])], guidance=[guidance(5)])) == [3, 4]
    unprompted = {"alerts": [an_alert(4, [2, 4])], "guidance": [guidance(5, None)]}
    assert found("corrected", a_past(*steps, **unprompted)) == []
    knowledge = {"alerts": [an_alert(4, [2, 4])], "guidance": [guidance(5, kind="knowledge")]}
    assert found("corrected", a_past(*steps, **knowledge)) == []


def test_an_abandoned_branch() -> None:
    assert found("abandoned_branch", a_past(run(1), run(2), run(3), abandoned={2})) == [2]


@pytest.mark.parametrize("rule", list(RULES))
def test_odd_histories_harm_nobody(rule: str) -> None:
    odd = [
        a_step(1, "edit_file", arguments={"path": 5, "content": None}),
        StepView(step=2, action="edit_file", arguments="[1", observation=""),
        StepView(step=3, action="", arguments="null", observation="\0"),
        a_step(7, "close_session"),
    ]
    assert isinstance(found(rule, a_past()), list)
    assert isinstance(found(rule, a_past(*odd)), list)
