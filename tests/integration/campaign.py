"""A fault campaign over the whole guidance loop: agents, routers and a local Slack as processes.

People in Slack answer every alert while faults of all kinds are dealt, several at a time; answers
and faults keep step. A process that is gone is started again, as Slurm would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hpc.config.annotators import AnnotatorsConfig
from hpc.config.attention import AttentionConfig, BudgetConfig
from hpc.core.framed import read_frames
from hpc.rundir import RunDir
from hpc.wire import discovery
from hpc.wire.keys import create_run_keys
from tests.integration.campaign_agent import END
from tests.integration.campaign_people import People
from tests.integration.campaign_verdict import judge
from tests.integration.router_support import Proxy, _Process
from tests.integration.slack_fixtures import Server, local_slack

DISK = 96 << 20
STALL_SECONDS = 90.0
"""A campaign in which nothing is applied for so long has lost something."""
CLOCKS = (-600, -120, 0, 120, 600)
"""How wrong a clock may be, seconds; the router looks for its own posts of the last 15 minutes."""
LEAD = 0.2
"""How far the faults may be ahead of the answers, as a part of all."""
CALLS = ("chat.postMessage", "chat.update", "reactions.add", "conversations.replies", "conversations.history")

Fault = Callable[[], Coroutine[Any, Any, bool]]
"""Does its harm; whether it hit anything."""


@dataclass(frozen=True)
class Size:
    """How large a campaign is; ``pause`` is the mean time between two faults, seconds."""

    agents: int
    alerts: int
    faults: int
    pause: float
    seconds: float
    seed: int


class Disk:
    """Where the router writes: a small file system if this user may mount one, else the router's files
    may not grow while the disk is "full"."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
        try:
            self.mounted = subprocess.run(command, capture_output=True).returncode == 0
        except FileNotFoundError:
            self.mounted = False

    def fill(self, writer: int) -> None:
        """Leave no byte."""
        if not self.mounted:
            _limit_files(writer, 1)
            return
        with (self._folder / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(1 << 20))

    def free(self, writer: int) -> None:
        """There is space again."""
        (self._folder / "ballast").unlink(missing_ok=True)
        if not self.mounted:
            _limit_files(writer, resource.RLIM_INFINITY)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self._folder)], check=True)


