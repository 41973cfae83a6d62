"""An agent that plays by itself: ``chaos_agent RUN INDEX ALERTS REPLIES [PORT]``.

It raises its alerts one after the other, applies the guidance that is due at each step boundary, and
says Bye once every alert has had its replies. All it knows is in its log, so it may be killed at
any instruction and started again. With PORT it reaches the router through that port.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from hpc.agent.mailbox import Mailbox
from hpc.core.framed import FramedLog
from hpc.rundir import RunDir
from hpc.trajectories.records import DriftSignal, OutcomeReached
from hpc.wire.messages import StepBrief
from tests.integration.router_agent import detour

EVIDENCE = [StepBrief(step=1, action="run train.py", observation="loss: nan " * 20, is_error=True)]


async def play(run: RunDir, index: int, alerts: int, replies: int) -> None:
    episode = f"{run.name}-{index:05d}"
    log = FramedLog(run.log(index))
    records: list[dict[str, Any]] = [json.loads(frame) for frame in log.frames]

    def note(**record: Any) -> None:
        log.append(json.dumps(record).encode())
        records.append(record)

    epoch = 1 + sum("epoch" in record for record in records)
    note(epoch=epoch)
    applied = {record["guidance"]: record["step"] for record in records if "guidance" in record}
    step = max(applied.values(), default=0)
    mail = Mailbox(run, index=index, episode=episode, epoch=epoch, task="chaos", applied=applied)
    await mail.start()
    while len(applied) < alerts * replies:
        raised = sum("alert" in record and "guidance" not in record for record in records)
        if raised < alerts and len(applied) >= raised * replies:
            signal = DriftSignal(detector=f"d{raised}", score=0.9, step=step, reason=f"alert {raised}")
            name = f"{episode}-a{raised}"
            await mail.raise_alert(signal, alert=name, evidence=EVIDENCE, sent_at=time.time())
            note(alert=name)
        await mail.wait_due(0.5)
        step += 1
        mail.progress(step, "running")
        for guidance, _ in mail.due():
            note(guidance=guidance.id, text=guidance.text, alert=guidance.alert, step=step)
            applied[guidance.id] = step
            await mail.applied(guidance.id, step)
    await mail.bye(OutcomeReached(status="finished", at=time.time(), steps=step, working_seconds=1.0))
    await mail.close()
    run.result(index).write_text(json.dumps({"status": "finished", "steps": step}))


if __name__ == "__main__":
    directory, number, alert_count, reply_count, *port = sys.argv[1:]
    if port:
        detour(port[0])
    asyncio.run(play(RunDir(Path(directory)), int(number), int(alert_count), int(reply_count)))
