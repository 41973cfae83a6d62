"""The environment of one episode: actions in, observations out."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec

from hpc.config.gym import GymConfig
from hpc.core.errors import ActionError, EvaluatorError, GymError, SessionError
from hpc.gym import actions as act
from hpc.gym import render
from hpc.gym.files import Files
from hpc.gym.sessions import Session, Terminals
from hpc.gym.submissions import Submissions
from hpc.gym.task import Task
from hpc.trajectories.records import Action, Boundary, Evaluation, Observation


def session_environment(config: GymConfig, workspace: Path, extra: dict[str, str]) -> dict[str, str]:
    """The variables of a session: an allow-list of the job's own, then the task's.

    ``HOME`` is the workspace, so that programs keep their files there.
    """
    passed = {name: os.environ[name] for name in config.pass_environment if name in os.environ}
    return {
        "LANG": "C.UTF-8",
        "PATH": os.defpath,
        **passed,
        "HOME": str(workspace),
        "SHELL": config.shell,
        "TERM": "dumb",
        "PAGER": "cat",
        **extra,
    }


class Gym:
    """A task in its workspace; implements `hpc.agent.protocols.Environment`.

    What the agent did wrong becomes an error observation. What broke in the environment raises
    GymError, so that each failure has one boundary: ``model`` (no usable action), ``tool`` (an action
    that failed), ``evaluator`` or, by the exception, the environment.

    Args:
        task: the assignment.
        workspace: the folder that the agent works in.
        state_path: where the evaluation counter and the task's state are kept.
        config: actions, computers and limits.
    """

    def __init__(self, task: Task, workspace: Path, state_path: Path, config: GymConfig) -> None:
        self.task = task
        self.workspace = workspace.absolute()
        self.config = config
        self._state_path = state_path
        self._enabled = tuple(config.actions)
        self._tools = act.tool_schemas(self._enabled)  # made once: it takes as long as the rest of a step
        self._submissions: Submissions | None = None  # there is one as long as the environment runs

    @property
    def tools(self) -> list[dict[str, Any]]:
        """OpenAI tool schemas of the actions that the agent may take."""
        return self._tools

    @property
    def evaluations_left(self) -> int:
        """Submissions that the agent still has."""
        return self._started().left

    @property
    def best_score(self) -> float | None:
        """The highest score so far."""
        return self._started().best

    async def start(self) -> str:
        """Lay out the workspace, start the task's services; the task description.

        Raises:
            GymError: the workspace or the task's services cannot be made, or the state belongs to
                another task.
        """
        if self._submissions is None:
            submissions = Submissions(self._state_path, task_id=self.task.id, limit=self.task.max_evaluations)
            try:
                self.workspace.mkdir(parents=True, exist_ok=True)
                await asyncio.to_thread(self.task.prepare, self.workspace)
                extra = await self.task.start(self.workspace, submissions.state.task, submissions.save)
            except OSError as error:
                raise GymError(f"cannot prepare {self.workspace}: {error}", "free space or mend the folder") from error
            self._files = Files(
                self.workspace,
                max_bytes=self.config.max_file_bytes,
                shown_characters=self.config.shown_characters,
            )
            self._terminals = Terminals(
                [computer.computer_ip for computer in self.config.computer_pool],
                self.config.max_sessions,
                program=self.config.shell,
                workspace=self.workspace,
                environment=session_environment(self.config, self.workspace, extra),
                buffer_lines=self.config.buffer_lines,
            )
            self._submissions = submissions
        return self.task.description()

    def check(self, action: Action) -> Action:
        """The action itself when it fits a schema, else the null action with a ``problem``."""
        if action.problem:
            return action
        try:
            act.parse(action.name, action.arguments, self._enabled)
        except ActionError as error:
            return Action(name="null", call_id=action.call_id, problem=error.message)
        return action

    def is_repeatable(self, action: Action) -> bool:
        """Whether carrying the action out again after a crash changes nothing."""
        kind = act.ACTIONS.get(action.name)
        return kind is not None and kind.repeatable

    async def step(self, action: Action) -> Observation:
        """Carry out one action.

        Raises:
            GymError: the environment itself broke.
        """
        submissions = self._started()
        submissions.acting(evaluates=action.name == "eval")
        if action.problem or action.name == "null":
            reason = action.problem or "the null action does nothing"
            return _failure(reason, "model")
        try:
            parsed = act.parse(action.name, action.arguments, self._enabled)
        except ActionError as error:
            return _failure(error.message, "model")
        try:
            observation = await self._carry_out(parsed)
        except (ActionError, SessionError) as error:
            observation = _failure(error.message, "tool", polling=parsed.polling)
        except EvaluatorError as error:
            observation = _failure(error.message, "evaluator")
        return msgspec.structs.replace(observation, progress=self.task.progress(observation.text))

    async def final_evaluation(self) -> Evaluation:
        """The forced evaluation at the end of an episode; idempotent.

        Sessions are closed first: what still runs must not change what is judged.

        Raises:
            EvaluatorError: the evaluator broke.
        """
        submissions = self._started()
        await self._terminals.close_all()
        return await submissions.final(lambda: self.task.evaluate(self.workspace))

    async def close(self) -> None:
        """Stop sessions and services. The workspace stays."""
        if self._submissions is not None:
            self._submissions = None
            try:
                await self._terminals.close_all()
            finally:
                await self.task.stop()

    async def _carry_out(self, action: act.GymAction) -> Observation:
        match action:
            case act.CreateSession():
                session = await self._terminals.create(action.session_id, action.computer_ip)
                return Observation(text=render.session_created(session.session_id, session.computer_ip))
            case act.RunCommand():
                return await self._run(action)
            case act.GetSessionOutput():
                return self._look(action)
            case act.GetSessionStatus() | act.CheckSessionIdle():
                session = self._terminals.get(action.session_id, action.computer_ip)
                idle = isinstance(action, act.CheckSessionIdle)
                return _polled(render.session_idle(session.running) if idle else _line(session), session.look())
            case act.ListSessions():
                self._terminals.computer(action.computer_ip)
                moved = [session.look() for session in self._terminals]
                return _polled(render.session_list(_line(session) for session in self._terminals), any(moved))
            case act.InputInSession():
                self._terminals.get(action.session_id, action.computer_ip).type(action.input_text)
                return Observation(text=render.input_sent(action.session_id))
            case act.CloseSession():
                await self._terminals.close(action.session_id, action.computer_ip)
                return Observation(text=render.session_closed(action.session_id))
            case act.Sleep():
                return await self._sleep(action.sleep_time)
            case act.Eval():
                evaluation = await self._started().submit(lambda: self.task.evaluate(self.workspace))
                text = render.evaluated(evaluation.score, evaluation.message, evaluation.left)
                return Observation(text=text, evaluation=evaluation)
            case act.Finish():
                return Observation(text=render.finished(), terminated=True)
            case act.Think():
                return Observation(text=render.thought_logged())
            case _:
                return Observation(text=await asyncio.to_thread(self._on_files, action))

    def _on_files(self, action: act.GymAction) -> str:
        files = self._files
        match action:
            case act.OpenFile():
                return files.show(action.path, action.line_number, action.context_lines)
            case act.EditFile():
                return files.edit(action.path, action.start, action.end, action.content)
            case act.CreateFile():
                return files.create(action.filename, action.content)
            case act.SearchFile():
                return files.search(action.file_path, action.search_term)
            case act.ListFiles():
                return files.listing(action.path, show_hidden=action.show_hidden)
            case _:
                raise GymError(f"action {action.name} is defined but not carried out anywhere")

    # ---- sessions

    async def _run(self, action: act.RunCommand) -> Observation:
        session = await self._terminals.ensure(action.session_id, action.computer_ip)
        await session.run(action.command)
        session.look()
        if not action.wait_for_completion:
            return Observation(text=render.command_started(session.session_id))
        shown = self.config.shown_lines
        in_time = await session.wait(self.config.wait_limit_s)
        if not in_time:
            await session.kill()
        session.look()
        output = session.output.latest()[-self.config.shown_characters :]
        if not in_time:
            text = render.command_killed(output, self.config.wait_limit_s, shown=shown)
            return Observation(text=text, is_error=True, boundary="tool", info={"killed": True})
        code = session.exit_code or 0
        text = render.command_done(output, code, shown=shown)
        return Observation(text=text, is_error=code != 0, boundary="tool" if code else None, info={"exit_code": code})

    def _look(self, action: act.GetSessionOutput) -> Observation:
        session = self._terminals.get(action.session_id, action.computer_ip)
        if action.since_timestamp is not None:
            output = session.output.since(action.since_timestamp)
        else:
            output = session.output.latest(action.start_lines, action.end_lines)
        text = render.session_output(output[-self.config.shown_characters :], session.running, session.exit_code)
        return _polled(text, session.look())

    async def _sleep(self, seconds: float) -> Observation:
        seconds = min(seconds, self.config.sleep_cap_s)
        before = [session.moment for session in self._terminals]
        await asyncio.sleep(seconds)
        return _polled(render.slept(seconds), before != [session.moment for session in self._terminals])

    def _started(self) -> Submissions:
        if self._submissions is None:
            raise GymError("the environment is not started", "call start first")
        return self._submissions


def _line(session: Session) -> str:
    return render.session_line(session.session_id, session.computer_ip, session.running, session.exit_code)


def _polled(text: str, moved: bool) -> Observation:
    return Observation(text=text, polling=True, job_progressed=moved)


def _failure(reason: str, boundary: Boundary, *, polling: bool = False) -> Observation:
    return Observation(text=render.problem(reason), is_error=True, boundary=boundary, polling=polling)
