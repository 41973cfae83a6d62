"""Drills: the two arts of an episode without the episode around them.

To obey is to copy what the context says; to search is to avoid what the context says. A small model
learns either suddenly, and much later (the second: not at all) when it is only one part of a long
episode. So it learns them on bare words first, then on advice and edits, then on episodes.
"""

from __future__ import annotations

import random

from hpc.gym import render
from hpc.tasks.minilab.facts import CATEGORIES, KNOBS, Fact
from hpc.tasks.minilab.instances import Stage
from hpc.tasks.minilab.lab import next_line
from hpc.trajectories.turns import real_user
from tiny_policy.guidance import say
from tiny_policy.teacher import SYSTEM, Demonstration, Message, edit_action, tool_call
from tiny_policy.tokens import Encoder, Example, words


def pairs(rng: random.Random, encode: Encoder) -> Example:
    """Random pairs of words, then the same pairs in another order: the second word is taught."""
    count = rng.randint(4, 14)
    known = words()
    listed = list(zip(rng.sample(known, count), rng.choices(known, k=count), strict=True))
    ids = encode("<|user|><real_user>")
    for first, second in listed:
        ids += encode(first) + encode(second) + encode("; ")
    ids += encode("</real_user><|end|><|assistant|>")
    weights = [0.0] * len(ids)
    places = []
    rng.shuffle(listed)
    for first, second in listed:
        ids += encode(first) + encode(second) + encode("\n")
        places.append(len(ids) - 2)
        weights += [0.0, 1.0, 0.0]
    return Example(ids, weights, places)


def permutations(rng: random.Random, encode: Encoder) -> Example:
    """All options of some knobs, each once, in random order: every one is taught, the last of a knob
    can be known."""
    ids = encode("<|user|><|end|><|assistant|>")
    weights = [0.0] * len(ids)
    places = []
    for knob in rng.sample(list(KNOBS), rng.randint(1, 4)):
        for option in rng.sample(KNOBS[knob], len(KNOBS[knob])):
            ids += encode(f"{knob}: ") + encode(option) + encode("\n")
            weights += [0.0, 1.0, 0.0]
        places.append(len(ids) - 2)
    return Example(ids, weights, places)


def drill(rng: random.Random) -> Demonstration:
    """Copying alone: some facts, then the edits that obey them, in another order.

    Options come from every knob, so that nothing but the guidance can tell the right one.
    """
    knobs = rng.sample(list(KNOBS), rng.randint(1, len(KNOBS)))
    members = dict(zip(KNOBS, CATEGORIES.values(), strict=True))
    every = [option for options in KNOBS.values() for option in options]
    facts = [Fact(rng.choice(members[knob]), knob, rng.choice(every)) for knob in knobs]
    messages: list[Message] = [SYSTEM]
    taught = [False]

    def add(message: Message, learn: bool = False) -> None:
        messages.append(message)
        taught.append(learn)

    near = rng.random() < 0.4
    if not near:
        size = rng.choice((1, len(facts)))
        for start in range(0, len(facts), size):
            add({"role": "user", "content": real_user(say(facts[start : start + size], rng))})
        rng.shuffle(facts)
    for number, fact in enumerate(facts, start=1):
        metric = rng.randint(80, 99)
        lines = f"stage {number} metric {metric} pass\n{next_line(Stage(fact.knob, fact.value))}"
        add({"role": "tool", "content": render.command_done(lines, 0)})
        if near:
            add({"role": "user", "content": real_user(say([fact], rng))})
        add(tool_call(*edit_action(fact.knob, fact.option)), learn=True)
    return Demonstration([], messages, taught, taught)


def search(rng: random.Random) -> Demonstration:
    """Trying alone: the edits of stages that nobody advises, most of them until one option is left.

    What was low is not tried again; the later the try, the more of the choice that decides.
    """
    messages: list[Message] = [SYSTEM]
    taught, known = [False], [False]
    members = dict(zip(KNOBS, CATEGORIES.values(), strict=True))
    knobs = rng.sample(list(KNOBS), rng.randint(1, 3))
    stages = [Stage(knob, rng.choice(members[knob])) for knob in knobs]
    for number, stage in enumerate(stages, start=1):
        lines = next_line(stage)
        if number > 1:
            lines = f"stage {number - 1} metric {rng.randint(80, 99)} pass\n{lines}"
        options = rng.sample(KNOBS[stage.knob], rng.choice((2, 4, 6, 8, 8)))
        for tries, option in enumerate(options, start=1):
            messages += [
                {"role": "tool", "content": render.command_done(lines, 0)},
                tool_call(*edit_action(stage.knob, option)),
            ]
            taught += [False, True]
            known += [False, tries == len(KNOBS[stage.knob])]
            lines = f"stage {number} metric {rng.randint(10, 49)} low"
    return Demonstration([], messages, taught, known)
