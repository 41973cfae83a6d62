"""hpc dataset: building an arm, proving it, listing and exporting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from hpc.cli import cli
from hpc.core.errors import ConfigError, DatasetError, UsageError
from hpc.examples import Dataset
from hpc.trajectories.records import BranchPoint, EpisodeHeader
from tests.unit.datasets.scripted import episode, store

SAID = "for cobalt set anneal to 450C"


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli, ["dataset", *map(str, arguments)], catch_exceptions=False)


def value(*arguments: str | Path) -> Any:
    return json.loads(invoke(*arguments, "--json").stdout)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return store(tmp_path / "run", episode(4, guidance={2: [SAID]}), episode(3, name="demo-00001"))


def test_an_arm_is_built_proven_and_shown(files: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "sets"
    built = value("build", *files, "dataset=interaction_all", "--name", "guided", "--to", root)
    assert built["arm"] == "interaction_all" and built["examples"] == {"train": 1}
    assert built["left_out"] == {"no guidance in it": 1} and built["guidance"]["dropped"] == 1
    proven = value("verify", root / "guided")
    assert proven["ok"] and proven["compared"] == 1
    assert value("stats", root / "guided")["splits"]["train"]["trained_answers"] == 4
    (listed,) = value("ls", "--to", root)
    assert listed["name"] == "guided" and listed["guidance"] == "drop"
    shown = invoke("verify", root / "guided")
    assert shown.exit_code == 0 and "[[<tool_call>" in shown.stdout and "<|end|>]]" in shown.stdout
    assert invoke("stats", root / "guided").exit_code == 0


def test_a_dry_run_counts_and_writes_nothing(files: list[Path], tmp_path: Path) -> None:
    counted = value("build", *files, "--name", "all", "--to", tmp_path / "sets", "--dry-run")
    assert counted["trained_answers"] == 7 and not (tmp_path / "sets").exists()


def test_a_dataset_that_is_not_proven_closes_the_gate(files: list[Path], tmp_path: Path) -> None:
    invoke("build", *files, "--name", "all", "--to", tmp_path)
    shard = tmp_path / "all" / "shard-00000.h5"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    result = invoke("verify", tmp_path / "all", "--sample", "0")
    assert result.exit_code == 5 and "NOT proven" in result.stdout


def test_a_build_says_what_is_wrong_with_its_words(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no source"):
        invoke("build", "dataset=everything", "--name", "x", "--to", tmp_path)
    with pytest.raises(UsageError, match="no labels, and the filter needs them"):
        invoke("build", *files, "dataset=own_filter", "--name", "x", "--to", tmp_path)
    invoke("build", *files, "--name", "all", "--to", tmp_path)
    with pytest.raises(DatasetError, match="already"):
        invoke("build", *files, "--name", "all", "--to", tmp_path)


def test_the_filter_trains_what_the_labels_leave(files: list[Path], tmp_path: Path) -> None:
    def say(*words: str) -> None:
        done = CliRunner().invoke(cli, ["label", *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    for path in files:
        say("run", str(path))
    say("add", str(files[1]), "2", "--verdict", "suboptimal", "--reason", "pointless", "--author", "ada")
    built = value("build", *files, "dataset=own_filter", "--name", "x", "--to", tmp_path)
    assert built["trained_answers"] == 2 and built["context_only"] == {"human ada: pointless": 1}
    proven = value("verify", tmp_path / "x")
    assert proven["ok"] and proven["compared"] == 1
    about = json.loads((tmp_path / "x" / "manifest.json").read_text())["about"]
    assert about["rules"]["rollback"] == 1 and about["supervision"]["precedence"] == "rank"


def test_rollouts_carry_their_advantage_over_the_others_of_their_task(tmp_path: Path) -> None:
    scores = [("a", 10.0), ("a", 30.0), ("b", 50.0), ("b", 50.0)]
    episodes = [episode(3, name=f"demo-{n:05d}", task=task, score=score) for n, (task, score) in enumerate(scores)]
    files = store(tmp_path / "run", *episodes)
    built = value("build", *files, "dataset=rollouts", "--name", "r", "--to", tmp_path)
    assert built["rewards"] == {"minilab/a": [0.1, 0.3], "minilab/b": [0.5, 0.5]} and built["left_out"] == {
        "no difference in its group": 2
    }
    assert value("verify", tmp_path / "r")["ok"]
    with Dataset(tmp_path / "r") as found:
        for example, sign in zip(found, (-1.0, 1.0), strict=True):
            assert example.advantages is not None and example.logprobs is not None
            mask = example.loss_mask.astype(bool)
            assert example.advantages[mask] == pytest.approx(sign, abs=1e-4)
            assert not example.advantages[~mask].any() and not np.isnan(example.logprobs[mask]).any()
    with pytest.raises(ConfigError, match="must be keep"):
        invoke("build", *files, "dataset=rollouts", "dataset.guidance=drop", "--name", "x", "--to", tmp_path)


def test_what_a_branch_copied_is_trained_where_it_happened(tmp_path: Path) -> None:
    header, *rest = episode(4)
    assert isinstance(header, EpisodeHeader)
    branch = BranchPoint(episode_id="demo-00009", run="demo", index=9, step=2, abandoned=3, at=1.0)
    files = store(tmp_path / "run", [msgspec.structs.replace(header, branched_from=branch), *rest])
    built = value("build", *files, "--name", "b", "--to", tmp_path)
    assert built["trained_answers"] == 2
    assert built["context_only"] == {"copied from the episode that it branched off": 2}
    assert value("verify", tmp_path / "b")["ok"]


def test_an_export_names_what_is_lost(files: list[Path], tmp_path: Path) -> None:
    invoke("build", *files, "--name", "all", "--to", tmp_path)
    out = tmp_path / "out.jsonl"
    done = value("export", tmp_path / "all", "--format", "jsonl", "--for", "verl", "--out", out)
    assert done["written"] == 2 and any("token ids" in loss for loss in done["lost"])
    assert "note: lost" in invoke("export", tmp_path / "all", "--format", "jsonl", "--out", tmp_path / "b").stderr
