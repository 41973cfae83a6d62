"""hpc eval: runs compared, gated and tabulated, on run directories made by the public writer."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hpc.cli import cli
from hpc.cli.eval_runs import Options
from hpc.core.errors import HpcError, UsageError
from hpc.evaluation.results import SUCCESS_AT
from tests.unit.evaluation.runs import Played, write_run
from tests.unit.evaluation.test_seen import dataset, weights

BASE = [Played(f"t{task:02d}", seed, 20.0 + 3 * task + seed) for task in range(8) for seed in range(2)]


def better(gain: float, noise: float = 1.0) -> list[Played]:
    draw = random.Random(1)
    return [each._replace(score=(each.score or 0.0) + gain + draw.uniform(-noise, noise)) for each in BASE]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written")
    write_run(root, "before", BASE)
    write_run(root, "after", better(10.0))
    write_run(root, "noisy", better(10.0, noise=40.0))
    return root


@pytest.fixture
def runs(written: Path, tmp_path: Path) -> Path:
    """Copies of the same runs, for every step of an episode is synced to the disk when it is written."""
    return Path(shutil.copytree(written, tmp_path / "runs"))


def invoke(runs: Path, *arguments: str) -> Any:
    verb, *rest = arguments
    return CliRunner().invoke(cli, ["eval", verb, "--runs", str(runs), *rest], catch_exceptions=False)


def gate(runs: Path, run: str, *arguments: str) -> Any:
    return invoke(runs, "gate", run, "--baseline", "before", *arguments)


def seen_run(runs: Path, name: str = "seen") -> Path:
    """A run whose weights were trained on two of its tasks, one of them with the same seed."""
    data = dataset(runs.parent / "data", [("x", 0)])
    manifest = data / "manifest.json"
    text = manifest.read_text().replace('"lab"', '"minilab"').replace('"x"', '"t03"')
    manifest.write_text(text)
    model = weights(runs.parent / "m", dataset={"folder": str(data), "content": "c0ffee"})
    write_run(runs, name, better(10.0), config={"model": {"path": str(model)}})
    return data


def test_runs_are_compared_with_intervals(runs: Path) -> None:
    done = invoke(runs, "compare", "before", "after", "noisy")
    assert done.exit_code == 0
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["before", "after", "noisy", "", "after", "noisy"]
    assert lines[4][3:5] == ["16", "8"] and lines[4][7].startswith("+10.")
    assert "final: last submission; best: best submission" in done.stderr
    assert "whether after was trained on these tasks is not known" in done.stderr


def test_a_comparison_as_json_names_its_rules(runs: Path) -> None:
    found = json.loads(
        invoke(
            runs,
            "compare",
            "after",
            "before",
            "--baseline",
            "before",
            "--json",
            "--selection",
            "best by validation score",
        ).stdout
    )
    assert found["selection"]["score"] == "last submission"
    assert found["selection"]["checkpoint"] == "best by validation score"
    (only,) = found["comparisons"]
    assert (only["run"], only["baseline"], only["pairs"]) == ("after", "before", 16)
    assert only["difference"]["low"] < 10 < only["difference"]["high"]
    assert found["seen"][0]["unknown"] and (found["interval"], found["seed"]) == (0.95, 0)


@pytest.mark.parametrize("figure", ["score", "best", "success", "steps"])
def test_every_figure_can_be_compared(runs: Path, figure: str) -> None:
    found = json.loads(invoke(runs, "compare", "before", "after", "--figure", figure, "--json").stdout)
    assert found["comparisons"][0]["figure"] == figure


def test_rows_by_task_and_domain(runs: Path) -> None:
    found = json.loads(invoke(runs, "compare", "before", "after", "--by", "task", "--json").stdout)
    assert [each["group"] for each in found["comparisons"]] == ["all", *(f"minilab/t{task:02d}" for task in range(8))]
    assert sum(each["pairs"] for each in found["comparisons"][1:]) == found["comparisons"][0]["pairs"] == 16
    shown = invoke(runs, "compare", "before", "after", "--by", "domain").stdout
    assert shown.count("\tminilab\t") == 3


def test_missing_pairs_are_named(runs: Path) -> None:
    episodes = better(10.0)
    episodes[3] = episodes[3]._replace(score=None, status="failed")
    write_run(runs, "holes", episodes[:-1], launched=17)
    done = invoke(runs, "compare", "before", "holes")
    assert "1 without a partner: holes: no score (failed): minilab/t01 seed 1" in done.stderr
    assert "1 without a partner: holes: not among its episodes: minilab/t07 seed 1" in done.stderr
    assert "holes: 2 left out: not started: holes/15, holes/16" in done.stderr
    counted = json.loads(invoke(runs, "compare", "before", "holes", "--unscored", "zero", "--json").stdout)
    assert counted["comparisons"][0]["pairs"] == 15


# ---- the gate


@pytest.mark.parametrize(
    ("run", "arguments", "code", "says"),
    [
        ("after", ["--min-gain", "5"], 0, "yes"),
        ("after", ["--min-gain", "0.1", "--relative"], 0, "yes"),
        ("after", ["--min-gain", "20"], 5, "no"),
        ("after", ["--min-gain", "0.9", "--relative"], 5, "no"),
        ("after", ["--min-gain", "10"], 6, "cannot be told"),
        ("noisy", ["--min-gain", "5"], 6, "cannot be told"),
        ("after", ["--min-gain", "5", "--min-pairs", "17"], 6, "cannot be told"),
        ("after", ["--min-gain", "0.5", "--figure", "success"], 5, "no"),
        ("after", ["--min-gain", "0.3", "--figure", "success", "--success-at", "30"], 6, "cannot be told"),
    ],
)
def test_the_gates_exit_codes(runs: Path, run: str, arguments: list[str], code: int, says: str) -> None:
    done = gate(runs, run, *arguments)
    assert (done.exit_code, done.stdout.partition(":")[0]) == (code, says), done.stdout
    as_json = gate(runs, run, *arguments, "--json")
    assert as_json.exit_code == code and json.loads(as_json.stdout)["verdict"]["says"] == says


def test_a_gate_over_half_a_run_cannot_tell(runs: Path) -> None:
    write_run(runs, "half", better(10.0)[:12])
    done = gate(runs, "half", "--min-gain", "5")
    assert done.exit_code == 6 and "4 episodes (25%) have no partner" in done.stdout
    assert gate(runs, "half", "--min-gain", "5", "--max-unpaired", "0.25").exit_code == 0


def test_a_gate_over_an_empty_run_cannot_tell(runs: Path) -> None:
    write_run(runs, "empty", [], launched=4)
    done = gate(runs, "empty", "--min-gain", "5", "--max-unpaired", "1")
    assert done.exit_code == 6 and "0 pairs, 10 are needed" in done.stdout


def test_without_variance_the_gate_can_tell(runs: Path) -> None:
    write_run(runs, "constant", better(10.0, noise=0.0))
    assert gate(runs, "constant", "--min-gain", "10").exit_code == 0
    assert gate(runs, "constant", "--min-gain", "10.1").exit_code == 5


# ---- what was trained on


@pytest.mark.parametrize("verb", ["compare", "gate", "table"])
def test_trained_tasks_close_every_verb(runs: Path, verb: str) -> None:
    data = seen_run(runs)
    words = {
        "compare": ["compare", "before", "seen"],
        "gate": ["gate", "seen", "--baseline", "before", "--min-gain", "5"],
        "table": ["table", "seen"],
    }[verb]
    done = invoke(runs, *words)
    assert done.exit_code == 5 and (verb != "gate" or done.stdout.startswith("no: "))
    told = f"1 tasks of seen were trained on (2 episodes, 1 of them with the same seed; {data}): minilab/t03"
    assert f"fault: {told}" in done.stderr and "--allow-seen" in done.stderr
    allowed = invoke(runs, *words, "--allow-seen")
    assert allowed.exit_code == 0 and f"note: {told}" in allowed.stderr


def test_tasks_that_were_not_trained_on_are_no_fault(runs: Path) -> None:
    data = dataset(runs.parent / "other", [("t03", 0)])  # of another family
    model = weights(runs.parent / "m", dataset={"folder": str(data)})
    write_run(runs, "clean", better(10.0), config={"model": {"path": str(model)}})
    done = gate(runs, "clean", "--min-gain", "5")
    assert done.exit_code == 0 and f"no task of clean is in {data}" in done.stderr


# ---- tables


def test_tables_for_a_paper(runs: Path) -> None:
    markdown = invoke(runs, "table", "before", "after").stdout
    assert markdown.startswith("| run | episodes |") and "| after | before | score | 16 | 8 |" in markdown
    latex = invoke(runs, "table", "before", "after", "--format", "latex").stdout
    assert latex.count(r"\begin{tabular}") == 2 == latex.count(r"\bottomrule") and r"cost \$" in latex
    figures, differences = invoke(runs, "table", "before", "after", "--format", "csv").stdout.strip().split("\n\n")
    rows = list(csv.DictReader(io.StringIO(figures)))
    assert [row["run"] for row in rows] == ["before", "after"]
    (only,) = csv.DictReader(io.StringIO(differences))
    gain = float(rows[1]["score"]) - float(rows[0]["score"])
    assert float(only["difference"]) == pytest.approx(gain)
    assert json.loads(invoke(runs, "table", "after", "--format", "json").stdout)["comparisons"] == []


def test_figures_of_one_run(runs: Path) -> None:
    done = invoke(runs, "table", "after", "--pass-at", "2", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert (row["episodes"], row["tasks"], row["seeds_least"], row["cost_known"]) == ("16", "8", "2", "16")
    assert row["pass_at_2"] == "0.0"
    newest = CliRunner().invoke(cli, ["eval", "--runs", str(runs)], catch_exceptions=False)
    assert newest.exit_code == 0 and newest.stdout.split("\t")[1] == "16"


def test_one_task_alone(runs: Path) -> None:
    write_run(runs, "one-a", [Played("t", seed, 30.0 + seed) for seed in range(12)])
    write_run(runs, "one-b", [Played("t", seed, 42.0 + seed) for seed in range(12)])
    done = invoke(runs, "gate", "one-b", "--baseline", "one-a", "--min-gain", "10")
    assert done.exit_code == 0 and "12 pairs of 1 tasks" in done.stdout


def test_the_reference_solutions_score_is_the_default_of_both() -> None:
    assert Options(Path()).success_at == SUCCESS_AT


# ---- bad input


def test_an_empty_run_is_one_clear_line(runs: Path) -> None:
    write_run(runs, "empty", [], launched=4)
    for words in (["compare", "before", "empty"], ["table", "empty"]):
        with pytest.raises(HpcError, match="run empty has no episode that counts: 4 not started") as raised:
            invoke(runs, *words)
        assert raised.value.exit_code == 1 and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["compare", "before"], "one run cannot be compared"),
        (["compare", "before", "before"], "run before is named twice"),
        (["compare", "before", "nobody"], "no run directory"),
        (["gate", "before", "--baseline", "before", "--min-gain", "1"], "run before is named twice"),
    ],
)
def test_what_cannot_be_compared_is_said(runs: Path, words: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        invoke(runs, *words)


def test_runs_under_other_terms_are_pointed_out(runs: Path) -> None:
    write_run(runs, "x", BASE, config={"task": {"budget": 16, "split": "eval"}})
    write_run(runs, "y", BASE, config={"task": {"budget": 10, "split": "eval"}})
    assert "x and y differ in task.budget 16 and 10" in invoke(runs, "compare", "x", "y").stderr
