"""Made-up episodes: the same arguments give the same records."""

from __future__ import annotations

import random
from pathlib import Path

from hpc.rundir import RunDir
from hpc.trajectories.deltas import split_prompt
from hpc.trajectories.records import (
    Action,
    ActionTaken,
    AlertRaised,
    AttemptStarted,
    ContextRewritten,
    EpisodeHeader,
    Evaluation,
    GuidanceApplied,
    Observation,
    Observed,
    OutcomeReached,
    Record,
    SnapshotTaken,
    Usage,
)

T0 = 1_760_000_000.0


def run_dir(root: Path, name: str = "demo") -> RunDir:
    """A run directory that passes for a launched one."""
    return RunDir.create(root / name, manifest={"episodes": 4}, config={}, config_hash="c0ffee")


def header(index: int = 0, run: str = "demo") -> EpisodeHeader:
    return EpisodeHeader(
        episode_id=f"{run}-{index:05d}",
        run=run,
        index=index,
        task_id=f"minilab/{index}",
        task_family="minilab",
        split="test",
        seed=index,
        config_hash="c0ffee",
        created_at=T0,
        messages=[{"role": "system", "content": "You work in a lab."}, {"role": "user", "content": "Mach Gold ✨"}],
        tools=[{"type": "function", "function": {"name": "think", "parameters": {}}}],
        environment_hash="e" * 64,
        environment={"version": "0.1"},
    )


def attempt(epoch: int, step: int = 0) -> AttemptStarted:
    return AttemptStarted(
        epoch=epoch, at=T0 + 10 * step, host=f"node{epoch}", job_id=f"{100 + epoch}", resumed_at_step=step
    )


def outcome(steps: int, status: str = "finished") -> OutcomeReached:
    return OutcomeReached(
        status=status,  # type: ignore[arg-type]
        at=T0 + 10 * steps + 9,
        steps=steps,
        working_seconds=9.5 * steps,
        final_score=40.0,
        best_score=53.3,
        reason="the agent finished",
    )


def step_records(number: int, context: list[int], rng: random.Random, size: int = 40) -> list[Record]:
    """Action and observation of one step; ``context`` grows as the model's context does."""
    prompt = context[: len(context) - (3 if number % 7 == 0 else 0)] + [rng.randrange(150_000) for _ in range(5)]
    shared, new = split_prompt(context, prompt)
    answer = [rng.randrange(150_000) for _ in range(4)]
    context[:] = prompt + answer
    malformed = number % 9 == 0
    score = 10.0 * number if number % 5 == 0 else None
    name = "null" if malformed else ("run_command", "eval", "think")[number % 3]
    taken = ActionTaken(
        step=number,
        at=T0 + 10 * number,
        action=Action(
            name=name,
            arguments={} if malformed else {"command": f"echo {number}", "n": number, "deep": {"x": [1.5, None, True]}},
            call_id=f"call-{number}",
            problem="no tool call" if malformed else "",
        ),
        text=f"Schritt {number}: " + "δ" * size,
        tool_calls=[{"id": f"call-{number}", "function": {"name": name, "arguments": "{}"}}],
        finish_reason="tool_calls",
        shared_tokens=shared,
        new_prompt_ids=new,
        token_ids=answer,
        logprobs=[-rng.random() for _ in answer],
        endpoint="http://n1:8000/v1",
        model="tiny",
        model_seconds=0.25,
        usage=Usage(prompt_tokens=len(prompt), completion_tokens=4, cached_tokens=shared, cost=0.001)
        if number % 2
        else None,
        duplicate_spans=[(1, 3)] if number % 10 == 1 and number > 1 else [],
    )
    observed = Observed(
        step=number,
        at=T0 + 10 * number + 1,
        observation=Observation(
            text=f"line {number}\n" * (size // 8) + "[exit 0]",
            is_error=number % 4 == 0,
            boundary="tool" if number % 4 == 0 else None,
            progress=number / 100,
            evaluation=None if score is None else Evaluation(score=score, message=f"{score} of 100", left=3),
            info={"exit_code": 0},
        ),
        working_seconds=9.5 * number,
    )
    return [taken, observed]


def alert(number: int, step: int) -> AlertRaised:
    return AlertRaised(
        id=f"demo-a{number}",
        detector="repeat",
        score=0.75,
        step=step,
        reason="the same command, three times",
        evidence=[step - 1, step],
        sent_at=T0 + 10 * step + 2,
    )


def guidance(number: int, step: int) -> GuidanceApplied:
    sent = T0 + 10 * step + 3
    return GuidanceApplied(
        id=f"gu-{number}",
        alert_id=f"demo-a{number}",
        annotator="ada",
        text="for cobalt set anneal to 450C",
        kind="knowledge",
        sent_at=sent,
        delivered_at=sent + 0.5,
        applied_at=sent + 4,
        applied_step=step,
    )


def summary(number: int, step: int) -> ContextRewritten:
    """A summary of all but the last three steps, quoting the guidance among them."""
    last = step - 3
    return ContextRewritten(
        number=number,
        at=T0 + 10 * step + 8,
        after_step=step,
        last_step=last,
        text=f"So far: {step} steps ✨",
        guidance=[f"gu-{one}" for one in range(1, step // 6 + 1) if one * 6 <= last],
        written_by="tiny",
        model_seconds=1.5,
        usage=Usage(prompt_tokens=900, completion_tokens=60, gpu_seconds=1.5),
    )


def snapshot(step: int) -> SnapshotTaken:
    return SnapshotTaken(
        id=f"{step:064x}", step=step, at=T0 + 10 * step + 8.5, files=3, size=4096, stored=512, seconds=0.01
    )


def episode(steps: int = 12, *, index: int = 0, finished: bool = True, size: int = 40) -> list[Record]:
    """A whole episode: two attempts, an alert and guidance every sixth step, a summary and a snapshot every
    tenth, an outcome if finished."""
    rng = random.Random(index)
    context: list[int] = []
    records: list[Record] = [header(index), attempt(1)]
    for number in range(1, steps + 1):
        if number == steps // 2 + 1:
            records.append(attempt(2, number - 1))
        records += step_records(number, context, rng, size)
        if number % 6 == 0:
            records += [alert(number // 6, number), guidance(number // 6, number)]
        if number % 10 == 0:
            records += [summary(number // 10, number), snapshot(number)]
    return [*records, outcome(steps)] if finished else records
