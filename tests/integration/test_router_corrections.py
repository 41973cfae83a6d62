"""Annotators correct themselves and set limits while agents and routers are killed: every reply has one
fate, and the agent's context agrees with it."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

from hpc.router.client import InboxClient
from hpc.router.desk import GuidanceCard
from tests.integration.router_support import AgentProcess, RouterProcess, make_run, wait_until

ROUNDS = int(os.environ.get("CORRECTION_ROUNDS", "8"))


def test_every_reply_has_one_fate(tmp_path: Path) -> None:
    chance = random.Random(20261127)
    run = make_run(tmp_path / "run")
    said: list[GuidanceCard] = []
    kills = 0
    with contextlib.ExitStack() as stack:
        router = stack.enter_context(RouterProcess(run))
        agent = stack.enter_context(AgentProcess(run, 0))
        people = stack.enter_context(router.inbox())
        alert = agent.alert(1)
        wait_until(people.alerts)

        def say(people: InboxClient, text: str, replaces: str | None) -> None:
            limit = {"valid_until_step": chance.choice([0, 10**6])} if chance.random() < 0.4 else {}
            verdict, card = people.reply(alert, text, annotator="ada", replaces=replaces, **limit)
            assert verdict == "accepted"
            assert card is not None
            said.append(card)

        for number in range(ROUNDS):
            if chance.random() < 0.5:
                agent.order(do="begin")
            for part in range(chance.randint(1, 3)):
                before = chance.choice(said[-4:]) if said and chance.random() < 0.6 else None
                say(people, f"text {number}.{part}", before.guidance if before is not None else None)
            fault = chance.random()
            if fault < 0.4:
                agent.kill()
                agent = stack.enter_context(AgentProcess(run, 0))
                kills += 1
            elif fault < 0.6:
                people.close()
                router.kill()
                router = stack.enter_context(RouterProcess(run))
                people = stack.enter_context(router.inbox())
                kills += 1
            else:
                agent.order(do="end", step=number)
        agent.order(do="end", step=ROUNDS)

        def fates() -> list[GuidanceCard]:
            shown = people.alert(alert)
            assert shown is not None
            return shown[1]

        wait_until(lambda: all(card.state not in ("queued", "delivered") for card in fates()))
        found = fates()
        texts = agent.applied()
    assert len(texts) == len(set(texts)), "applied twice"
    assert [card.guidance for card in found] == [card.guidance for card in said]
    assert sorted(texts) == sorted(card.text for card in found if card.state == "applied")
    replaced = {card.replaces for card in found}
    assert {card.guidance for card in found if card.state == "superseded"} <= replaced
    states = [card.state for card in found]
    print(f"{len(said)} replies, {kills} kills:", {state: states.count(state) for state in sorted(set(states))})
