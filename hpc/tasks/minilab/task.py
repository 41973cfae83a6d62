"""MiniLab as a task of the gym: workspace files, the instrument, the hidden evaluation."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc.config.task import TaskConfig
from hpc.core import files
from hpc.core.errors import EvaluatorError
from hpc.core.locate import data_dir
from hpc.tasks.minilab.facts import KNOBS, fact_table
from hpc.tasks.minilab.instances import Instance, make_instance
from hpc.tasks.minilab.instrument import Instrument
from hpc.tasks.minilab.lab import LabState, Printout, blank_recipe, experiment, next_line, score

if TYPE_CHECKING:
    from jinja2 import Template

RECIPE = "recipe.yaml"
_MEASURED = re.compile(r"^stage (\d+) metric \d+ (pass|low)$", re.MULTILINE)


def describe(instance: Instance, budget: int) -> str:
    """The task description of an instance, as the agent reads it."""
    return _template().render(
        stages=len(instance.stages), knobs=KNOBS, budget=budget, first=next_line(instance.stages[0])
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = data_dir("templates") / "minilab"
    environment = Environment(loader=FileSystemLoader(folder), undefined=StrictUndefined, autoescape=False)
    return environment.get_template("task_description.md.j2")


class MiniLab:
    """One MiniLab instance as an agent's task.

    The facts live in this process alone: neither the workspace nor the sessions' environment holds
    them. The state that outlives a process is ``{"runs_used": int, "passed": [option, ...]}``.
    """

    family = "minilab"

    def __init__(self, config: TaskConfig, index: int) -> None:
        self.instance = make_instance(config.split, config.seed, index // config.repeats)
        self.id = self.instance.id
        self.split = config.split
        self.max_evaluations = config.max_evaluations
        self._budget = config.budget
        self._facts = fact_table(config.facts_seed)
        self._instrument = Instrument(self._use, config.seconds_per_run)
        self._state: dict[str, Any] | None = None
        self._save: Callable[[], None] = lambda: None

    def description(self) -> str:
        """What the agent is told."""
        return describe(self.instance, self._budget)

    def prepare(self, workspace: Path) -> None:
        """Lay out recipe.yaml, experiment.py and task_description.md where they are missing."""
        experiment_py = (data_dir("templates") / "minilab" / "experiment.py").read_text(encoding="utf-8")
        for name, text in (
            (RECIPE, blank_recipe()),
            ("experiment.py", experiment_py),
            ("task_description.md", self.description()),
        ):
            if not (workspace / name).exists():
                files.write_text(workspace / name, text)

    async def start(self, workspace: Path, state: dict[str, Any], save: Callable[[], None]) -> dict[str, str]:
        """Switch the instrument on, with the runs that earlier attempts have spent.

        Returns:
            Environment of the sessions.

        Raises:
            GymError: the instrument cannot listen.
        """
        state.setdefault("runs_used", 0)
        state.setdefault("passed", [])
        self._state, self._save = state, save
        await self._instrument.start()
        return self._instrument.environment

    async def evaluate(self, workspace: Path) -> tuple[float, str]:
        """Score in [0, 100] and a sentence; 0 with an error for a recipe that cannot be read.

        Raises:
            EvaluatorError: the task was not started.
        """
        state = self._lab_state()
        try:
            recipe = (workspace / RECIPE).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            return 0.0, f"error: cannot read {RECIPE}: {error.strerror}"
        return score(self.instance, self._budget, state, recipe)

    def progress(self, observation_text: str) -> float | None:
        """Share of stages passed as of the last measurement in a text; None without one."""
        measured: list[tuple[str, str]] = _MEASURED.findall(observation_text)
        if not measured:
            return None
        number, verdict = measured[-1]
        passed = int(number) if verdict == "pass" else int(number) - 1
        return min(passed / len(self.instance.stages), 1.0)

    async def stop(self) -> None:
        """Switch the instrument off."""
        await self._instrument.stop()

    def _lab_state(self) -> LabState:
        if self._state is None:
            raise EvaluatorError(f"task {self.id} was not started")
        return LabState(int(self._state["runs_used"]), tuple(self._state["passed"]))

    def _use(self, recipe: str) -> Printout:
        before = self._lab_state()
        after, printout = experiment(self.instance, self._facts, self._budget, before, recipe)
        if after != before and self._state is not None:
            self._state["runs_used"] = after.runs_used
            self._state["passed"] = list(after.passed)
            self._save()
        return printout
