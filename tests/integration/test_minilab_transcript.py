"""The simulated bench, on which the tiny policy is trained, against the gym with a real bash."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from hpc.config.gym import GymConfig
from hpc.config.task import TaskConfig
from hpc.core.locate import data_dir
from hpc.gym.environment import Gym
from hpc.gym.task import Task
from hpc.tasks import load_task
from hpc.tasks.minilab.facts import KNOBS, fact_table
from hpc.trajectories.records import Action

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
CONFIG = TaskConfig(seconds_per_run=0.0)


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])


def gym_config() -> GymConfig:
    return msgspec.convert(yaml.safe_load((data_dir("configs") / "gym" / "minilab.yaml").read_text()), GymConfig)


def scripted(index: int, seed: int, good: float) -> list[tuple[str, dict[str, Any]]]:
    """Actions of an episode that finds the right option with probability ``good`` at each try."""
    from tiny_policy import teacher

    rng = random.Random(seed)
    stages = load_task(CONFIG, index).instance.stages
    facts = fact_table(CONFIG.facts_seed)
    actions: list[tuple[str, dict[str, Any]]] = [
        ("list_files", {}),
        ("open_file", {"path": "recipe.yaml"}),
        teacher.session_action(),
        teacher.look_action(),
        teacher.run_action(True),  # the recipe is blank
    ]
    passed = runs = 0
    while passed < len(stages) and runs < CONFIG.budget:
        stage = stages[passed]
        right = facts[stage.value].option
        option = right if rng.random() < good else rng.choice(KNOBS[stage.knob])
        actions += [teacher.edit_action(stage.knob, option), teacher.run_action(True)]
        passed += option == right
        runs += 1
    return [*actions, teacher.run_action(True), ("eval", {}), ("open_file", {"path": "recipe.yaml"}), ("finish", {})]


@pytest.mark.parametrize(("index", "good"), [(0, 1.0), (1, 0.6), (2, 0.2)], ids=["right", "mixed", "budget spent"])
async def test_every_observation_is_the_same_as_in_the_gym(tmp_path, index, good):
    from tiny_policy.bench import Bench

    task: Task = load_task(CONFIG, index)
    bench = Bench(load_task(CONFIG, index).instance, fact_table(CONFIG.facts_seed))
    gym = Gym(task, tmp_path / "workspace", tmp_path / "task.json", gym_config())
    try:
        assert await gym.start() == bench.description
        simulated, real = [], []
        for name, arguments in scripted(index, index, good):
            simulated.append(bench.act(name, arguments))
            observation = await gym.step(Action(name=name, arguments=arguments))
            real.append(observation.text)
        assert simulated == real
        assert bench.finished and bench.malformed == 0
        assert (await gym.final_evaluation()).score == pytest.approx(bench.score)
    finally:
        await gym.close()


async def test_background_runs_read_the_same_once_they_are_done(tmp_path):
    from tiny_policy import teacher
    from tiny_policy.bench import Bench

    config = TaskConfig(seconds_per_run=0.2)
    task = load_task(config, 0)
    stage = task.instance.stages[0]
    edit = teacher.edit_action(stage.knob, fact_table(config.facts_seed)[stage.value].option)
    bench = Bench(task.instance, fact_table(config.facts_seed), polls=0)
    gym = Gym(task, tmp_path / "workspace", tmp_path / "task.json", gym_config())
    try:
        await gym.start()
        for name, arguments in (teacher.session_action(), edit, teacher.run_action(False)):
            assert (await gym.step(Action(name=name, arguments=arguments))).text == bench.act(name, arguments)
        name, arguments = teacher.look_action()
        looks: list[str] = []
        while not looks or looks[-1].endswith("[running]"):
            await asyncio.sleep(0.02)  # as long as a model takes to answer
            looks.append((await gym.step(Action(name=name, arguments=arguments))).text)
        done = bench.act(name, arguments)
        assert looks[-1] == done
        assert set(looks[:-1]) <= {"[running]", done.replace("[exit 0]", "[running]")}
    finally:
        await gym.close()


async def test_spent_runs_survive_a_new_process_of_the_gym(tmp_path):
    from tiny_policy import teacher

    actions = scripted(1, 1, 0.0)[:9]  # the opening, then two runs
    texts = []
    for part in (actions[:7], actions[7:]):
        gym = Gym(load_task(CONFIG, 1), tmp_path / "workspace", tmp_path / "task.json", gym_config())
        await gym.start()
        try:
            texts += [(await gym.step(Action(name=name, arguments=arguments))).text for name, arguments in part]
        finally:
            await gym.close()
    gym = Gym(load_task(CONFIG, 1), tmp_path / "workspace", tmp_path / "task.json", gym_config())
    await gym.start()
    try:
        name, arguments = "eval", {}
        assert "2 of 16 runs" in (await gym.step(Action(name=name, arguments=arguments))).text
        name, arguments = teacher.run_action(True)
        assert "stage 1 metric" in (await gym.step(Action(name=name, arguments=arguments))).text
    finally:
        await gym.close()
    assert sum("metric" in text for text in texts) == 2


def test_demonstrations_are_well_formed_and_follow_advice():
    """What is taught is what is wanted: checked on the text alone."""
    from tiny_policy.teacher import demonstrate

    edits = obeyed = 0
    for seed in range(60):
        demonstration = demonstrate(random.Random(seed))
        said = [str(message.get("content")) for message in demonstration.messages]
        for position, message in enumerate(demonstration.messages):
            if not message.get("tool_calls") or not demonstration.taught[position]:
                continue
            function = message["tool_calls"][0]["function"]
            arguments = json.loads(function["arguments"])
            assert list(arguments) == sorted(arguments)
            if function["name"] != "edit_file":
                continue
            knob, option = arguments["content"].split(": ")
            assert option in KNOBS[knob]
            assert arguments["start"] == arguments["end"] == list(KNOBS).index(knob) + 1
            edits += 1
            before = "\n".join(said[:position])
            due = before.rpartition(f"next {knob} for ")[2].split("\n")[0]
            obeyed += f"for {due} set {knob} to {option}" in before
    assert edits > 300
    assert obeyed > edits / 8
