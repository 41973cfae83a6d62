"""What people write to an agent in a MiniLab: the expert's own words, and many other ways to say it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hpc.tasks.minilab.facts import Fact

PARAPHRASES = (
    "for {value} use {option}",
    "use {option} for {value}",
    "set {knob} to {option} for {value}",
    "{value} needs {option}",
    "{value} needs {knob} {option}",
    "{value} wants {option}",
    "{knob} should be {option} for {value}",
    "{option} is right for {value}",
    "try {knob}: {option} with {value}",
    "try {option} for {value}",
    "with {value} choose {option}",
    "with {value} put {knob} at {option}",
    "the {knob} for {value} is {option}",
    "the right {knob} for {value} is {option}",
    "{value}: {option}",
    "{value}: {knob} {option}",
    "{value} -> {option}",
    "{value} = {option}",
    "I would take {option} for {value}",
    "please set {knob} to {option} when you have {value}",
    "when it says {value}, set {knob} to {option}",
    "{knob} {option} works for {value}",
    "change {knob} to {option}, it is {value}",
)
"""Ways to say a fact of the due or a later stage, besides `Fact.advice`."""

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
    "you should set {knob} to {option} for {value}",
    "{value} likes {option}",
    "go with {option} for {value}",
    "in case of {value} the {knob} must be {option}",
)
"""Never trained on; how well they are obeyed says how far the policy's reading goes."""

JOINTS = ("; ", "; ", "; ", "\n", ", ", ". ", " and ")


def say(facts: Sequence[Fact], rng: random.Random, *, paraphrase: float = 0.4) -> str:
    """One message with these facts: the expert's sentences, or with probability ``paraphrase``
    other words."""
    if rng.random() >= paraphrase:
        joint = rng.choice(JOINTS[:4]) if rng.random() < 0.5 else "; "
        return joint.join(fact.advice for fact in facts)
    wording = rng.choice(PARAPHRASES)
    parts = []
    for fact in facts:
        if rng.random() < 0.3:
            wording = rng.choice(PARAPHRASES)
        parts.append(fill(wording, fact))
    text = rng.choice(JOINTS).join(parts)
    return text + "." if rng.random() < 0.2 else text


def fill(wording: str, fact: Fact) -> str:
    """A fact in these words."""
    return wording.format(value=fact.value, knob=fact.knob, option=fact.option)
