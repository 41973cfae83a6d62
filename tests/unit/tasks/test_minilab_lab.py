from __future__ import annotations

import pytest

from hpc.tasks.minilab.facts import KNOBS, UNSET, fact_table
from hpc.tasks.minilab.instances import make_instance
from hpc.tasks.minilab.lab import LabState, RecipeError, blank_recipe, experiment, next_line, read_recipe, score

FACTS = fact_table(11)
INSTANCE = make_instance("train", 1, 0)


def recipe(**options: str) -> str:
    return "".join(f"{knob}: {options.get(knob, UNSET)}\n" for knob in KNOBS)


def right(stages: int) -> dict[str, str]:
    return {stage.knob: FACTS[stage.value].option for stage in INSTANCE.stages[:stages]}


def wrong(stage: int) -> dict[str, str]:
    due = INSTANCE.stages[stage]
    return {due.knob: next(option for option in KNOBS[due.knob] if option != FACTS[due.value].option)}


def play(*recipes: str, budget: int = 16, state: LabState | None = None):
    state = state or LabState()
    printouts = []
    for text in recipes:
        state, printout = experiment(INSTANCE, FACTS, budget, state, text)
        printouts.append(printout)
    return state, printouts


def test_right_option_passes_and_names_the_next_stage():
    state, [printout] = play(recipe(**right(1)))
    assert state == LabState(1, tuple(right(1).values()))
    assert printout.lines[0].startswith("stage 1 metric ") and printout.lines[0].endswith(" pass")
    assert printout.lines[1:] == (next_line(INSTANCE.stages[1]),)
    assert printout.exit_code == 0


def test_wrong_option_is_low_and_costs_a_run():
    state, [printout] = play(recipe(**wrong(0)))
    assert state == LabState(1, ())
    assert len(printout.lines) == 1 and printout.lines[0].endswith(" low")


def test_metric_tells_pass_from_low_and_nothing_more():
    for stage, text in ((0, recipe(**right(1))), (0, recipe(**wrong(0)))):
        _, [printout] = play(text)
        metric = int(printout.lines[stage].split()[3])
        assert (80 <= metric <= 99) if "pass" in printout.lines[0] else (10 <= metric <= 49)


def test_six_right_options_finish_in_six_runs():
    state, printouts = play(*(recipe(**right(count)) for count in range(1, 7)))
    assert state.runs_used == 6
    assert printouts[-1].lines[-1] == "all stages passed"
    after, [extra] = play(recipe(), state=state)
    assert after == state and extra.lines == ("all stages passed",)


def test_later_knobs_may_be_set_ahead():
    state, printouts = play(*[recipe(**right(6))] * 6)
    assert state.runs_used == 6 and printouts[-1].lines[-1] == "all stages passed"


def test_budget_ends_the_runs():
    state, printouts = play(*[recipe(**wrong(0))] * 7, budget=6)
    assert state.runs_used == 6
    assert printouts[5].lines[-1] == "no runs left" and printouts[5].exit_code == 0
    assert printouts[6].lines == ("no runs left",) and printouts[6].exit_code == 1


def test_last_run_may_still_complete_the_lab():
    state, printouts = play(*(recipe(**right(count)) for count in range(1, 7)), budget=6)
    assert "no runs left" not in printouts[-1].lines
    assert len(state.passed) == 6


def test_unset_knob_spends_no_run_and_names_the_stage():
    state, [printout] = play(blank_recipe())
    assert state == LabState()
    assert printout.lines == (f"error: {INSTANCE.stages[0].knob} is unset", next_line(INSTANCE.stages[0]))
    assert printout.exit_code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no line for anneal"),
        ("anneal 450C", "line 1"),
        ("colour: red", "unknown knob 'colour'"),
        ("anneal: 450C\nanneal: 450C", "twice"),
        ("anneal: slow", "anneal cannot be 'slow'"),
        ("\x00\xff", "line 1"),
        ("anneal: " + "x" * 10_000, "cannot be"),
    ],
)
def test_unreadable_recipe_costs_nothing_and_says_why(text, said):
    state, [printout] = play(text)
    assert state == LabState()
    assert printout.exit_code == 2
    assert printout.lines[0].startswith("error: ") and said in printout.lines[0]
    assert len(printout.lines[0]) < 300
    with pytest.raises(RecipeError):
        read_recipe(text)


def test_comments_blank_lines_and_order_are_free():
    lines = recipe(**right(6)).splitlines()
    assert read_recipe("# mine\n\n" + "\n".join(reversed(lines)) + "   # end\n") == read_recipe("\n".join(lines))


def test_score_is_linear_to_the_reference_and_rewards_saved_runs():
    all_options = tuple(right(6).values())
    assert score(INSTANCE, 16, LabState(), blank_recipe())[0] == 0
    for count in range(6):
        total, _ = score(INSTANCE, 16, LabState(16, all_options[:count]), recipe(**right(6)))
        assert total == pytest.approx(80 * count / 6)
    assert score(INSTANCE, 16, LabState(16, all_options), recipe(**right(6)))[0] == 80
    assert score(INSTANCE, 16, LabState(11, all_options), recipe(**right(6)))[0] == 90
    assert score(INSTANCE, 16, LabState(6, all_options), recipe(**right(6)))[0] == 100
    assert score(INSTANCE, 6, LabState(6, all_options), recipe(**right(6)))[0] == 80


def test_score_counts_a_stage_only_while_the_recipe_keeps_its_option():
    options = tuple(right(2).values())
    spoiled = recipe(**{**right(2), **wrong(0)})
    assert score(INSTANCE, 16, LabState(5, options), spoiled)[0] == pytest.approx(80 / 6)


def test_right_options_that_were_never_tested_do_not_count():
    assert score(INSTANCE, 16, LabState(), recipe(**right(6)))[0] == 0


def test_unreadable_recipe_scores_zero_with_an_error():
    total, message = score(INSTANCE, 16, LabState(6, tuple(right(6).values())), "anneal = 450C")
    assert total == 0
    assert message.startswith("error: ")
