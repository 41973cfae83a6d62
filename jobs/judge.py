"""Asks the judge about the actions of some trajectories of a run, and keeps its answers for whoever labels."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from hpc.config.action_judge import ActionJudgeConfig
from hpc.config.agent import SamplingConfig
from hpc.config.episodes import EpisodesConfig
from hpc.config.server import ServerConfig
from hpc.core.errors import EndpointNotFound, PartialFailure, ServerNotReady, TrajectoryError
from hpc.rundir import RunDir
from hpc.serving.client import ModelClient
from hpc.slurm import REQUEUE, Allocation
from hpc.supervision.answers import Answers
from hpc.supervision.judge import ActionJudge, Judged
from hpc.trajectories.exchange.source import text_of
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import StepView
from hpc.trajectories.stepview import views_of

log = logging.getLogger(__name__)


class JudgeJob(msgspec.Struct, frozen=True):
    """One array element: the trajectories with these indices. Repeating it asks only what has no answer yet."""

    indices: list[int]
    judge: ActionJudgeConfig = ActionJudgeConfig()

    def __call__(self, run: RunDir, allocation: Allocation) -> int:
        """0 when all was asked that the budget allows, `REQUEUE` when the node must be given back before.

        Raises:
            PartialFailure: some trajectories cannot be read, or some questions had no answer of the form.
            EndpointNotFound, ServerNotReady: nobody answers.
        """
        return asyncio.run(self._ask_all(run, allocation))

    async def _ask_all(self, run: RunDir, allocation: Allocation) -> int:
        server, name = _whom(run, self.judge)
        client = ModelClient.for_run(
            run,
            server,
            model=name,
            sampling=SamplingConfig(temperature=0.0, max_tokens=self.judge.answer_tokens),
            episode=f"{run.name}-judge-{self.indices[0] if self.indices else 0}",
            wait_seconds=self.judge.wait_seconds,
            stopping=lambda: allocation.stop_reason is not None,
        )
        judge = ActionJudge(client, self.judge, Answers(run.judge_answers), name=name)
        problems: list[str] = []
        try:
            for index in self.indices:
                problems += await _judge_one(run, index, judge)
        except (EndpointNotFound, ServerNotReady):
            if allocation.stop_reason is None:
                raise
            return REQUEUE if allocation.stop_reason != "cancel" else 0
        finally:
            await client.close()
            log.info("%d questions asked, %d answered before, %d tokens", judge.calls, judge.cached, judge.tokens)
        if problems:
            raise PartialFailure("; ".join(problems), "run it again: only what has no answer is asked")
        return 0


async def judged_before(run: RunDir, index: int, config: ActionJudgeConfig) -> tuple[str, int, Judged]:
    """What the answers that are there say of one trajectory: the model's name, its steps, the judgements. Nobody
    is asked.

    Raises:
        TrajectoryError: it cannot be read.
    """
    _, name = _whom(run, config)
    task, views = _shown(run, index)
    judged = await ActionJudge(None, config, Answers(run.judge_answers), name=name).judge(views, task)
    return name, len(views), judged


def _shown(run: RunDir, index: int) -> tuple[str, list[StepView]]:
    with Trajectory.open((run, index)) as trajectory:
        task = "\n".join(
            text_of(message.get("content")) for message in trajectory.header.messages if message["role"] == "user"
        )
        return task, views_of(trajectory.records())


async def _judge_one(run: RunDir, index: int, judge: ActionJudge) -> list[str]:
    """Judge one trajectory; what went wrong with it, if anything."""
    try:
        task, views = _shown(run, index)
    except TrajectoryError as error:
        return [f"episode {index}: {error.message}"]
    judged = await judge.judge(views, task)
    if judged.left:
        log.warning("episode %d: the budget is used up, %d steps were not asked about", index, len(judged.left))
    if not judged.problems:
        return []
    step, problem = next(iter(judged.problems.items()))
    return [f"episode {index}: {len(judged.problems)} steps without an answer, the first step {step}: {problem}"]


def _whom(run: RunDir, judge: ActionJudgeConfig) -> tuple[ServerConfig, str]:
    """The server that is asked, and the model's name there."""
    if judge.url is not None and judge.model is not None:
        server = ServerConfig(
            name="judge", kind="external", urls=[judge.url], token_ids=False, api_key_env=judge.api_key_env
        )
        return server, judge.model
    config = msgspec.convert(run.read_config(), EpisodesConfig)
    return config.server, config.model.name
