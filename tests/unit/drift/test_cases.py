"""Reading labels and annotated failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpc.core.errors import TrajectoryError, UsageError
from hpc.drift.cases import Case, Label, labelled, read_failure, read_labels
from tests.unit.drift.episodes import Episode


def failure(tmp_path: Path, messages: list[tuple[str, str]], mistake: Any, **fields: Any) -> Path:
    history = [{"role": "assistant", "name": name, "content": text} for name, text in messages]
    path = tmp_path / "case.json"
    path.write_text(json.dumps({"question": "how many?", "history": history, "mistake_step": mistake} | fields))
    return path


def read(path: Path) -> Case:
    return read_failure(path, max_steps=100, max_working_seconds=10.0)


def case(name: str, steps: int = 3) -> Case:
    episode = Episode()
    for _ in range(steps):
        episode.run("ls")
    return Case(name=name, task="t", views=tuple(episode.views), max_steps=10, max_working_seconds=1.0)


# ---- labels


@pytest.mark.parametrize(
    "text",
    [
        '{"episode": "a", "step": 2}\n\n{"episode": "b", "step": null}\n',
        "step,episode,who\n2,a,me\n,b,me\n",
        "\ufeffepisode,step\na,2\nb,\n",
    ],
    ids=["jsonl", "csv", "csv of a spreadsheet"],
)
def test_labels_in_both_forms(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels"
    path.write_text(text)
    assert read_labels(path) == [Label("a", 2), Label("b", None)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no columns"),
        ("episode,step\n", "no label"),
        ('{"episode": "a"}', ":1 is no label"),
        ('{"episode": "a", "step": 1}\n{"episode": 3, "step": 1}', ":2 is no label"),
        ('{"episode": "a", "step": 0}', "the first step is 1"),
        ('{"episode": "a", ', ":1 is not JSON"),
        ("episode,step\na,last\n", ":2 is no label"),
        ("who,step\na,3\n", "no columns episode and step"),
    ],
)
def test_bad_labels_name_their_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "labels"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_labels(path)
    assert says in caught.value.message and caught.value.hint


def test_an_absent_file_of_labels_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.csv"):
        read_labels(tmp_path / "nowhere.csv")


def test_labels_find_their_episodes() -> None:
    cases, unused = labelled(
        [case("a"), case("b"), case("c")],
        [Label("a", 3), Label("a", 1), Label("a", 3), Label("b", None), Label("z", 1)],
    )
    assert [each.mistakes for each in cases] == [(1, 3), (), None]
    assert unused == ["z"]


def test_a_label_beyond_the_end_is_refused() -> None:
    with pytest.raises(UsageError, match="step 4 of a, which has 3 steps"):
        labelled([case("a")], [Label("a", 4)])


# ---- annotated failures


def test_messages_become_steps_and_the_label_goes_with_its_message(tmp_path: Path) -> None:
    found = read(
        failure(
            tmp_path,
            [
                ("human", "how many?"),
                ("Orchestrator (thought)", "plan"),
                ("Orchestrator (-> Coder)", "write it"),
                ("Coder", "```python\nprint(1/0)\n```"),
                ("Computer_terminal", "exitcode: 1 (execution failed)\nCode output: ZeroDivisionError"),
                ("Coder", "it is 4"),
                ("ComputerTerminal", "There is no code from the last 1 message for me to execute."),
            ],
            "4",
        )
    )
    assert [(view.step, view.action) for view in found.views] == [
        (1, "think"),
        (2, "Orchestrator"),
        (3, "Coder"),
        (4, "Coder"),
    ]
    assert [view.is_error for view in found.views] == [False, False, True, False]
    assert [view.is_malformed for view in found.views] == [False, False, False, True]
    assert "ZeroDivisionError" in found.views[2].observation
    assert found.mistakes == (3,)  # a terminal's message is the observation of the step before
    assert found.task == "how many?"


@pytest.mark.parametrize("mistake", ["0", 9, "-1", "soon", None], ids=str)
def test_a_label_that_is_no_agents_message_is_refused(tmp_path: Path, mistake: Any) -> None:
    with pytest.raises(TrajectoryError, match=r"case\.json"):
        read(failure(tmp_path, [("human", "how many?"), ("Coder", "4")], mistake))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"question": "q"}', '{"history": [{"role": 1}]}'])
def test_what_is_no_annotated_failure_is_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "case.json"
    path.write_text(text)
    with pytest.raises(TrajectoryError) as caught:
        read(path)
    assert "case.json" in caught.value.message and "\n" not in caught.value.message
