"""The MiniLab task with its instrument on a real socket and experiments in real processes."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hpc.config.task import TaskConfig
from hpc.core.errors import EvaluatorError
from hpc.tasks import MiniLab, load_task
from hpc.tasks.minilab.facts import KNOBS, fact_table

CONFIG = TaskConfig(seconds_per_run=0.0)


class Attempt:
    """One process incarnation of an episode: the task, started, and what it persisted."""

    def __init__(self, workspace: Path, config: TaskConfig = CONFIG, state: dict[str, Any] | None = None) -> None:
        self.task = load_task(config, 0)
        self.workspace = workspace
        self.state: dict[str, Any] = state if state is not None else {}
        self.saved: list[str] = []
        self.first_save = asyncio.Event()
        self.environment: dict[str, str] = {}

    async def begin(self) -> Attempt:
        self.task.prepare(self.workspace)
        self.environment = await self.task.start(self.workspace, self.state, self._save)
        return self

    def _save(self) -> None:
        self.saved.append(json.dumps(self.state))
        self.first_save.set()

    def write(self, **options: str) -> None:
        lines = [f"{knob}: {options.get(knob, 'unset')}" for knob in KNOBS]
        (self.workspace / "recipe.yaml").write_text("\n".join(lines) + "\n")

    async def experiment(self) -> tuple[int, list[str]]:
        environment = {"PATH": os.environ["PATH"], **self.environment}
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", "exec python experiment.py",
            cwd=self.workspace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode().splitlines()


@pytest.fixture
async def attempt(tmp_path: Path) -> AsyncIterator[Attempt]:
    started = await Attempt(tmp_path).begin()
    yield started
    await started.task.stop()


def options(task: MiniLab, stages: int, *, right: bool = True) -> dict[str, str]:
    facts = fact_table(CONFIG.facts_seed)
    chosen = {}
    for stage in task.instance.stages[:stages]:
        option = facts[stage.value].option
        chosen[stage.knob] = option if right else next(o for o in KNOBS[stage.knob] if o != option)
    return chosen


async def test_right_recipe_passes_all_stages_and_scores_full(attempt):
    attempt.write(**options(attempt.task, 6))
    for number in range(1, 7):
        code, lines = await attempt.experiment()
        assert code == 0
        assert lines[0].startswith(f"stage {number} metric ") and lines[0].endswith("pass")
        assert attempt.task.progress("\n".join([*lines, "[exit 0]"])) == pytest.approx(number / 6)
    assert lines[-1] == "all stages passed"
    assert await attempt.task.evaluate(attempt.workspace) == (100.0, "6 of 6 stages, 6 of 16 runs")


async def test_every_run_is_durable_before_it_is_printed(attempt):
    attempt.write(**options(attempt.task, 1, right=False))
    for count in range(1, 4):
        _, lines = await attempt.experiment()
        assert lines[0].endswith("low")
        assert json.loads(attempt.saved[-1])["runs_used"] == count
    assert attempt.task.progress("\n".join(lines)) == 0


async def test_next_attempt_goes_on_with_the_runs_already_spent(tmp_path):
    first = await Attempt(tmp_path).begin()
    first.write(**options(first.task, 2))
    for _ in range(2):
        await first.experiment()
    await first.task.stop()
    code, lines = await first.experiment()
    assert code == 3 and lines == ["error: the instrument does not answer"]

    second = await Attempt(tmp_path, state=json.loads(first.saved[-1])).begin()
    try:
        assert second.environment["MINILAB_INSTRUMENT"] != first.environment["MINILAB_INSTRUMENT"]
        assert (await second.task.evaluate(tmp_path))[1] == "2 of 6 stages, 2 of 16 runs"
        second.write(**options(second.task, 3))
        _, lines = await second.experiment()
        assert lines[0].startswith("stage 3 ")
        assert json.loads(second.saved[-1])["runs_used"] == 3
    finally:
        await second.task.stop()


async def test_budget_holds_over_attempts(tmp_path):
    state = {"runs_used": 15, "passed": []}
    attempt = await Attempt(tmp_path, state=state).begin()
    try:
        attempt.write(**options(attempt.task, 1, right=False))
        assert (await attempt.experiment())[1][-1] == "no runs left"
        assert await attempt.experiment() == (1, ["no runs left"])
        assert attempt.state["runs_used"] == 16
    finally:
        await attempt.task.stop()


async def test_prepare_never_overwrites_the_agents_work(attempt):
    attempt.write(anneal="450C")
    before = (attempt.workspace / "recipe.yaml").read_text()
    attempt.task.prepare(attempt.workspace)
    assert (attempt.workspace / "recipe.yaml").read_text() == before


async def test_facts_are_neither_in_the_workspace_nor_in_the_environment(attempt):
    attempt.write(**options(attempt.task, 6))
    await attempt.experiment()
    attempt.write()
    texts = [path.read_text() for path in attempt.workspace.rglob("*") if path.is_file()]
    texts += attempt.environment.values()
    socket_folder = Path(attempt.environment["MINILAB_INSTRUMENT"]).parent
    texts += [str(path) for path in socket_folder.rglob("*")]
    everything = "\n".join(texts)
    facts = fact_table(CONFIG.facts_seed)
    assert len(texts) >= 6
    assert str(CONFIG.facts_seed) not in everything
    named = {stage.value for stage in attempt.task.instance.stages[:1]}  # the first value is public
    for fact in facts.values():
        assert fact.advice not in everything
        assert fact.value in named or fact.value not in everything.split()
    for line in everything.splitlines():
        assert not any(fact.value in line.split() and fact.option in line.split() for fact in facts.values())


async def test_experiments_cannot_import_the_library(attempt):
    python = Path(attempt.environment["PATH"].split(":")[0]) / "python"
    process = await asyncio.create_subprocess_exec(
        python, "-c", "import hpc.tasks", cwd=attempt.workspace, stderr=subprocess.PIPE, env=attempt.environment
    )
    _, errors = await process.communicate()
    assert process.returncode == 1 and b"ModuleNotFoundError" in errors


async def test_socket_is_private_and_goes_with_the_task(attempt):
    socket_path = Path(attempt.environment["MINILAB_INSTRUMENT"])
    assert stat.S_IMODE(socket_path.parent.stat().st_mode) == 0o700
    assert not socket_path.is_relative_to(attempt.workspace)
    assert len(str(socket_path)) < 104
    await attempt.task.stop()
    assert not socket_path.parent.exists()


async def test_long_tmpdir_does_not_break_the_socket(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    attempt = await Attempt(tmp_path).begin()
    try:
        attempt.write(**options(attempt.task, 1))
        assert (await attempt.experiment())[0] == 0
    finally:
        await attempt.task.stop()


@pytest.mark.parametrize(
    "request_bytes",
    [b"rubbish\n", b'{"recipe": 5}\n', b"[]\n", b'{"recipe": "cut', b"x" * 200_000 + b"\n", b"\xff\xfe\n", b"null\n"],
    ids=["text", "wrong type", "list", "cut", "too long", "bytes", "null"],
)
async def test_rubbish_spends_nothing_and_leaves_the_instrument_alive(attempt, request_bytes):
    reader, writer = await asyncio.open_unix_connection(attempt.environment["MINILAB_INSTRUMENT"])
    try:
        writer.write(request_bytes)
        writer.write_eof()
        answer = await reader.readline()
    except ConnectionError:
        answer = b""  # hung up on a flood: as good an answer
    finally:
        writer.close()
    if answer:
        assert json.loads(answer)["exit_code"] == 2
    assert attempt.saved == []
    attempt.write(**options(attempt.task, 1))
    assert (await attempt.experiment())[0] == 0


async def test_silent_connection_does_not_block_the_others(attempt):
    _, writer = await asyncio.open_unix_connection(attempt.environment["MINILAB_INSTRUMENT"])
    attempt.write(**options(attempt.task, 1))
    try:
        assert (await attempt.experiment())[0] == 0
    finally:
        writer.close()


async def test_killed_experiment_has_spent_its_run(tmp_path):
    attempt = await Attempt(tmp_path, TaskConfig(seconds_per_run=30.0)).begin()
    try:
        attempt.write(**options(attempt.task, 1))
        running = asyncio.create_task(attempt.experiment())
        await attempt.first_save.wait()
        await attempt.task.stop()  # does not wait for the instrument
        code, lines = await running
        assert code == 3 and lines == ["error: the instrument does not answer"]
        assert json.loads(attempt.saved[-1]) == {"runs_used": 1, "passed": list(options(attempt.task, 1).values())}
    finally:
        await attempt.task.stop()


async def test_experiment_without_recipe_or_instrument_says_so(attempt):
    (attempt.workspace / "recipe.yaml").unlink()
    code, lines = await attempt.experiment()
    assert code == 2 and lines == ["error: cannot read recipe.yaml: No such file or directory"]
    attempt.task.prepare(attempt.workspace)
    attempt.environment["MINILAB_INSTRUMENT"] = ""
    code, lines = await attempt.experiment()
    assert code == 3 and lines == ["error: the instrument does not answer"]


async def test_evaluation_of_a_missing_or_broken_recipe_is_zero_with_an_error(attempt):
    recipe = attempt.workspace / "recipe.yaml"
    recipe.write_text("set everything right\n")
    score, message = await attempt.task.evaluate(attempt.workspace)
    assert score == 0 and message.startswith("error: ")
    recipe.unlink()
    score, message = await attempt.task.evaluate(attempt.workspace)
    assert score == 0 and message.startswith("error: cannot read recipe.yaml")


async def test_evaluation_before_the_start_is_an_error(tmp_path):
    with pytest.raises(EvaluatorError):
        await load_task(CONFIG, 0).evaluate(tmp_path)


def test_progress_is_of_the_last_measurement():
    task = load_task(CONFIG, 0)
    assert task.progress("stage 1 metric 88 pass\nnext mix for ethanol\nstage 2 metric 20 low\n[exit 0]") == 1 / 6
    assert task.progress("stage 6 metric 88 pass\nall stages passed\n[exit 0]") == 1.0
    assert task.progress("[running]") is None
