"""A fault campaign over the guidance loop: real agents, real routers and standbys, and no mercy.

Every alert gets its replies through the inbox socket; meanwhile agents and routers are killed with
SIGKILL, stopped and continued, and connections are cut. A router that was killed is replaced by the
standby, which is replaced by a new one.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from hpc.core.errors import HpcError
from hpc.core.framed import read_frames
from hpc.router.client import InboxClient
from hpc.router.desk import AlertCard
from hpc.rundir import RunDir
from hpc.wire import discovery
from tests.integration.router_support import Proxy, RouterProcess, _Process, make_run, wait_until

FAULTS = ("kill agent", "kill router", "stop agent", "stop router", "cut")


class ChaosAgent(_Process):
    def __init__(self, run: RunDir, index: int, alerts: int, replies: int, port: int | None) -> None:
        arguments = [str(run.root), str(index), str(alerts), str(replies), *([str(port)] if port else [])]
        super().__init__(["-m", "tests.integration.chaos_agent", *arguments], run.root / f"agent-{index}.log")


class Campaign:
    """One campaign.

    Args:
        kills: how many agents and how many routers are killed at least before the last alert of each
            agent is answered.
        pause: seconds between two faults.
    """

    def __init__(
        self, root: Path, *, agents: int, alerts: int, replies: int, kills: tuple[int, int], pause: float, seed: int
    ) -> None:
        self.run = make_run(root, heartbeat_seconds=0.5, resend_seconds=0.3)
        self.alerts, self.replies, self.kills, self.pause = alerts, replies, kills, pause
        self.random = random.Random(seed)
        self.faults: Counter[str] = Counter()
        self.given: dict[str, list[str]] = defaultdict(list)
        self.seen: Counter[str] = Counter()
        self.proxy = Proxy()
        self.agents = {index: self._agent(index) for index in range(agents)}
        self.active = RouterProcess(self.run)
        self.active.wait_ready()
        self.standby = RouterProcess(self.run, standby=True)
        self._over = threading.Event()
        self._failure: list[BaseException] = []

    def _agent(self, index: int) -> ChaosAgent:
        return ChaosAgent(self.run, index, self.alerts, self.replies, self.proxy.port if index % 2 else None)

    @property
    def enough(self) -> bool:
        """Whether there were faults enough."""
        agents, routers = self.kills
        return self.faults["kill agent"] >= agents and self.faults["kill router"] >= routers

    def play(self, seconds: float) -> dict[str, Any]:
        """Play until every agent has ended; the figures."""
        start = time.monotonic()
        threads = [threading.Thread(target=self._guard, args=(work,)) for work in (self._annotate, self._harm)]
        for thread in threads:
            thread.start()
        try:
            while any(not self.run.result(index).exists() for index in self.agents):
                assert not self._failure, self._failure
                assert time.monotonic() < start + seconds, self._unfinished()
                for index, agent in self.agents.items():
                    if not agent.alive and not self.run.result(index).exists():
                        assert agent.wait() in (-9, 0), agent.log.read_text()
                        agent.close()
                        self.agents[index] = self._agent(index)
                self._follow_router()
                time.sleep(0.1)
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
        return {"seconds": round(time.monotonic() - start, 1), "faults": dict(self.faults)}

    def _unfinished(self) -> str:
        return "\n".join(
            f"{index}: {len(self.applied(index))} of {self.alerts * self.replies}" for index in self.agents
        )

    def _guard(self, work: Any) -> None:
        try:
            work()
        except BaseException as error:
            self._failure.append(error)

    def _follow_router(self) -> None:
        info = discovery.read(self.run)
        self.proxy.target = int(info.address.rpartition(":")[2]) if info is not None else None

    # ---- people

    def _annotate(self) -> None:
        """Answer every open alert with its replies, in order; one whose answer was lost is given again
        under the same key."""
        done: set[str] = set()
        while not self._over.is_set():
            with contextlib.suppress(HpcError), InboxClient(self.run, timeout=2.0) as people:
                while not self._over.is_set():
                    cards = people.alerts(all=True)  # the first reply closes one
                    assert len({card.alert for card in cards}) == len(cards)
                    for card in cards:
                        if card.alert not in done and (self.enough or not card.alert.endswith(f"-a{self.alerts - 1}")):
                            self._answer(people, card)
                            done.add(card.alert)
                            self.seen[card.alert] += 1
                    self._over.wait(0.05)

    def _answer(self, people: InboxClient, card: AlertCard) -> None:
        for number in range(self.replies):
            text = f"{card.alert}#{number}"
            if text in self.given[card.episode]:
                continue
            verdict, _ = people.reply(card.alert, text, annotator="ada", key=text)
            assert verdict == "accepted", verdict
            self.given[card.episode].append(text)

    # ---- harm

    def _harm(self) -> None:
        while not self._over.wait(self.pause * (0.5 + self.random.random())):
            fault = self.random.choices(FAULTS, weights=(5, 3, 1, 1, 2))[0]
            if self._do(fault):
                self.faults[fault] += 1

    def _do(self, fault: str) -> bool:
        if fault == "cut":
            if not self.proxy.connections:
                return False
            self.proxy.cut()
            return True
        if fault.endswith("router"):
            return self._harm_router(fault)
        index = self.random.choice(list(self.agents))
        agent = self.agents[index]
        if not agent.alive or self.run.result(index).exists():
            return False
        self._harm_process(agent, fault)
        return True

    def _harm_process(self, process: _Process, fault: str) -> None:
        if fault.startswith("kill"):
            process.strike()
            return
        process.pause()
        self._over.wait(self.random.random())
        process.wake()

    def _harm_router(self, fault: str) -> bool:
        if not self._serves():
            return False  # the standby is just about to begin
        self._harm_process(self.active, fault)
        if fault.startswith("kill"):
            self.active.close()  # waits until it is dead
            self.active, self.standby = self.standby, RouterProcess(self.run, standby=True)
        return True

    def _serves(self) -> bool:
        """Whether a router serves; the one that does is the active one. Of two that wait, either may win."""
        info = discovery.read(self.run)
        if info is not None and info.pid == self.standby.pid:
            self.active, self.standby = self.standby, self.active
        return info is not None and info.pid == self.active.pid

    # ---- what came of it

    def applied(self, index: int) -> list[dict[str, Any]]:
        """The guidance in an agent's trajectory, in order."""
        records = [json.loads(frame) for frame in read_frames(self.run.log(index))]
        return [record for record in records if "guidance" in record]

    def check(self) -> dict[str, int]:
        """Hold what the agents applied and what the journal says against what was said.

        Raises:
            AssertionError: a reply is lost, doubled, misrouted or out of order; or an alert is.
        """
        names = {f"{self.run.name}-{index:05d}-a{number}" for index in self.agents for number in range(self.alerts)}
        figures = Counter(lost=0, doubled=0, misrouted=0, disordered=0)
        for index in self.agents:
            given = self.given[f"{self.run.name}-{index:05d}"]
            applied = self.applied(index)
            times = Counter(record["text"] for record in applied)
            figures["lost"] += sum(text not in times for text in given)
            figures["doubled"] += sum(count - 1 for count in times.values())
            figures["misrouted"] += sum(text not in given for text in times)
            figures["misrouted"] += sum(record["alert"] != record["text"].partition("#")[0] for record in applied)
            figures["disordered"] += list(times) != [text for text in given if text in times]
        assert not any(figures.values()), figures
        assert self.seen == dict.fromkeys(names, 1)
        assert sum(map(len, self.given.values())) == len(names) * self.replies
        wait_until(self._serves)
        with InboxClient(self.run, timeout=30.0) as people:
            wait_until(lambda: all(card.state == "finished" for card in people.episodes()))
            cards = people.alerts(all=True)
            assert sorted(card.alert for card in cards) == sorted(names)
            for card in cards:
                found = people.alert(card.alert)
                assert found is not None
                assert [reply.text for reply in found[1]] == [f"{card.alert}#{each}" for each in range(self.replies)]
                assert {reply.state for reply in found[1]} == {"applied"}, found[1]
            for index in self.agents:
                verdict, late = people.reply(f"{self.run.name}-{index:05d}", "too late", annotator="ada")
                assert verdict == "too_late"
                assert late is not None
                assert late.state == "too_late"
        return {"alerts": len(cards), "replies": sum(map(len, self.given.values())), **figures}

    def close(self) -> None:
        """End every process."""
        for process in (*self.agents.values(), self.active, self.standby):
            process.close()
        self.proxy.close()
