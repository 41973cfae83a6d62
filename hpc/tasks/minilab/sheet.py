"""What an expert knows: the hidden facts as advice, and which values each episode will meet."""

from __future__ import annotations

from typing import TypedDict

from hpc.config.task import TaskConfig
from hpc.tasks.minilab.facts import fact_table
from hpc.tasks.minilab.instances import make_instance


class SheetFact(TypedDict):
    """One fact and the sentence that says it."""

    value: str
    knob: str
    option: str
    advice: str


class Sheet(TypedDict):
    """All facts, and episode id -> its values in the order of its stages."""

    facts: list[SheetFact]
    episodes: dict[str, list[str]]


def expert_sheet(config: TaskConfig, run_name: str, count: int, first: int = 0) -> Sheet:
    """The sheet for episodes ``0 .. count-1`` of a run, which play instances from ``first`` on.

    It answers every question of a MiniLab: keep it from the agent.
    """
    facts = fact_table(config.facts_seed).values()
    return {
        "facts": [
            {"value": fact.value, "knob": fact.knob, "option": fact.option, "advice": fact.advice} for fact in facts
        ],
        "episodes": {
            f"{run_name}-{index:05d}": [
                stage.value for stage in make_instance(config.split, config.seed, first + index).stages
            ]
            for index in range(count)
        },
    }
