"""Demonstrations: how an agent that knows the forms, but none of the facts, works in a MiniLab."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import yaml

from hpc.agent.loop import INTERRUPTED
from hpc.agent.prompts import opening_messages
from hpc.core.locate import data_dir
from hpc.gym import render
from hpc.gym.actions import ACTIONS
from hpc.tasks.minilab.facts import CATEGORIES, KNOBS, Fact, fact_table
from hpc.tasks.minilab.instances import Stage, make_instance
from hpc.trajectories.turns import real_user
from tiny_policy.bench import RUN, Bench, tool_call
from tiny_policy.guidance import NAMELESS, REMARKS, fill, say

SYSTEM = opening_messages("tiny", "")[0]
USUAL_TOOLS: list[str] = yaml.safe_load((data_dir("configs") / "gym" / "minilab.yaml").read_text())["actions"]
OTHER_TOOLS = [name for name in ACTIONS if name not in USUAL_TOOLS]
COMPUTERS = ("localhost", "localhost", "localhost", "127.0.0.1", "::1")
SESSION = "lab"

Message = dict[str, Any]


class Demonstration(NamedTuple):
    """A conversation. Of every message: whether the policy learns to say it (``taught``), and
    whether it is an edit whose option follows from what was said before (``known``)."""

    tools: list[str]
    messages: list[Message]
    taught: list[bool]
    known: list[bool]


class Habits(NamedTuple):
    """How one demonstrated episode goes."""

    look_first: float  # probability of list_files and of open_file at the start
    background: float  # probability that a run is started in the background
    advice_after: int  # failures in a row that bring advice; 0: never
    advice_ahead: int  # how many later stages it covers
    advice_late: int  # actions between the failure and its arrival
    chatter: float  # probability that some remark or fact arrives at any step
    wrong: float  # probability that a piece of advice is wrong
    unlucky: bool  # whether the right option is the last that is tried without advice
    slip: float  # probability of a mistake (not taught) before an action
    interrupted: float  # probability that a move of the job cuts an action


def habits(rng: random.Random) -> Habits:
    """Habits of one episode, from silence to constant advice."""
    advised = rng.random() < 0.65
    return Habits(
        look_first=0.2,
        background=rng.choice((0, 0, 0, 0, 0.1, 0.3)),
        advice_after=rng.choice((1, 2, 2, 2, 3)) if advised else 0,
        advice_ahead=rng.choice((0, 1, 2, 2, 2, 3, 5)),
        advice_late=rng.choice((0, 1, 1, 2)),
        chatter=rng.choice((0, 0, 0, 0.03, 0.15)) if advised else 0,
        wrong=rng.choice((0, 0, 0.1)),
        unlucky=rng.random() < 0.4,
        slip=rng.choice((0, 0, 0, 0.05)),
        interrupted=rng.choice((0, 0, 0, 0.04)),
    )


def session_action() -> tuple[str, dict[str, Any]]:
    return "create_session", {"session_id": SESSION}


def edit_action(knob: str, option: str) -> tuple[str, dict[str, Any]]:
    """Arguments in alphabetical order: they read the same whoever sorts them."""
    line = list(KNOBS).index(knob) + 1
    return "edit_file", {"content": f"{knob}: {option}", "end": line, "path": "recipe.yaml", "start": line}


def run_action(wait: bool) -> tuple[str, dict[str, Any]]:
    return "run_command", {"command": RUN, "session_id": SESSION, "wait_for_completion": wait}


def look_action() -> tuple[str, dict[str, Any]]:
    return "get_session_output", {"session_id": SESSION}


def opening(bench: Bench) -> list[Message]:
    """What an episode begins with."""
    return [
        SYSTEM,
        {"role": "user", "content": bench.description.strip()},
    ]


def some_tools(rng: random.Random) -> list[str]:
    """The usual tools, sometimes others."""
    names = list(USUAL_TOOLS)
    if rng.random() < 0.4:
        names += rng.sample(OTHER_TOOLS, rng.randint(1, len(OTHER_TOOLS)))
    if rng.random() < 0.2:
        rng.shuffle(names)
    return names


class Teacher:
    """Plays one episode and writes it down."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.habits = habits(rng)
        instance = make_instance("train", rng.getrandbits(32), 0)
        budget = rng.choice((16, 16, 16, 20, 12, 10, 9, 8, 7))
        self.bench = Bench(
            instance,
            fact_table(rng.getrandbits(32)),
            budget=budget,
            polls=rng.randint(0, 3),
            early=rng.random() < 0.3,
            computer=rng.choice(COMPUTERS),
        )
        self.messages = opening(self.bench)
        self.taught = [False, False]
        self.known = [False, False]
        self.told: dict[str, str] = {}  # value -> option, the newest advice
        self.nameless: str | None = None  # advice on the stage that is due
        self.tried: set[str] = set()
        self.chosen: str | None = None
        self.due: list[tuple[int, list[Fact]]] = []  # advice on its way: actions until it arrives
        self.stage_known = 0
        self.failures = 0

    def play(self) -> Demonstration:
        """The whole episode."""
        rng = self.rng
        openers = [("list_files", {})] * (rng.random() < self.habits.look_first)
        openers += [("open_file", {"path": "recipe.yaml"})] * (rng.random() < self.habits.look_first)
        openers.append(session_action())
        if rng.random() < 0.3:
            rng.shuffle(openers)
        for name, arguments in openers:
            self.take(name, arguments)
        while not self._over():
            self._try_option()
        self.take("eval", {})
        self.take("finish", {})
        return Demonstration(some_tools(rng), self.messages, self.taught, self.known)

    @property
    def stage(self) -> Stage:
        """The stage the agent believes to be due."""
        return self.bench.instance.stages[self.stage_known]

    def take(self, name: str, arguments: dict[str, Any], *, known: bool = False) -> str:
        """One action, perhaps after a slip; perhaps cut by a move of the job."""
        rng = self.rng
        if rng.random() < self.habits.slip:
            self._slip()
        self._say(tool_call(name, arguments), taught=True, known=known)
        cut = rng.random() < self.habits.interrupted and name in ("run_command", "edit_file", "get_session_output")
        if cut and rng.random() < 0.5:
            text = INTERRUPTED
        else:
            text = self.bench.act(name, arguments)
            text = INTERRUPTED if cut else text
        self._say({"role": "tool", "content": text}, taught=False)
        self._advise()
        return text

    def _over(self) -> bool:
        return "all stages passed" in self._last or "no runs left" in self._last

    @property
    def _last(self) -> str:
        for message in reversed(self.messages):
            if message["role"] == "tool":
                return str(message["content"])
        return ""

    def _say(self, message: Message, *, taught: bool, known: bool = False) -> None:
        self.messages.append(message)
        self.taught.append(taught)
        self.known.append(known)

    # ---- the work

    def _try_option(self) -> None:
        knob = self.stage.knob
        option = self._choose()
        while self.chosen != option:
            text = self.take(*edit_action(knob, option), known=option == self._advised())
            if text == INTERRUPTED:
                continue
            self.chosen = option
            option = self._choose()
        wait = self.rng.random() >= self.habits.background
        text = self.take(*run_action(wait))
        if not wait and text != INTERRUPTED:
            text = self.take(*look_action())
            while text.endswith("[running]"):
                text = self.take(*look_action())
        self._learn(text, option)

    def _choose(self) -> str:
        """Newest advice that was not tried since, else an option not tried yet, the recipe's own
        first: an edit that was not tested is not thrown away without a reason."""
        advised = self._advised()
        if advised is not None:
            return advised
        if self.chosen is not None and self.chosen not in self.tried:
            return self.chosen
        options = KNOBS[self.stage.knob]
        untried = [option for option in options if option not in self.tried] or list(options)
        right = self.bench.facts[self.stage.value].option
        if self.habits.unlucky and len(untried) > 1 and right in untried:
            untried.remove(right)
        return self.rng.choice(untried)

    def _advised(self) -> str | None:
        """The option that people want next, if they want one."""
        if self.nameless is not None:
            return self.nameless
        advised = self.told.get(self.stage.value)
        return None if advised in self.tried else advised

    def _learn(self, text: str, option: str) -> None:
        if " low" in text:
            self.tried.add(option)
            self.nameless = None
            self.failures += 1
            if self.habits.advice_after and self.failures % self.habits.advice_after == 0:
                self._call_expert()
        elif " pass" in text or "is unset" in text:
            self.stage_known = len(self.bench.lab.passed)
            self.tried, self.chosen, self.nameless, self.failures = set(), None, None, 0

    # ---- people

    def _call_expert(self) -> None:
        stages = self.bench.instance.stages[self.stage_known : self.stage_known + 1 + self.habits.advice_ahead]
        facts = [self._fact(stage.value) for stage in stages]
        self.due.append((self.habits.advice_late, facts))
        if self.habits.advice_late == 0:
            self._deliver(self.due.pop()[1])

    def _fact(self, value: str) -> Fact:
        fact = self.bench.facts[value]
        if self.rng.random() < self.habits.wrong:
            return Fact(value, fact.knob, self.rng.choice(KNOBS[fact.knob]))
        return fact

    def _advise(self) -> None:
        if self.stage_known == len(self.bench.instance.stages):
            return
        waiting = [(left - 1, facts) for left, facts in self.due]
        self.due = [(left, facts) for left, facts in waiting if left > 0]
        for left, facts in waiting:
            if left <= 0:
                self._deliver(facts)
        if self.rng.random() < self.habits.chatter:
            self._chatter()

    def _deliver(self, facts: list[Fact]) -> None:
        self.told.update({fact.value: fact.option for fact in facts})
        if any(fact.value == self.stage.value for fact in facts):
            self.nameless = None
        self._say({"role": "user", "content": real_user(say(facts, self.rng))}, taught=False)

    def _chatter(self) -> None:
        rng = self.rng
        kind = rng.random()
        if kind < 0.3:
            self._say({"role": "user", "content": real_user(rng.choice(REMARKS))}, taught=False)
        elif kind < 0.5 and len(self.messages) > 8 and not self._over():
            fact = self._fact(self.stage.value)
            if fact.option not in self.tried:
                self.nameless = fact.option
                self._say({"role": "user", "content": real_user(fill(rng.choice(NAMELESS), fact, rng))}, taught=False)
        else:
            every = [value for members in CATEGORIES.values() for value in members]
            later = [stage.value for stage in self.bench.instance.stages[self.stage_known :]]
            values = rng.sample(later, rng.randint(1, len(later))) + rng.sample(every, rng.randint(0, 2))
            self._deliver([self._fact(value) for value in dict.fromkeys(values)])

    def _slip(self) -> None:
        """A mistake and what comes of it. The next action mends it."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.5:
            said = rng.choice(("edit", "I will run it.", "<tool_call>{", '<tool_call>{"name": "eval"}</tool_call>'))
            self._say({"role": "assistant", "content": said}, taught=False)
            problem = f"no tool call in the answer ({said!r}); call one tool"
            self._say({"role": "user", "content": render.problem(problem)}, taught=False)
        else:
            name = rng.choice(("think", "list_files", "open_file"))
            arguments = {"think": {"thought": "hm"}, "list_files": {}, "open_file": {"path": "recipe.yml"}}[name]
            text = {"think": render.thought_logged(), "open_file": render.problem("no such file: recipe.yml")}.get(name)
            self._say(tool_call(name, arguments), taught=False)
            self._say({"role": "tool", "content": text or self.bench.act(name, arguments)}, taught=False)


def demonstrate(rng: random.Random) -> Demonstration:
    """One demonstrated episode: a fresh instance, fresh facts, fresh habits."""
    return Teacher(rng).play()
