from __future__ import annotations

import json

import pytest

from hpc.cli import main
from hpc.config.task import TaskConfig
from hpc.rundir import RunDir
from hpc.tasks import load_task, sheet


def hpc(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_sheet_names_every_fact_and_each_episodes_values_in_order():
    config = TaskConfig(split="eval", seed=4)
    made = sheet(config, "demo", 3, first=5)
    assert len(made["facts"]) == 120
    assert list(made["episodes"]) == ["demo-00000", "demo-00001", "demo-00002"]
    for index, values in enumerate(made["episodes"].values()):
        assert values == [stage.value for stage in load_task(config, 5 + index).instance.stages]
    for fact in made["facts"]:
        assert fact["advice"] == f"for {fact['value']} set {fact['knob']} to {fact['option']}"


def test_list_shows_both_splits(capsys):
    code, out, _ = hpc(capsys, "task", "list", "--json")
    assert code == 0
    assert {(row["task"], row["split"]) for row in json.loads(out)} >= {("minilab", "train"), ("minilab_eval", "eval")}
    assert "minilab_eval\tminilab\teval" in hpc(capsys, "task")[1]


def test_show_prints_what_the_agent_is_told(capsys):
    code, out, _ = hpc(capsys, "task", "show", "task=minilab_eval", "--instance", "3")
    assert code == 0
    assert out.strip() == load_task(TaskConfig(split="eval", seed=2), 3).description().strip()
    chosen = json.loads(hpc(capsys, "task", "show", "--instance", "2", "--json")[1])
    assert chosen["id"] == "minilab-train-1-00002" and chosen["split"] == "train"


def test_sheet_of_overrides(capsys):
    code, out, _ = hpc(capsys, "task", "sheet", "run.name=night", "run.episodes=2", "run.first=7", "--json")
    assert code == 0
    assert json.loads(out) == sheet(TaskConfig(), "night", 2, 7)
    assert len(hpc(capsys, "task", "sheet")[1].splitlines()) == 120


def test_sheet_of_a_run_and_of_one_episode(capsys, tmp_path):
    config = {"task": {"seed": 9}, "run": {"episodes": 2, "first": 1}}
    RunDir.create(tmp_path / "demo", manifest={}, config=config, config_hash="x")
    arguments = ["task", "sheet", "--run", "demo", "--runs", str(tmp_path)]
    code, out, _ = hpc(capsys, *arguments, "--json")
    assert code == 0
    assert json.loads(out) == sheet(TaskConfig(seed=9), "demo", 2, 1)
    rows = hpc(capsys, *arguments, "--episode", "demo-00001")[1].splitlines()
    assert [row.split("\t")[0] for row in rows] == sheet(TaskConfig(seed=9), "demo", 2, 1)["episodes"]["demo-00001"]
    assert hpc(capsys, *arguments, "--episode", "1")[1].splitlines() == rows


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["task", "sheet", "--run", "none"], "no run directory"),
        (["task", "sheet", "--run", "demo", "task=minilab"], "exclude each other"),
        (["task", "sheet", "--episode", "episodes-00099"], "no episode"),
        (["task", "show", "task=chess"], "chess"),
        (["task", "show", "task.budget=3"], "budget"),
        (["task", "show", "--instance", "-1"], "-1"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(capsys, tmp_path, arguments, said):
    code, out, err = hpc(capsys, *arguments, *(["--runs", str(tmp_path)] if "sheet" in arguments else []))
    assert code == 2 and out == ""
    assert said in err and "Traceback" not in err
