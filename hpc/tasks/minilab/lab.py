"""The laboratory itself: recipe text and what was done so far -> what the instrument prints. Pure."""

from __future__ import annotations

import hashlib

import msgspec

from hpc.tasks.minilab.facts import KNOBS, UNSET, Fact
from hpc.tasks.minilab.instances import Instance, Stage

REFERENCE_SCORE = 80.0
"""Score of a recipe that passes all stages, however many runs it took."""
FULL_SCORE = 100.0
"""Score of a recipe that passes all stages with one run each."""


class RecipeError(ValueError):
    """A recipe that is not six lines of ``knob: option``."""


class LabState(msgspec.Struct, frozen=True):
    """What an episode has done at its instrument.

    ``runs_used`` counts runs, ``passed`` holds the option with which each stage passed, in the
    order of the stages.
    """

    runs_used: int = 0
    passed: tuple[str, ...] = ()


class Printout(msgspec.Struct, frozen=True):
    """What a run prints, and the exit status of the program that prints it."""

    lines: tuple[str, ...]
    exit_code: int = 0


def blank_recipe() -> str:
    """The recipe an episode begins with: one line for each knob, all unset."""
    return "".join(f"{knob}: {UNSET}\n" for knob in KNOBS)


def read_recipe(text: str) -> dict[str, str]:
    """Knob -> option (or ``unset``), for all six knobs.

    Empty lines and comments are skipped; the order of the lines is free.

    Raises:
        RecipeError: a line that is not ``knob: option``, a word that is no knob or no option of
            its knob, a knob twice or not at all.
    """
    recipe: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        knob, colon, option = (part.strip() for part in words.partition(":"))
        if not colon:
            raise RecipeError(f"line {number} of recipe.yaml is not `knob: option`")
        if knob not in KNOBS:
            raise RecipeError(f"line {number} of recipe.yaml: unknown knob {knob[:40]!r}")
        if knob in recipe:
            raise RecipeError(f"line {number} of recipe.yaml: {knob} is there twice")
        if option != UNSET and option not in KNOBS[knob]:
            raise RecipeError(f"{knob} cannot be {option[:40]!r}, only one of {' '.join(KNOBS[knob])}")
        recipe[knob] = option
    missing = [knob for knob in KNOBS if knob not in recipe]
    if missing:
        raise RecipeError(f"recipe.yaml has no line for {missing[0]}")
    return recipe


def next_line(stage: Stage) -> str:
    """How the lab names the stage that is due."""
    return f"next {stage.knob} for {stage.value}"


def experiment(
    instance: Instance, facts: dict[str, Fact], budget: int, state: LabState, recipe_text: str
) -> tuple[LabState, Printout]:
    """One use of the instrument on the stage that is due.

    A recipe that cannot be read, or leaves the due knob unset, spends no run. The printed metric
    is drawn from the instance and the number of the run: above 80 when the stage passed, below 50
    when not, otherwise without meaning.
    """
    if len(state.passed) == len(instance.stages):
        return state, Printout(("all stages passed",))
    if state.runs_used >= budget:
        return state, Printout(("no runs left",), 1)
    stage = instance.stages[len(state.passed)]
    try:
        option = read_recipe(recipe_text)[stage.knob]
    except RecipeError as error:
        return state, Printout((f"error: {error}",), 2)
    if option == UNSET:
        return state, Printout((f"error: {stage.knob} is unset", next_line(stage)), 2)
    noise = hashlib.sha256(f"{instance.id}:{state.runs_used}".encode()).digest()
    number = len(state.passed) + 1
    if option == facts[stage.value].option:
        state = LabState(state.runs_used + 1, (*state.passed, option))
        lines = [f"stage {number} metric {80 + noise[0] % 20} pass"]
        done = len(state.passed) == len(instance.stages)
        lines.append("all stages passed" if done else next_line(instance.stages[number]))
    else:
        done = False
        state = LabState(state.runs_used + 1, state.passed)
        lines = [f"stage {number} metric {10 + noise[0] % 40} low"]
    if state.runs_used >= budget and not done:
        lines.append("no runs left")
    return state, Printout(tuple(lines))


def score(instance: Instance, budget: int, state: LabState, recipe_text: str) -> tuple[float, str]:
    """The hidden evaluator: score in [0, 100] and a sentence on it.

    A stage counts when it passed at the instrument and the recipe still holds the option it passed
    with. Linear from 0 (no stage) to `REFERENCE_SCORE` (all); the rest, to `FULL_SCORE`, is the
    share of runs saved when all stages count. A recipe that cannot be read scores 0.
    """
    try:
        recipe = read_recipe(recipe_text)
    except RecipeError as error:
        return 0.0, f"error: {error}"
    stages = len(instance.stages)
    kept = sum(recipe[stage.knob] == option for stage, option in zip(instance.stages, state.passed, strict=False))
    total = REFERENCE_SCORE * kept / stages
    if kept == stages and budget > stages:
        total += (FULL_SCORE - REFERENCE_SCORE) * (budget - state.runs_used) / (budget - stages)
    return total, f"{kept} of {stages} stages, {state.runs_used} of {budget} runs"
