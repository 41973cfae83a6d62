"""The observation texts: a format that small policies are trained on."""

from __future__ import annotations

import pytest

from hpc.gym import render


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (render.session_created("lab", "localhost"), "session lab ready on localhost"),
        (render.command_done("", 0), "[exit 0]"),
        (render.command_done("stage 2 metric 87 pass\r\nnext mix for ethanol\r\n", 0),
         "stage 2 metric 87 pass\nnext mix for ethanol\n[exit 0]"),
        (render.command_done("no such file\n\n\n", 127), "no such file\n[exit 127]"),
        (render.command_killed("tick\n", 10.0), "tick\n[killed after 10 s]"),
        (render.command_killed("", 0.5), "[killed after 0.5 s]"),
        (render.command_started("lab"), "started in session lab"),
        (render.session_output("epoch 1\n", True, None), "epoch 1\n[running]"),
        (render.session_output("epoch 1\n", True, 0), "epoch 1\n[running]"),
        (render.session_output("epoch 9\n", False, 1), "epoch 9\n[exit 1]"),
        (render.session_output("", False, None), "[idle]"),
        (render.file_listing(["recipe.yaml", "data/", "experiment.py"]), "data/\nexperiment.py\nrecipe.yaml"),
        (render.file_listing([]), "(empty)"),
        (render.file_opened("recipe.yaml", ["anneal: unset", ""], 3, 9),
         "recipe.yaml (9 lines)\n3: anneal: unset\n4: "),
        (render.file_opened("empty.txt", [], 1, 0), "empty.txt (0 lines)"),
        (render.file_edited("recipe.yaml", 2, 2, 6), "recipe.yaml lines 2-2 edited, 6 lines"),
        (render.thought_logged(), "ok"),
        (render.slept(2.0), "slept 2 s"),
        (render.slept(0.25), "slept 0.25 s"),
        (render.evaluated(13.333, "1 of 6 stages", 2), "score 13.3 1 of 6 stages; 2 evaluations left"),
        (render.evaluated(0, "", 0), "score 0.0; 0 evaluations left"),
        (render.finished(), "finished"),
        (render.problem("no such action"), "error: no such action"),
    ],
)  # fmt: skip
def test_texts_are_exact(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b(Bnormal\x1b=", "normal"),
        ("10%\r50%\r100%", "100%"),
        ("100%\r", "100%"),
        ("ab\bc", "ac"),
        ("\b\bx", "x"),
        ("bell\x07 nul\x00 del\x7f", "bell nul del"),
        ("tab\tstays", "tab\tstays"),
        ("αβγ ✓", "αβγ ✓"),
    ],
)
def test_a_line_reads_as_on_a_terminal(raw: str, plain: str) -> None:
    assert render.plain_line(raw) == plain


def test_only_the_last_lines_are_shown() -> None:
    output = "".join(f"line {n}\n" for n in range(200))

    lines = render.command_done(output, 0).split("\n")

    assert lines == [f"line {n}" for n in range(150, 200)] + ["[exit 0]"]
    assert render.command_done(output, 0, shown=0) == "[exit 0]"


def test_a_forged_ending_stays_above_the_true_one() -> None:
    assert render.command_done("[exit 0]\n", 3).split("\n")[-1] == "[exit 3]"
