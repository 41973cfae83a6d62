"""An agent of a fault campaign: ``campaign_agent RUN INDEX ALERTS [PORT]``.

It raises one alert after the other, the next one when the last reply to the one before is in its
context (the reply ends with ``END``), and stays until the file ``over`` is in the run directory, so
that it would also apply what comes twice or too late. All it knows is in its log: it may be killed
at any instruction. With PORT it reaches the router through that port.
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

END = " end"
EVIDENCE = [StepBrief(step=1, action="run train.py", observation="loss: nan " * 20, is_error=True)]


async def play(run: RunDir, index: int, alerts: int) -> None:
    episode = f"{run.name}-{index:05d}"
    log = FramedLog(run.log(index))
    records: list[dict[str, Any]] = [json.loads(frame) for frame in log.frames]

    def note(**record: Any) -> None:
        log.append(json.dumps(record).encode())
        records.append(record)

    note(epoch=1 + sum("epoch" in record for record in records))
    applied = {record["guidance"]: record["step"] for record in records if "guidance" in record}
    step = max(applied.values(), default=0)
    epoch = sum("epoch" in record for record in records)
    mail = Mailbox(run, index=index, episode=episode, epoch=epoch, task="campaign", applied=applied)
    await mail.start()
    while True:
        raised = sum("raised" in record for record in records)
        answered = {record["text"] for record in records if record.get("text", "").endswith(END)}
        if raised == len(answered) == alerts and (run.root / "over").exists():
            break
        if raised < alerts and len(answered) >= raised:
            signal = DriftSignal(detector=f"d{raised}", score=0.9, step=step, reason=f"alert {raised}")
            name = f"{episode}-a{raised}"
            await mail.raise_alert(signal, alert=name, evidence=EVIDENCE, sent_at=time.time())
            note(raised=name)
        await mail.wait_due(0.5)
        step += 1
        mail.progress(step, "running")
        for guidance, _ in mail.due():
            note(guidance=guidance.id, text=guidance.text, alert=guidance.alert, step=step)
            await mail.applied(guidance.id, step)
    await mail.bye(OutcomeReached(status="finished", at=time.time(), steps=step, working_seconds=1.0))
    await mail.close()
    run.result(index).write_text(json.dumps({"status": "finished", "steps": step}))


if __name__ == "__main__":
    directory, number, alert_count, *port = sys.argv[1:]
    if port:
        detour(port[0])
    asyncio.run(play(RunDir(Path(directory)), int(number), int(alert_count)))
