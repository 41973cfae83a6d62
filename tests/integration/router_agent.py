"""An agent in small: real mailbox, a framed log as its trajectory, orders on standard input.

The loop is the real one's: guidance that is due is committed to the trajectory, then reported applied.
``ROUTER_TEST_DIE=applied`` kills the process with SIGKILL between the two; ``ROUTER_TEST_PORT``
makes it reach the router through that port.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from hpc.agent.mailbox import Mailbox
from hpc.core.framed import FramedLog
from hpc.rundir import RunDir
from hpc.trajectories.records import DriftSignal, OutcomeReached
from hpc.wire import discovery


class Agent:
    def __init__(self, run: RunDir, index: int) -> None:
        self.episode = f"{run.name}-{index:05d}"
        self.trajectory = FramedLog(run.log(index))
        records = [json.loads(frame) for frame in self.trajectory.frames]
        self.epoch = 1 + sum("epoch" in record for record in records)
        self.guidance = [record for record in records if "guidance" in record]
        self.step = 0
        self.at_boundary = asyncio.Event()
        self.at_boundary.set()
        self._append({"epoch": self.epoch})
        self.mail = Mailbox(
            run,
            index=index,
            episode=self.episode,
            epoch=self.epoch,
            task="test",
            applied={record["guidance"]: record["step"] for record in self.guidance},
        )

    def _append(self, record: dict[str, Any]) -> None:
        self.trajectory.append(json.dumps(record).encode())

    async def obey(self) -> None:
        """Apply whatever is due until an annotator stops the episode."""
        while not self.mail.stop_requested:
            await self.mail.wait_due(60)
            await self.at_boundary.wait()
            for guidance, delivered_at in self.mail.due():
                if guidance.is_over(step=self.step, now=time.time()):
                    await self.mail.expired(guidance.id, self.step)
                    continue
                self.step += 1
                record = {
                    "guidance": guidance.id,
                    "text": guidance.text,
                    "alert": guidance.alert,
                    "step": self.step,
                    "delivered_at": delivered_at,
                }
                self._append(record)
                self.guidance.append(record)
                if os.environ.get("ROUTER_TEST_DIE") == "applied":
                    os.kill(os.getpid(), signal.SIGKILL)
                await self.mail.applied(guidance.id, self.step)

    async def carry_out(self, order: dict[str, Any]) -> dict[str, Any]:
        match order["do"]:
            case "alert":
                signal_ = DriftSignal(detector="test", score=0.9, step=order["step"], reason=order["reason"])
                name = f"{self.episode}-a{order['step']}"
                return {"alert": await self.mail.raise_alert(signal_, alert=name, evidence=[], sent_at=time.time())}
            case "begin":  # a long step: nothing is applied before it ends
                self.at_boundary.clear()
            case "end":
                self.step = order["step"]
                self.at_boundary.set()
            case "progress":
                self.mail.progress(order["step"], "running", 0.25, 40.0)
            case "bye":
                await self.mail.bye(
                    OutcomeReached(
                        status="finished", at=time.time(), steps=self.step, working_seconds=1.0, final_score=80.0
                    )
                )
        return {
            "epoch": self.epoch,
            "texts": [record["text"] for record in self.guidance],
            "alerts": [record["alert"] for record in self.guidance],
            "paused": self.mail.paused,
            "stop": self.mail.stop_requested,
            "fenced": self.mail.fenced,
        }


def detour(port: str) -> None:
    """Let discovery name another port of this machine."""
    read = discovery.read

    def read_changed(run: RunDir) -> discovery.RouterInfo | None:
        info = read(run)
        return info and msgspec.structs.replace(info, address=f"tcp://127.0.0.1:{port}")

    discovery.read = read_changed


async def main() -> None:
    if "ROUTER_TEST_PORT" in os.environ:
        detour(os.environ["ROUTER_TEST_PORT"])
    agent = Agent(RunDir(Path(sys.argv[1])), int(sys.argv[2]))
    await agent.mail.start()
    obeying = asyncio.create_task(agent.obey())
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await agent.carry_out(json.loads(line))), flush=True)
        if obeying.done():
            obeying.result()
    obeying.cancel()
    await agent.mail.close()


if __name__ == "__main__":
    asyncio.run(main())
