"""A MiniLab workspace simulated in this process: the texts of the real gym, without shells.

The lab is the real one (`hpc.tasks.minilab.lab`) and so are the words (`hpc.gym.render`); an
integration test plays the same actions here and in the real gym and compares every observation.
"""

from __future__ import annotations

import json
import random
from typing import Any

from hpc.gym import render
from hpc.tasks.minilab.facts import Fact
from hpc.tasks.minilab.instances import Instance
from hpc.tasks.minilab.lab import LabState, Printout, blank_recipe, experiment, score
from hpc.tasks.minilab.task import describe

RUN = "python experiment.py"
FILES = ("experiment.py", "recipe.yaml", "task_description.md")


class Bench:
    """One simulated episode.

    Args:
        polls: how many looks a background run shows as running before it is done.
        early: whether the last of these looks shows the output already.
        computer: the host that sessions say they run on.
    """

    def __init__(
        self,
        instance: Instance,
        facts: dict[str, Fact],
        *,
        budget: int = 16,
        evaluations: int = 3,
        polls: int = 1,
        early: bool = False,
        computer: str = "localhost",
    ) -> None:
        self.instance = instance
        self.facts = facts
        self.budget = budget
        self.evaluations = evaluations
        self.polls = polls
        self.early = early
        self.computer = computer
        self.lab = LabState()
        self.recipe = blank_recipe().splitlines()
        self.finished = False
        self.malformed = 0
        self._sessions: dict[str, Printout | None] = {}
        self._looks_left = 0

    @property
    def description(self) -> str:
        return describe(self.instance, self.budget)

    @property
    def complete(self) -> bool:
        """Whether every stage has passed."""
        return len(self.lab.passed) == len(self.instance.stages)

    @property
    def score(self) -> float:
        """What the hidden evaluator says now."""
        return score(self.instance, self.budget, self.lab, self._text())[0]

    def act(self, name: str, arguments: dict[str, Any]) -> str:
        """Carry one action out; the observation."""
        try:
            match name:
                case "create_session":
                    return self._create(arguments["session_id"])
                case "run_command":
                    return self._run(arguments)
                case "get_session_output":
                    return self._look(arguments["session_id"])
                case "edit_file":
                    return self._edit(arguments)
                case "open_file" if arguments["path"] == "recipe.yaml":
                    return render.file_opened("recipe.yaml", self.recipe, 1, len(self.recipe))
                case "list_files":
                    return render.file_listing(FILES)
                case "eval" if self.evaluations > 0:
                    self.evaluations -= 1
                    return render.evaluated(
                        *score(self.instance, self.budget, self.lab, self._text()), left=self.evaluations
                    )
                case "finish":
                    self.finished = True
                    return render.finished()
        except (KeyError, TypeError, ValueError):
            pass
        self.malformed += 1
        return render.problem(f"{name} cannot be taken")

    def _text(self) -> str:
        return "\n".join(self.recipe) + "\n"

    def _create(self, session: str) -> str:
        if session in self._sessions:
            return render.problem(f"session {session} exists already")
        self._sessions[session] = None
        return render.session_created(session, self.computer)

    def _run(self, arguments: dict[str, Any]) -> str:
        session = arguments["session_id"]
        if arguments["command"] != RUN:
            raise ValueError
        self.lab, printout = experiment(self.instance, self.facts, self.budget, self.lab, self._text())
        self._sessions[session] = printout
        if arguments.get("wait_for_completion", False):
            return render.command_done("\n".join(printout.lines), printout.exit_code)
        self._looks_left = self.polls
        return render.command_started(session)

    def _look(self, session: str) -> str:
        if session not in self._sessions:
            return render.problem(f"no session {session}")
        printout = self._sessions[session]
        if printout is None:
            return render.session_output("", False, None)
        if self._looks_left > 0:
            self._looks_left -= 1
            output = "\n".join(printout.lines) if self.early and self._looks_left == 0 else ""
            return render.session_output(output, True, None)
        return render.session_output("\n".join(printout.lines), False, printout.exit_code)

    def _edit(self, arguments: dict[str, Any]) -> str:
        first, last = int(arguments["start"]), int(arguments["end"])
        if arguments["path"] != "recipe.yaml" or not 1 <= first <= last <= len(self.recipe):
            raise ValueError
        self.recipe[first - 1 : last] = str(arguments["content"]).split("\n")
        return render.file_edited("recipe.yaml", first, last, len(self.recipe))


def tool_call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """An action as the assistant turn that takes it."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": f"call-{random.getrandbits(32):08x}", "type": "function", "function": function}],
    }
