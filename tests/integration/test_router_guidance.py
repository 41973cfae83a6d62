"""Real routers, real agents: an alert reaches people, their reply exactly that agent."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from hpc.core import files
from hpc.core.errors import RouterUnreachable
from hpc.router.client import InboxClient
from hpc.router.desk import GuidanceCard
from tests.integration.router_support import AgentProcess, Proxy, RouterProcess, make_run, wait_until


def reply_of(people: InboxClient, alert: str) -> GuidanceCard | None:
    found = people.alert(alert)
    return found[1][0] if found is not None and found[1] else None


def test_eight_agents_at_once_each_get_their_own_answer(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with contextlib.ExitStack() as stack:
        router = stack.enter_context(RouterProcess(run))
        agents = [stack.enter_context(AgentProcess(run, index)) for index in range(8)]
        people = stack.enter_context(router.inbox())
        raised = {agent.alert(3, f"agent {agent.index} is stuck"): agent for agent in agents}
        wait_until(lambda: len(people.alerts()) == 8)
        for card in people.alerts():
            assert card.reason == f"agent {raised[card.alert].index} is stuck"
            verdict, _ = people.reply(card.alert, f"for {card.episode}", annotator="ada", kind="knowledge")
            assert verdict == "accepted"
        for agent in agents:
            wait_until(agent.applied)
        wait_until(lambda: all((reply_of(people, name) or card).state == "applied" for name in raised))
        assert [agent.applied() for agent in agents] == [[f"for {agent.episode}"] for agent in agents]
        assert people.alerts() == []
        assert {card.state for card in people.alerts(all=True)} == {"answered"}


def test_the_whole_life_of_an_episode(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with RouterProcess(run) as router, AgentProcess(run, 0) as agent, router.inbox() as people:
        wait_until(people.episodes)
        people.reply(agent.episode, "unasked", annotator="ada")
        wait_until(agent.applied)
        agent.order(do="progress", step=5)
        wait_until(lambda: people.episodes()[0].step == 5)
        people.reply(agent.episode, "", annotator="ada", control="pause")
        wait_until(lambda: agent.order(do="state")["paused"])
        people.reply(agent.episode, "", annotator="ada", control="resume")
        wait_until(lambda: not agent.order(do="state")["paused"])
        people.reply(agent.episode, "", annotator="ada", control="stop")
        wait_until(lambda: agent.order(do="state")["stop"])
        assert agent.applied() == ["unasked"], "control messages do not enter the context"
        agent.order(do="bye")
        wait_until(lambda: people.episodes()[0].state == "finished")
        verdict, late = people.reply(agent.episode, "too late", annotator="ada")
        assert verdict == "too_late"
        assert late is not None
        assert late.state == "too_late"
        assert agent.applied() == ["unasked"]
        run.mark_done("all episodes are over")
        assert router.wait() == 0
        assert not run.router.exists()


def test_a_correction_and_a_reply_that_is_too_old(tmp_path: Path) -> None:
    """While an agent is in a long step: what was corrected and what is too old never reach its context,
    not even after a kill of the agent, and the annotators learn it."""
    run = make_run(tmp_path / "run")

    def states(people: InboxClient, alert: str) -> dict[str, str]:
        found = people.alert(alert)
        assert found is not None
        return {reply.text: reply.state for reply in found[1]}

    with RouterProcess(run) as router, router.inbox() as people:
        with AgentProcess(run, 0) as agent:
            agent.order(do="begin")
            name = agent.alert(3)
            wait_until(people.alerts)
            _, first = people.reply(name, "left", annotator="ada")
            assert first is not None
            people.reply(name, "before step 5", annotator="bob", valid_until_step=4)
            people.reply(name, "still good", annotator="bob", valid_until_step=9, valid_until=4e9)
            wait_until(lambda: set(states(people, name).values()) == {"delivered"})
            _, second = people.reply(name, "right", annotator="ada", kind="correction", replaces=first.guidance)
            assert second is not None
            assert (second.replaces, second.alert) == (first.guidance, name)
            wait_until(lambda: states(people, name)["left"] == "superseded")
            agent.kill()
        with AgentProcess(run, 0) as agent:
            # it begins at step 0 again, where nothing is too old; what was replaced stays replaced
            wait_until(lambda: "still good" in agent.applied())
            wait_until(lambda: set(states(people, name).values()) == {"applied", "superseded"})
            assert agent.applied() == ["before step 5", "still good", "right"]

        with AgentProcess(run, 1) as agent:
            agent.order(do="begin")
            name = agent.alert(3)
            wait_until(people.alerts)
            people.reply(name, "before step 5", annotator="bob", valid_until_step=4)
            people.reply(name, "in time", annotator="bob", valid_until=1.0)
            people.reply(name, "still good", annotator="bob", valid_until_step=5, valid_until=4e9)
            wait_until(lambda: set(states(people, name).values()) == {"delivered"})
            agent.order(do="end", step=5)
            wait_until(lambda: "delivered" not in states(people, name).values())
            assert states(people, name) == {
                "before step 5": "expired",
                "in time": "expired",
                "still good": "applied",
            }
            assert agent.applied() == ["still good"]


def test_annotators_at_two_terminals_share_the_alerts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (
        RouterProcess(run) as router,
        AgentProcess(run, 0) as agent,
        router.inbox() as ada,
        router.inbox() as bob,
    ):
        name = agent.alert(3)
        wait_until(ada.alerts)
        status, card = ada.claim(name, annotator="ada")
        assert card is not None
        assert (status, card.owner) == ("ok", "ada")
        status, card = bob.claim(name, annotator="bob")
        assert card is not None
        assert (status, card.owner) == ("held", "ada")
        assert bob.release(name, annotator="bob")[0] == "not_open"
        assert [ada.release(name, annotator="ada")[0] for _ in range(2)] == ["ok", "ok"], "repeating is harmless"
        assert bob.claim(name, annotator="bob")[0] == "ok"
        assert ada.reply(name, "I was quicker", annotator="ada")[0] == "accepted"
        found = ada.alert(name)
        assert found is not None
        assert (found[0].state, found[0].owner, found[0].closed_by) == ("answered", "bob", "ada")
        assert bob.claim(name, annotator="bob")[0] == "not_open"
        assert bob.claim("run-00000-a99", annotator="bob") == ("unknown", None)
        wait_until(lambda: agent.applied() == ["I was quicker"])
        other = agent.alert(4)
        wait_until(ada.alerts)
        assert [bob.resolve(other, annotator="bob", verdict="false_alarm") for _ in range(2)] == ["ok", "ok"]
        assert bob.resolve(other, annotator="bob") == "not_open"
        assert ada.resolve(other, annotator="ada", verdict="false_alarm") == "not_open"


def test_annotators_are_called_merged_and_spared_as_configured(tmp_path: Path) -> None:
    attention = {
        "escalation": {"minutes": 0.001, "to": ["U1", "S2"]},
        "budget": {"alerts_per_hour": 1, "digest_minutes": 0.001},
    }
    run = make_run(tmp_path / "run", attention=attention)
    with RouterProcess(run) as router, router.inbox() as people:
        with AgentProcess(run, 0) as agent, AgentProcess(run, 1) as other:
            first = agent.alert(1)
            wait_until(lambda: [card.escalated_to for card in people.alerts()] == [["U1", "S2"]])
            agent.alert(2, "still stuck")
            held = other.alert(1)
            wait_until(lambda: len(people.alerts()) == 2)
            cards = {card.alert: card for card in people.alerts()}
            assert (cards[first].count, cards[first].reason, cards[first].last_step) == (2, "still stuck", 2)
            assert (cards[held].held, cards[held].escalated_to) == ("budget", [])
            wait_until(lambda: f"1 alerts were held back: {held}" in router.log.read_text())
            assert people.reply(held, "answered all the same", annotator="ada")[0] == "accepted"
            wait_until(lambda: other.applied() == ["answered all the same"])
            assert agent.applied() == []
        said = router.log.read_text()
        assert said.count(f"alert {first} is unanswered: calling U1") == 1
        assert said.count(f"alert {first} is unanswered: calling S2") == 1
        assert said.count("held back") == 1


def test_pause_and_stop_outlive_the_agent(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with RouterProcess(run) as router, router.inbox() as people:
        with AgentProcess(run, 0) as agent:
            wait_until(people.episodes)
            people.reply(agent.episode, "", annotator="ada", control="pause")
            wait_until(lambda: agent.order(do="state")["paused"])
        with AgentProcess(run, 0) as again:
            assert again.order(do="state")["paused"]
            people.reply(again.episode, "", annotator="ada", control="stop")
            wait_until(lambda: again.order(do="state")["stop"])


def test_an_alert_waits_for_a_router_that_comes_later(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with AgentProcess(run, 0) as agent:
        name = agent.alert(1)
        assert agent.order(do="bye")["texts"] == [], "the end does not wait for a router that is not there"
    with AgentProcess(run, 0), RouterProcess(run) as router, router.inbox() as people:
        wait_until(lambda: [card.alert for card in people.alerts(all=True)] == [name])
        wait_until(lambda: people.episodes()[0].state == "finished")


def test_an_episode_that_ended_unheard_is_known_by_its_result(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with AgentProcess(run, 0) as agent, RouterProcess(run) as router, router.inbox() as people:
        agent.alert(1)
        wait_until(people.alerts)
    run.result(0).write_text("{")
    with RouterProcess(run) as router, router.inbox() as people:
        assert people.episodes()[0].state == "running", "a damaged result says nothing and harms nothing"
    files.write_json(run.result(0), {"status": "truncated", "steps": 60, "final_score": 20.0})
    with RouterProcess(run) as router, router.inbox() as people:
        wait_until(lambda: people.episodes()[0].state == "truncated")
        assert people.episodes()[0].score == 20.0
        assert people.alerts() == []


def test_a_cut_connection_loses_and_doubles_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with contextlib.ExitStack() as stack:
        router = stack.enter_context(RouterProcess(run))
        proxy = stack.enter_context(contextlib.closing(Proxy()))
        agent = stack.enter_context(AgentProcess(run, 0, ROUTER_TEST_PORT=str(proxy.port)))
        people = stack.enter_context(router.inbox())
        port = int(router.wait_ready().address.rpartition(":")[2])
        for number in range(1, 6):
            proxy.target = port
            wait_until(lambda: proxy.connections)
            proxy.cut()
            name = agent.alert(number, f"alert {number}")
            wait_until(lambda name=name: people.alert(name))
            proxy.target = None  # the line is dead: the reply has to wait
            proxy.cut()
            people.reply(name, f"reply {number}", annotator="ada")
            assert len(agent.applied()) == number - 1
            proxy.target = port
            wait_until(lambda number=number: len(agent.applied()) == number)
        wait_until(lambda: (card := reply_of(people, name)) is not None and card.state == "applied")
        assert agent.applied() == [f"reply {number}" for number in range(1, 6)]
        assert len(people.alerts(all=True)) == 5


@pytest.mark.parametrize("point", ["before:Joined", "before:Raised", "after:Raised"])
def test_a_router_killed_while_it_takes_an_alert(tmp_path: Path, point: str) -> None:
    run = make_run(tmp_path / "run")
    with AgentProcess(run, 0) as agent:
        with RouterProcess(run, die=point) as doomed:
            name = agent.alert(1)
            assert doomed.wait() == -9
        with RouterProcess(run) as router, router.inbox() as people:
            wait_until(lambda: people.alert(name))
            people.reply(name, "turn left", annotator="ada")
            wait_until(agent.applied)
            wait_until(lambda: (card := reply_of(people, name)) is not None and card.state == "applied")
            assert agent.applied() == ["turn left"]
            assert [card.alert for card in people.alerts(all=True)] == [name]


@pytest.mark.parametrize("point", ["reply", "before:Delivered", "after:Delivered", "before:Applied", "after:Applied"])
def test_a_router_killed_on_the_way_of_a_reply(tmp_path: Path, point: str) -> None:
    run = make_run(tmp_path / "run")
    with AgentProcess(run, 0) as agent:
        with RouterProcess(run, die=point) as doomed, doomed.inbox(timeout=2) as people:
            name = agent.alert(1)
            wait_until(lambda: people.alert(name))
            with contextlib.suppress(RouterUnreachable):  # it may die before it answers
                people.reply(name, "turn left", annotator="ada")
            assert doomed.wait() == -9
        with RouterProcess(run) as router, router.inbox() as people:
            wait_until(lambda: (card := reply_of(people, name)) is not None and card.state == "applied")
            assert agent.applied() == ["turn left"]
            found = people.alert(name)
            assert found is not None
            assert [(card.text, card.applied_step) for card in found[1]] == [("turn left", 1)]


def test_an_agent_killed_between_applying_guidance_and_saying_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with RouterProcess(run) as router, router.inbox() as people:
        with AgentProcess(run, 0, ROUTER_TEST_DIE="applied") as doomed:
            name = doomed.alert(1)
            wait_until(lambda: people.alert(name))
            people.reply(name, "turn left", annotator="ada")
            assert doomed.wait() == -9
        card = reply_of(people, name)
        assert card is not None
        assert card.applied_at is None
        with AgentProcess(run, 0) as agent:
            wait_until(lambda: (card := reply_of(people, name)) is not None and card.state == "applied")
            card = reply_of(people, name)
            assert card is not None
            assert card.applied_step == 1
            assert agent.order(do="state")["epoch"] == 2
            assert agent.applied() == ["turn left"]


def test_replies_find_an_agent_that_was_killed_and_came_back(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with RouterProcess(run) as router, router.inbox() as people:
        with AgentProcess(run, 0) as first:
            name = first.alert(1)
            wait_until(lambda: people.alert(name))
            first.kill()
        people.reply(name, "while it was away", annotator="ada")
        people.reply(name, "and another", annotator="bob")
        with AgentProcess(run, 0) as second:
            wait_until(lambda: len(second.applied()) == 2)
            assert second.applied() == ["while it was away", "and another"]


def test_killing_everyone_again_and_again(tmp_path: Path) -> None:
    """Four agents, six alerts each; before every round the router or agents die. Nothing is lost,
    doubled or misrouted, and replies are applied in the order in which they were given."""
    run = make_run(tmp_path / "run")
    agents = {index: AgentProcess(run, index) for index in range(4)}
    router = RouterProcess(run)
    expected: dict[int, list[str]] = {index: [] for index in agents}
    try:
        for number in range(6):
            names = {index: agent.alert(number) for index, agent in agents.items()}
            if number % 3 == 1:
                router.kill()
                router.close()
                router = RouterProcess(run)
            for index in [index for index in agents if (number + index) % 3 == 2]:
                agents[index].kill()
                agents[index].close()
                agents[index] = AgentProcess(run, index)
            router.wait_ready()
            with router.inbox() as people:
                wait_until(lambda names=names, people=people: set(names.values()) <= {c.alert for c in people.alerts()})
                for index, name in names.items():
                    text = f"{number} for {index}"
                    assert people.reply(name, text, annotator="ada")[0] == "accepted"
                    expected[index].append(text)
        for index, agent in agents.items():
            wait_until(lambda agent=agent: len(agent.applied()) >= 6)
            assert agent.applied() == expected[index]
        with router.inbox() as people:
            cards: list[Any] = []
            wait_until(
                lambda: (
                    cards.clear()
                    or cards.extend(reply_of(people, card.alert) for card in people.alerts(all=True))
                    or all(card is not None and card.state == "applied" for card in cards)
                )
            )
            assert len(cards) == 24
            assert all(card.alert.startswith(card.episode) for card in cards)
    finally:
        for process in (*agents.values(), router):
            process.close()
