"""Episodes as the engine would record them, with ids of the shipped tokenizer; no server is needed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hpc.config.dataset import DatasetConfig
from hpc.datasets.chat import Chat
from hpc.rundir import RunDir
from hpc.trajectories import sealed
from hpc.trajectories.deltas import split_prompt
from hpc.trajectories.records import (
    Action,
    ActionTaken,
    EpisodeHeader,
    GuidanceApplied,
    Observation,
    Observed,
    OutcomeReached,
    Record,
)
from hpc.trajectories.turns import answer_message, real_user, result_message

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("edit_file", "run_command", "finish")]
T0 = 1_700_000_000.0


class Verdict(NamedTuple):
    train: bool
    reason: str = ""


@functools.cache
def chat() -> Chat:
    return Chat.load("shipped:minilab-tiny")


def config(**changes: Any) -> DatasetConfig:
    return DatasetConfig(**{"arm": "test", "filter": False, **changes})


def episode(
    steps: int = 5,
    *,
    name: str = "demo-00000",
    task: str = "lab-0",
    guidance: Mapping[int, Sequence[str]] | None = None,
    cut_off: Sequence[int] = (),
    summary_at: int = 0,
    score: float = 80.0,
    with_ids: bool = True,
    outputs: Callable[[int], str] = lambda step: f"stage {step} metric 25 low",
) -> list[Record]:
    """An episode of ``edit_file`` calls.

    Args:
        guidance: texts by the step after which they are applied.
        cut_off: steps whose answers a length limit cuts off.
        summary_at: before this step the first tool output is elided, which rewrites the context.
    """
    tokens = chat()
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You run a laboratory. Follow <real_user>."},
        {"role": "user", "content": f"MiniLab has 6 stages. {name}"},
    ]
    records: list[Record] = [
        EpisodeHeader(
            episode_id=name, run="demo", index=int(name[-5:]), task_id=task, task_family="minilab", split="train",
            seed=1, config_hash="0" * 16, created_at=T0, messages=[dict(message) for message in messages], tools=TOOLS,
        )
    ]  # fmt: skip
    context: list[int] = []
    for step in range(1, steps + 1):
        if step == summary_at:
            first = next(place for place, told in enumerate(messages) if told["role"] == "tool")
            messages[first] = {**messages[first], "content": "[elided]"}
        prompt = tokens.encode(tokens.render(messages, TOOLS, answer=True))
        shared, new = split_prompt(context, prompt)
        call = {
            "id": f"c{step}",
            "type": "function",
            "function": {"name": "edit_file", "arguments": f'{{"n": {step}}}'},
        }
        text = f'<tool_call>{{"name": "edit_file", "arguments": {{"n": {step}}}}}</tool_call>'
        answer = tokens.encode(text if step in cut_off else text + "<|end|>")
        context = prompt + answer
        taken = ActionTaken(
            step=step, at=T0 + step, action=Action(name="edit_file", arguments={"n": step}, call_id=f"c{step}"),
            tool_calls=[call], finish_reason="length" if step in cut_off else "tool_calls",
            shared_tokens=shared if with_ids else 0, new_prompt_ids=new if with_ids else [],
            token_ids=answer if with_ids else [], logprobs=[-0.5] * len(answer) if with_ids else [],
        )  # fmt: skip
        observed = Observed(step=step, at=T0 + step, observation=Observation(text=outputs(step)))
        records += [taken, observed]
        messages += [answer_message(taken), result_message(taken, observed)]
        for number, said in enumerate((guidance or {}).get(step, ())):
            records.append(
                GuidanceApplied(
                    id=f"{name}-g{step}-{number}", alert_id=None, annotator="ada", text=said, kind="knowledge",
                    sent_at=T0, delivered_at=T0, applied_at=T0 + step, applied_step=step,
                )
            )  # fmt: skip
            messages.append({"role": "user", "content": real_user(said)})
    ended = OutcomeReached(status="finished", at=T0 + 99, steps=steps, working_seconds=9.0, final_score=score)
    return [*records, ended]


def store(folder: Path, *episodes: list[Record]) -> list[Path]:
    """The episodes as sealed files of a run."""
    run = RunDir(folder)
    paths = []
    for index, records in enumerate(episodes):
        path = run.trajectory(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sealed.build(records))
        paths.append(path)
    return paths
