"""The figures of a training: one line a step, also after what a killed process wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc.config.train import MetricsConfig
from hpc.core.errors import MissingExtra
from hpc.rundir import RunDir
from hpc.training.metrics import MetricsLog, keep_until, peak_of, read_metrics, utilization


def log_to(run: RunDir, step: int = 0, **changes: object) -> MetricsLog:
    config = MetricsConfig(**{"tensorboard": False, **changes})  # type: ignore[arg-type]
    return MetricsLog(run, config, step=step, settings={})


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_lines_are_read_as_written(run: RunDir) -> None:
    log = log_to(run)
    log.write("data", 0, {"rows": 3})
    log.write("step", 1, {"loss": 0.1 + 0.2})
    log.close()
    assert list(read_metrics(run.metrics)) == [
        {"kind": "data", "step": 0, "rows": 3},
        {"kind": "step", "step": 1, "loss": 0.1 + 0.2},
    ]
    assert [each["step"] for each in read_metrics(run.metrics, "step")] == [1]


def test_going_on_takes_back_what_lies_beyond_the_checkpoint(run: RunDir) -> None:
    log = log_to(run)
    for step in range(1, 6):
        log.write("step", step, {"loss": step})
    log.close()
    with run.metrics.open("a") as file:
        file.write('{"kind": "step", "st')
    log = log_to(run, step=3)
    log.write("step", 4, {"loss": 44})
    log.close()
    assert [(each["step"], each["loss"]) for each in read_metrics(run.metrics)] == [(1, 1), (2, 2), (3, 3), (4, 44)]


def test_no_file_is_no_line(tmp_path: Path) -> None:
    keep_until(tmp_path / "none", 3)
    assert list(read_metrics(tmp_path / "none")) == []


def test_tensorboard_has_the_numbers(run: RunDir) -> None:
    pytest.importorskip("tensorboard")
    log = log_to(run, tensorboard=True)
    log.write("step", 1, {"loss": 2.5, "verdict": "ok"})
    log.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    assert events.Tags()["scalars"] == ["step/loss"]
    assert events.Scalars("step/loss")[0].value == 2.5


def test_weights_and_biases_that_is_not_there_is_said_at_once(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(MissingExtra, match="needs wandb"):
        log_to(run, wandb="offline")


def test_the_share_of_the_peak() -> None:
    assert utilization(989e12, 2.0, 1, 989.0) == pytest.approx(0.5)
    assert (peak_of("NVIDIA H100 80GB HBM3"), peak_of("none")) == (989.0, None)
