"""Plays the episodes of one array element, several at once in one process if it holds several."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import msgspec

from hpc.agent.context import ContextKeeper, context_config
from hpc.agent.costs import usage_of
from hpc.agent.loop import EpisodeLoop, Interrupted
from hpc.agent.mailbox import Mailbox
from hpc.agent.prompts import opening_messages
from hpc.agent.state import EpisodeState
from hpc.config.agent import SamplingConfig
from hpc.config.episodes import EpisodesConfig
from hpc.core import files
from hpc.core.errors import HpcError, JobError, PartialFailure
from hpc.core.prompts import read_prompt
from hpc.core.provenance import environment, hash_of
from hpc.drift.judge import JudgedMonitor
from hpc.drift.monitor import DriftMonitor
from hpc.gym.environment import Gym
from hpc.gym.snapshots import WorkspaceSnapshots
from hpc.rundir import RunDir
from hpc.serving.client import ModelClient, wait_ready
from hpc.slurm import REQUEUE, Allocation
from hpc.tasks import load_task
from hpc.trajectories.records import AttemptStarted, EpisodeHeader, ModelResponse, Usage
from hpc.trajectories.writer import NodeLocal, TrajectoryWriter

log = logging.getLogger(__name__)


class EpisodeJob(msgspec.Struct, frozen=True):
    """One array element: the episodes with these run-wide indices."""

    indices: list[int]

    def __call__(self, run: RunDir, allocation: Allocation) -> int:
        """0 when all its episodes are over, `REQUEUE` when some must go on elsewhere.

        Raises:
            PartialFailure: some episodes could not go on; each is named, all stay resumable.
        """
        return asyncio.run(self._play_all(run, allocation))

    async def _play_all(self, run: RunDir, allocation: Allocation) -> int:
        config = msgspec.convert(run.read_config(), EpisodesConfig)
        results = await asyncio.gather(
            *(_Episode(run, config, index, allocation).play() for index in self.indices), return_exceptions=True
        )
        failures = []
        for index, result in zip(self.indices, results, strict=True):
            if isinstance(result, BaseException) and not isinstance(result, Interrupted):
                if not isinstance(result, HpcError):
                    log.error("episode %d", index, exc_info=result)
                failures.append((index, result))
        if any(isinstance(result, Interrupted) for result in results):
            return REQUEUE if allocation.stop_reason != "cancel" else 1
        if len(failures) == 1 and len(self.indices) == 1 and isinstance(failures[0][1], HpcError):
            raise failures[0][1]
        if failures:
            named = "; ".join(f"episode {index}: {error}" for index, error in failures)
            raise PartialFailure(named, f"hpc episodes resume {run.name}")
        return 0


class _Episode:
    """Joins the parts of one episode and sees it through."""

    def __init__(self, run: RunDir, config: EpisodesConfig, index: int, allocation: Allocation) -> None:
        self.run = run
        self.config = config
        self.index = index
        self.allocation = allocation
        self.name = f"{run.name}-{index:05d}"
        self.task = load_task(config.task, config.run.first + index)

    async def play(self) -> None:
        if self.run.result(self.index).exists():
            return  # an earlier attempt saw it to its end
        with contextlib.closing(TrajectoryWriter.open(self.run, self.index, local=self._local())) as store:
            state = EpisodeState(store.records)
            if state.outcome is None:
                await self._attempt(store, state)
            await _seal(store)
        outcome = state.outcome
        if outcome is None:  # _attempt returned without an outcome: it cannot
            raise HpcError(f"episode {self.name} ended without an outcome")
        files.write_json(
            self.run.result(self.index),
            {
                "episode": self.name,
                "index": self.index,
                "status": outcome.status,
                "final_score": outcome.final_score,
                "best_score": outcome.best_score,
                "steps": outcome.steps,
                "reason": outcome.reason,
                "at": outcome.at,
            },
        )

    def _local(self) -> NodeLocal | None:
        wanted = self.config.run.local_dir
        if wanted is None:
            return None
        folder = Path(os.path.expandvars(wanted)).absolute()
        mark = hashlib.sha256(os.fsencode(self.run.root)).hexdigest()[:12]  # runs of one name do not meet
        return NodeLocal(folder / f"{self.name}-{mark}", self.config.run.publish_seconds)

    async def _attempt(self, store: TrajectoryWriter, state: EpisodeState) -> None:
        config = self.config
        self._show(state, "waiting", 0.0)
        live = await wait_ready(
            self.run,
            config.server,
            timeout=config.agent.model_wait_seconds,
            stopping=self._stopping,
            model=config.model.name,
        )
        if not live:
            raise Interrupted  # the job had to go before a server was there
        async with contextlib.AsyncExitStack() as stack:
            environment = Gym(self.task, self.run.workspace(self.index), self.run.task_state(self.index), config.gym)
            stack.push_async_callback(environment.close)
            description = await environment.start()
            if state.header is None:
                self._begin(store, state, description, environment.tools)
            self._start_attempt(store, state)
            model = ModelClient.for_run(
                self.run,
                config.server,
                model=config.model.name,
                sampling=config.agent.sampling,
                episode=self.name,
                wait_seconds=config.agent.model_wait_seconds,
                stopping=self._stopping,
            )
            stack.push_async_callback(model.close)
            mail = Mailbox(
                self.run,
                index=self.index,
                episode=self.name,
                epoch=state.epoch,
                task=self.task.id,
                applied={guidance.id: guidance.applied_step for guidance in state.guidance},
            )
            stack.push_async_callback(mail.close)
            await mail.start()
            watcher = await self._watcher(stack, description)

            def on_step(loop: EpisodeLoop, status: str) -> None:
                self._show(loop.state, status, watcher.score)
                mail.progress(loop.state.step, status, watcher.score, loop.state.last_score)

            def stopping() -> bool:
                return self._stopping() or mail.fenced

            loop = EpisodeLoop(
                config=config.agent,
                state=state,
                store=store,
                environment=environment,
                model=model,
                mail=mail,
                watcher=watcher,
                stopping=stopping,
                on_step=on_step,
                cost=self._cost,
                snapshots=WorkspaceSnapshots(self.run, self.index, config.gym.snapshots),
                keeper=ContextKeeper(
                    context_config(config.agent, config.model.max_model_len),
                    read_prompt(config.agent.context.prompt, "agent.context.prompt"),
                    model,
                    self._cost,
                ),
            )
            try:
                outcome = await loop.run()
            except Interrupted:
                if mail.fenced:
                    raise JobError(
                        f"a newer attempt of {self.name} has taken over", "nothing: it goes on there"
                    ) from None
                raise
            await mail.bye(outcome)

    async def _watcher(self, stack: contextlib.AsyncExitStack, description: str) -> DriftMonitor | JudgedMonitor:
        config, judge = self.config, self.config.drift.judge
        monitor = DriftMonitor(
            config.drift, max_steps=config.agent.max_steps, max_working_seconds=config.agent.max_working_seconds
        )
        if not (config.drift.enabled and judge.enabled):
            return monitor
        model = ModelClient.for_run(
            self.run,
            config.judge_server,
            model=judge.model or config.model.name,
            sampling=SamplingConfig(temperature=0.0, max_tokens=judge.answer_tokens),
            episode=f"{self.name}-judge",
            wait_seconds=judge.wait_seconds,
            stopping=self._stopping,
        )
        stack.push_async_callback(model.close)
        watcher = JudgedMonitor(monitor, model, judge, task=description)
        stack.push_async_callback(watcher.close)
        await watcher.start()
        return watcher

    def _begin(
        self, store: TrajectoryWriter, state: EpisodeState, description: str, tools: list[dict[str, Any]]
    ) -> None:
        found = environment(self.run.read_manifest().get("git"), self.config.runtime.image)
        header = EpisodeHeader(
            episode_id=self.name,
            run=self.run.name,
            index=self.index,
            task_id=self.task.id,
            task_family=self.task.family,
            split=self.task.split,
            seed=self.config.run.first + self.index,
            config_hash=str(files.read_json(self.run.config)["hash"]),
            environment=found,
            environment_hash=hash_of(found),
            created_at=time.time(),
            messages=opening_messages(self.config.agent.prompt, description),
            tools=tools,
        )
        store.append(header)
        state.apply(header)

    def _start_attempt(self, store: TrajectoryWriter, state: EpisodeState) -> None:
        attempt = AttemptStarted(
            epoch=state.epoch + 1,
            at=time.time(),
            host=os.uname().nodename,
            job_id=self.allocation.job_id,
            resumed_at_step=state.step,
        )
        store.append(attempt)
        state.apply(attempt)

    def _cost(self, answer: ModelResponse) -> Usage | None:
        return usage_of(answer, self.config.model.costs)

    def _stopping(self) -> bool:
        return self.allocation.stop_reason is not None

    def _show(self, state: EpisodeState, status: str, drift: float) -> None:
        """The live status line of this episode: replaced at each step, not worth an fsync."""
        _replace(
            self.run.progress(self.index),
            {
                "episode": self.name,
                "index": self.index,
                "task": self.task.id,
                "step": state.step,
                "state": status,
                "drift": round(drift, 3),
                "score": state.last_score,
                "best_score": state.best_score,
                "alerts": len(state.alerts),
                "guidance": len(state.guidance),
                "epoch": state.epoch,
                "working_seconds": round(state.working_seconds, 3),
                "updated_at": time.time(),
            },
        )


async def _seal(store: TrajectoryWriter) -> None:
    """Seal in a thread: it takes seconds for a long episode, and others play in this process. Also when
    cancelled it is seen to its end, as nobody may close the writer meanwhile."""
    sealing = asyncio.ensure_future(asyncio.to_thread(store.seal))
    try:
        await asyncio.shield(sealing)
    finally:
        await asyncio.wait([sealing])


def _replace(path: Path, value: dict[str, Any]) -> None:
    """Best effort: a full disk stops the episode at its log, not at its status line."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(value))
        temporary.replace(path)