def _limit_files(process: int, size: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
        resource.prlimit(process, resource.RLIMIT_FSIZE, (size, hard))


class Campaign:
    """One campaign on one run."""

    def __init__(self, root: Path, server: Server, size: Size) -> None:
        each_alert = AttentionConfig(budget=BudgetConfig(merge=False, queue=0))
        slack = server.config(annotators=("U0ALICE", "U0BOB"), catch_up_seconds=2.0)
        annotators = AnnotatorsConfig(kind="slack", slack=slack, attention=each_alert)
        router = {"host": "127.0.0.1", "heartbeat_seconds": 0.5, "resend_seconds": 0.3, "grace_seconds": 0}
        config = {"annotators": msgspec.to_builtins(annotators), "router": router}
        self.run = RunDir.create(root, manifest={}, config=config, config_hash="0" * 16)
        create_run_keys(self.run)
        self.size = size
        self.faults: Counter[str] = Counter()
        self.exits: Counter[str] = Counter()
        self.random = random.Random(size.seed)
        self.disk = Disk(self.run.router_dir)
        self.people = People(server, random.Random(size.seed + 1), self._may_answer)
        self._server = server
        self._proxy = Proxy()
        self._tokens = {"SLACK_BOT_TOKEN": server.tokens.bot, "SLACK_APP_TOKEN": server.tokens.app}
        self._each = [size.alerts // size.agents + (n < size.alerts % size.agents) for n in range(size.agents)]
        self._clocks: dict[Any, int] = {}
        self.agents = {index: self._agent(index) for index in range(size.agents)}
        self.routers = [self._router(number) for number in range(2)]
        self._deck: list[str] = []
        self.settled = 0
        self._under_way: set[asyncio.Task[None]] = set()

    # ---- processes

    def _agent(self, index: int) -> _Process:
        port = [str(self._proxy.port)] if index % 2 else []
        arguments = ["tests.integration.campaign_agent", str(self.run.root), str(index), str(self._each[index]), *port]
        return self._start(f"agent-{index}", arguments, {})

    def _router(self, number: int) -> _Process:
        return self._start(f"router-{number}", ["tests.integration.campaign_router", str(self.run.root)], self._tokens)

    def _start(self, name: str, arguments: list[str], environment: dict[str, str]) -> _Process:
        clock = ["tests.integration.wrong_clock", str(self._clocks.setdefault(name, 0))]
        return _Process(["-m", *clock, *arguments], self.run.root / f"{name}.log", environment)

    def _serving(self) -> int:
        """Which of the routers is the active one; the first where none is."""
        info = discovery.read(self.run)
        return next((n for n, router in enumerate(self.routers) if info and info.pid == router.pid), 0)

    async def _nurse(self) -> None:
        """Start again what has ended, and lead the proxy to the active router."""
        while True:
            for number, router in enumerate(self.routers):
                if not router.alive:
                    code = router.wait()
                    if code != -signal.SIGKILL:
                        self.exits[f"router, code {code}"] += 1
                    router.close()
                    self.routers[number] = self._router(number)
            for index, agent in self.agents.items():
                if not agent.alive and not self.run.result(index).exists():
                    assert agent.wait() in (-signal.SIGKILL, 0), agent.log.read_text()[-2000:]
                    agent.close()
                    self.agents[index] = self._agent(index)
            info = discovery.read(self.run)
            self._proxy.target = int(info.address.rpartition(":")[2]) if info is not None else None
            await asyncio.sleep(0.1)

    # ---- faults

    def _may_answer(self) -> float:
        """The answers keep step with the faults."""
        return self.size.alerts * min(1.0, (self.faults.total() + 1) / self.size.faults)

    def _may_harm(self) -> bool:
        """The faults keep step with what is applied: they are to hit alerts that are under way."""
        progress = self.settled / self.size.alerts + LEAD
        return bool(self.people.shown) and self.faults.total() < self.size.faults * progress

    def _kinds(self) -> dict[str, tuple[int, Fault]]:
        """Each kind of fault with its weight."""
        return {
            "kill agent": (5, self._kill_agent),
            "kill router": (3, self._kill_router),
            "stop agent": (3, lambda: self._stop(self.agents[self._some_agent()].pid)),
            "stop router": (3, lambda: self._stop(self.routers[self._serving()].pid)),
            "stop Slack": (2, lambda: self._stop(int(self._server.ready["pid"]))),
            "cut sockets": (4, self._cut),
            "Slack disconnect": (3, self._disconnect),
            "Slack silent": (1, self._silence),
            "Slack 429": (3, lambda: self._trouble(status=429, retry_after=1)),
            "Slack 503": (2, lambda: self._trouble(status=503)),
            "Slack answer lost": (3, lambda: self._trouble(drop=self.random.choice(("before", "after")))),
            "Slack slow": (2, lambda: self._trouble(delay=self.random.choice((0.3, 1.0)))),
            "duplicate envelopes": (3, self._duplicate),
            "clock skew": (3, self._skew),
            "disk full": (2, self._fill_disk),
        }

    async def _harm(self) -> None:
        kinds = self._kinds()
        self._deck = self.random.sample(list(kinds), len(kinds))  # each kind once before any comes again
        while self.faults.total() < self.size.faults:
            await asyncio.sleep(self.size.pause * (0.5 + self.random.random()))
            if not self._may_harm():
                continue
            weights = [weight for weight, _ in kinds.values()]
            kind = self._deck.pop() if self._deck else self.random.choices(list(kinds), weights)[0]
            self._under_way.add(asyncio.create_task(self._do(kind, kinds[kind][1])))

    async def _do(self, kind: str, fault: Fault) -> None:
        """One fault; it counts where it hit something."""
        if await fault():
            self.faults[kind] += 1

    def _some_agent(self) -> int:
        return self.random.choice(list(self.agents))

    def _kill(self, process: _Process) -> bool:
        if not process.alive:
            return False
        process.strike()
        return True

    async def _kill_agent(self) -> bool:
        return self._kill(self.agents[self._some_agent()])

    async def _kill_router(self) -> bool:
        return self._kill(self.routers[self._serving() if self.random.random() < 0.8 else self.random.randrange(2)])

    async def _stop(self, process: int) -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGSTOP)
            await asyncio.sleep(self.random.choice((0.2, 1.0, 2.0)))
            os.kill(process, signal.SIGCONT)
            return True
        return False

    async def _cut(self) -> bool:
        hit = self._proxy.connections > 0
        self._proxy.cut()
        return hit

    async def _disconnect(self) -> bool:
        ways: list[dict[str, Any]] = [{"hard": True}, {"reason": "refresh_requested"}, {"reason": "", "close": True}]
        return bool((await self._server.ctl("disconnect", **self.random.choice(ways)))["connections"])

    async def _silence(self) -> bool:
        return bool((await self._server.ctl("sockets", mute=True))["muted"])

    async def _duplicate(self) -> bool:
        await self._server.ctl("sockets", duplicates=5)
        return True

    async def _trouble(self, **fault: Any) -> bool:
        await self._server.ctl("fault", method=self.random.choice(CALLS), times=self.random.randint(1, 3), **fault)
        return True

    async def _skew(self) -> bool:
        """Some process dies and comes back with another clock."""
        number, index = self._serving(), self._some_agent()
        process, name = self.agents[index], f"agent-{index}"
        if self.random.random() < 0.5:
            process, name = self.routers[number], f"router-{number}"
        self._clocks[name] = self.random.choice([clock for clock in CLOCKS if clock != self._clocks[name]])
        return self._kill(process)

    async def _fill_disk(self) -> bool:
        writer = self.routers[self._serving()].pid
        self.disk.fill(writer)
        await asyncio.sleep(self.random.choice((0.5, 1.0, 2.0)))
        self.disk.free(writer)
        return True

    # ---- the whole

    def applied(self) -> dict[str, list[dict[str, Any]]]:
        """Episode -> the guidance in its trajectory, in order."""
        found = {}
        for index in self.agents:
            path = self.run.log(index)
            records = [json.loads(frame) for frame in read_frames(path)] if path.exists() else []
            found[f"{self.run.name}-{index:05d}"] = [record for record in records if "guidance" in record]
        return found

    def _count_settled(self) -> int:
        """How many alerts have had their last reply, as the agents' trajectories say."""
        return sum(len({r["text"] for r in records if r["text"].endswith(END)}) for records in self.applied().values())

    async def play(self) -> dict[str, Any]:
        """Play until all alerts are answered under all the faults, or nothing moves any more; the figures."""
        start = moved = time.monotonic()
        work = [asyncio.create_task(each) for each in (self._nurse(), self.people.work(), self._harm())]
        said = start
        try:
            while self.settled < self.size.alerts or self.faults.total() < self.size.faults:
                await asyncio.sleep(0.25)
                for task in (*work, *filter(asyncio.Task.done, self._under_way)):
                    if task.done():
                        task.result()
                now, before = time.monotonic(), self.settled
                self.settled = self._count_settled()
                moved = now if self.settled > before else moved
                if now - said > 10:
                    said = now
                    _say(
                        f"{now - start:4.0f} s  {self.settled}/{self.size.alerts} alerts  {self.faults.total()} faults"
                    )
                if now - moved > STALL_SECONDS or now - start > self.size.seconds:
                    break
            work[2].cancel()
            await asyncio.gather(*self._under_way)
            for task in work[:2]:
                assert not task.done(), task
            (self.run.root / "over").touch()
            await self._ended(self.settled == self.size.alerts)
        finally:
            for task in (*work, *self._under_way):
                task.cancel()
            await asyncio.gather(*work, *self._under_way, return_exceptions=True)
        return await self._figures(time.monotonic() - start)

    async def _ended(self, whole: bool) -> None:
        """Until the agents have ended; those of a campaign that stalled get no more time."""
        deadline = time.monotonic() + 60.0
        while whole and time.monotonic() < deadline:
            if all(self.run.result(index).exists() for index in self.agents):
                return
            await asyncio.sleep(0.1)

    async def _figures(self, seconds: float) -> dict[str, Any]:
        written, applied = await self.people.written(), self.applied()
        shown = self.people.shown
        return {
            "seconds": round(seconds, 1),
            "alerts": self.size.alerts,
            "answered": self._count_settled(),
            "replies": sum(map(len, written.values())),
            "applied": sum(map(len, applied.values())),
            "faults": self.faults.total(),
            "by_kind": dict(sorted(self.faults.items())),
            "ways": dict(sorted(self.people.ways.items())),
            "ended_by_themselves": dict(self.exits),
            "small_disk": self.disk.mounted,
            "alerts_lost": self.size.alerts - len(shown),
            "alerts_shown_twice": sum(count - 1 for count in shown.values()),
            **judge(written, applied),
        }

    def close(self) -> None:
        """End every process."""
        for process in (*self.agents.values(), *self.routers):
            process.close()
        self._proxy.close()
        self.disk.close()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def play(folder: Path, size: Size) -> dict[str, Any]:
    """A campaign from its Slack to its figures."""
    folder.mkdir(parents=True)
    async with local_slack(folder, "--no-limits", "--ack-seconds", "1", "--retries", "0", "1", "3") as server:
        campaign = Campaign(folder / "run", server, size)
        with contextlib.closing(campaign):
            return await campaign.play()
