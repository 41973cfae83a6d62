"""Guidance in the training context: kept, dropped, or dropped at random.

Whether the advice stays in the context decides what is learned: kept, the right action can be copied from
it and the reason for it need not be known; dropped, the agent learns to act without being told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from hpc.config.dataset import GuidanceOption
from hpc.core.errors import DatasetError
from hpc.datasets.segments import Cut, StepIds
from hpc.datasets.template import Template
from hpc.trajectories.records import GuidanceApplied
from hpc.trajectories.turns import real_user


class NotFound(DatasetError):
    """A turn of guidance is not in the stored ids exactly once."""


class Dropper:
    """Decides which turns of an episode are dropped, and finds them.

    Args:
        seed: with the guidance's id decides which are dropped.
        probability: of being dropped; 1 for all.
    """

    def __init__(
        self,
        template: Template,
        guidance: Sequence[GuidanceApplied],
        option: GuidanceOption,
        probability: float,
        seed: int,
    ) -> None:
        self._template = template
        chance = {"keep": 0.0, "drop": 1.0, "random": probability}[option]
        self._by_step: dict[int, list[GuidanceApplied]] = {}
        self._kept_texts: set[str] = set()
        self.dropped = self.kept = 0
        for one in guidance:
            if _draw(seed, one.id) < chance:
                self._by_step.setdefault(one.applied_step + 1, []).append(one)
                self.dropped += 1
            else:
                self._kept_texts.add(one.text.strip())
                self.kept += 1

    def cuts(self, step: int, ids: Sequence[int], whole: bool) -> list[Cut]:
        """The dropped turns in prompt ids of a step.

        Args:
            ids: the whole prompt, or what is new in it.
            whole: which of the two. A whole prompt is looked through for all dropped turns so far: a
                rewritten context repeats them, unless what was rewritten took their place.

        Raises:
            NotFound: one that must be there is not, or its words are left behind (a summary quotes them);
                the episode cannot be used with this option.
        """
        numbers = [number for number in self._by_step if number == step or (whole and number < step)]
        found: list[Cut] = []
        for number in sorted(numbers):
            for one in self._by_step[number]:
                turn, written = self._template.user_turn(real_user(one.text))
                places = [cut for cut in _places(ids, turn) if cut not in found]
                if not places and number == step:
                    raise NotFound(f"guidance {one.id} is not in the prompt of step {step}", "keep it in the context")
                if not places:
                    continue
                if self._template.decode(ids[places[0].start : places[0].end]) != written:
                    raise NotFound(f"guidance {one.id} does not read in step {step} as it was said", "keep it")
                found.append(places[0])  # the same words twice are the same whichever goes
        if whole and numbers:
            self._check_gone(step, ids, found, numbers)
        return found

    def _check_gone(self, step: int, ids: Sequence[int], found: Sequence[Cut], numbers: Sequence[int]) -> None:
        """Raise where a marked turn of what was dropped is left, however it was tokenised or quoted."""
        kept: list[int] = []
        position = 0
        for cut in sorted(found, key=lambda cut: cut.start):
            kept += ids[position : cut.start]
            position = cut.end
        text = self._template.decode([*kept, *ids[position:]])
        for number in numbers:
            for one in self._by_step[number]:
                if one.text.strip() not in self._kept_texts and one.text.strip() in text:
                    raise NotFound(f"the words of guidance {one.id} are left in step {step}", "keep it in the context")

    def check(self, steps: Mapping[int, StepIds]) -> None:
        """Raise unless the prompt that each dropped turn entered is among the steps, or came after the last."""
        for number in self._by_step:
            if number not in steps and number <= max(steps, default=0):
                raise NotFound(f"step {number}, which guidance entered, is missing", "keep guidance in the context")


def _draw(seed: int, guidance: str) -> float:
    """A number in [0, 1) that belongs to a turn, whatever else is in the dataset."""
    digest = hashlib.sha256(f"{seed}:{guidance}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _places(ids: Sequence[int], wanted: Sequence[int]) -> list[Cut]:
    """Where ``wanted`` is in ``ids``."""
    length = len(wanted)
    return [
        Cut(start, start + length)
        for start in range(len(ids) - length + 1)
        if list(ids[start : start + length]) == list(wanted)
    ]
