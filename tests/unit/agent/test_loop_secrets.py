"""What an alert carries out of the cluster holds no secrets; the trajectory keeps what happened."""

from __future__ import annotations

import msgspec

from hpc.agent.loop import BRIEF
from hpc.trajectories.records import ActionTaken, AlertRaised, DriftSignal, StepView
from hpc.wire.messages import StepBrief
from tests.unit.agent.fakes import Mail, Store, Watcher, World, call, opening
from tests.unit.agent.test_loop import Model, loop_of, of

SECRET = "hf" + "_" + "aB3" * 12


class Leaking(Watcher):
    """Quotes a secret in its reason."""

    def observe(self, view: StepView) -> DriftSignal | None:
        signal = super().observe(view)
        return signal and msgspec.structs.replace(signal, reason=f"repeats HF_TOKEN={SECRET}")


class Post(Mail):
    """Remembers what was put into the outbox."""

    sent: tuple[DriftSignal, list[StepBrief]]

    async def raise_alert(self, signal: DriftSignal, *, alert: str, evidence: list[StepBrief], sent_at: float) -> str:
        self.sent = signal, evidence
        return await super().raise_alert(signal, alert=alert, evidence=evidence, sent_at=sent_at)


async def test_secrets_are_taken_out_before_the_outbox() -> None:
    store, world, mail = Store(opening()), World(2), Post()
    start = "x" * (BRIEF - len("run_command {'command': '") - 20) + " "  # the cut goes through the secret

    def answer(_messages: object) -> object:
        return call("finish") if world.count >= 2 else call("run_command", command=f"{start}{SECRET} --more")

    await loop_of(store, world, mail=mail, model=Model(answer), watcher=Leaking(1)).run()
    signal, evidence = mail.sent
    assert signal.reason == "repeats HF_TOKEN=[redacted]"
    assert evidence[0].action.startswith("run_command")
    assert SECRET[:10] not in evidence[0].action
    assert SECRET in str(of(store, ActionTaken)[0])
    assert SECRET in of(store, AlertRaised)[0].reason
