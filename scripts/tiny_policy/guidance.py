"""What people write to an agent in a MiniLab: the expert's own words, and many other ways to say it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hpc.tasks.minilab.facts import Fact

CORES = (
    "for {value} {verb} {option}",
    "{verb} {option} for {value}",
    "{verb} {option} with {value}",
    "set {knob} to {option} for {value}",
    "{verb} {knob} {option} for {value}",
    "{value} {wants} {option}",
    "{value} {wants} {knob} {option}",
    "{knob} {must} {option} for {value}",
    "{knob} {must} {option} when it is {value}",
    "{option} {fits} {value}",
    "{knob} {option} {fits} {value}",
    "try {knob}: {option} with {value}",
    "with {value} {verb} {option}",
    "with {value} put {knob} at {option}",
    "if you see {value}, {verb} {option}",
    "the {knob} for {value} {must} {option}",
    "the right {knob} for {value} is {option}",
    "{value}: {option}",
    "{value}: {knob} {option}",
    "{value} -> {option}",
    "{value} = {option}",
    "{value} / {option}",
    "when it says {value}, set {knob} to {option}",
    "change {knob} to {option}, it is {value}",
    "not that, {value} {wants} {option}",
)
"""Ways to say a fact of the due or a later stage, besides `Fact.advice`."""

FILLERS = {
    "verb": ("use", "try", "take", "choose", "pick", "select", "put", "write", "apply"),
    "wants": ("needs", "wants", "takes", "requires", "is done with", "is best with", "works with", "goes with"),
    "must": ("is", "should be", "has to be", "needs to be"),
    "fits": ("is right for", "works for", "is best for", "is the one for", "suits"),
}
"""Words that may stand for one another."""

OPENERS = (
    "",
    "",
    "",
    "",
    "please ",
    "Please ",
    "I would say: ",
    "hint: ",
    "I think ",
    "now ",
    "remember: ",
    "better: ",
)
"""What a person may begin with."""

NAMELESS = (
    "set {knob} to {option}",
    "use {option}",
    "try {option}",
    "{knob} should be {option}",
    "{knob}: {option}",
    "no, {option}",
    "set it to {option}",
)
"""Ways that name no value: they are about the stage that is due."""

REMARKS = (
    "you are doing fine, go on",
    "keep going",
    "do not guess at random",
    "save your runs",
    "take your time",
    "good",
    "ok",
)
"""Turns without a fact: the agent goes on as it was."""

HELD_OUT = (
    "as for {value}, I recommend {option}",
    "{value} likes {option}",
    "go with {option} for {value}",
    "in case of {value} the {knob} ought to stand at {option}",
)
"""Never trained on; how well they are obeyed says how far the policy's reading goes."""

JOINTS = ("; ", "; ", "; ", "\n", ", ", ". ", " and ")


def say(facts: Sequence[Fact], rng: random.Random, *, paraphrase: float = 0.4) -> str:
    """One message with these facts: the expert's sentences, or with probability ``paraphrase``
    other words."""
    if rng.random() >= paraphrase:
        joint = rng.choice(JOINTS[:4]) if rng.random() < 0.5 else "; "
        return joint.join(fact.advice for fact in facts)
    wording = rng.choice(CORES)
    parts = []
    for fact in facts:
        if rng.random() < 0.3:
            wording = rng.choice(CORES)
        parts.append(fill(wording, fact, rng))
    text = rng.choice(OPENERS) + rng.choice(JOINTS).join(parts)
    return text + "." if rng.random() < 0.2 else text


def fill(wording: str, fact: Fact, rng: random.Random) -> str:
    """A fact in these words."""
    chosen = {name: rng.choice(words) for name, words in FILLERS.items()}
    return wording.format(value=fact.value, knob=fact.knob, option=fact.option, **chosen)
