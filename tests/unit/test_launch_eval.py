"""What `hpc eval submit` makes of the words of a command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc.config import compose
from hpc.core.errors import UsageError
from hpc.launch_eval import episodes_config, subjects_of


def test_endpoints_folders_and_shipped_models_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    subjects = subjects_of(["org/big=http://h:1/v1", str(tmp_path / "mine"), "shipped:minilab-tiny"], tmp_path)
    assert [(each.label, bool(each.weights)) for each in subjects] == [
        ("org-big", False), ("mine", True), ("minilab-tiny", True)
    ]  # fmt: skip
    config = compose("eval", ["eval.name=e", "eval.tasks=3", "eval.seeds=4", "eval.first=5"])
    first, second, _ = (episodes_config(config, each) for each in subjects)
    assert (first.server.kind, first.server.urls, first.model.name) == ("external", ["http://h:1/v1"], "org/big")
    assert (second.server.kind, second.run.name, second.model.path) == ("vllm", "e-mine", str(tmp_path / "mine"))
    for each in (first, second):
        assert (each.run.episodes, each.run.first, each.task.repeats, each.task.split) == (12, 20, 4, "eval")
        assert not each.drift.enabled and each.annotators.kind == "none"


def test_a_run_that_is_no_training_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no training, no folder of weights"):
        subjects_of(["absent@3"], tmp_path)
