"""Episodes as an engine with the shipped tokenizer would have recorded them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpc.datasets.template import Template
from hpc.rundir import RunDir
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
from hpc.trajectories.writer import TrajectoryWriter


def advice(step: int, text: str = "use the salt bath", number: int = 1) -> GuidanceApplied:
    return GuidanceApplied(
        id=f"g{step}-{number}", alert_id=None, annotator="ada", text=text, kind="strategy",
        sent_at=1.0, delivered_at=2.0, applied_at=3.0, applied_step=step,
    )  # fmt: skip


def played(
    template: Template,
    *,
    steps: int = 4,
    index: int = 0,
    task: str = "minilab-1",
    guidance: tuple[GuidanceApplied, ...] = (),
    score: float | None = 50.0,
    status: Any = "finished",
    tokens: bool = True,
    rewrite_at: int | None = None,
    cut_off_at: int | None = None,
    elide: bool = False,
    summary: str = "summary: nothing worked so far",
) -> list[Record]:
    """An episode of ``steps`` steps.

    Args:
        tokens: False leaves the ids out, as an import would.
        rewrite_at: at this step the context before was replaced by a summary.
        cut_off_at: this step's answer was cut off by a limit.
        elide: all but the newest result are shortened, as `agent.keep_observations` does.
        summary: what takes the place of the context at ``rewrite_at``.
    """
    opening = [
        {"role": "system", "content": "You run a laboratory. Follow <real_user>."},
        {"role": "user", "content": f"task {task}"},
    ]
    header = EpisodeHeader(
        episode_id=f"run-{index:05d}", run="run", index=index, task_id=task, task_family="minilab", split="train",
        seed=index, config_hash="0" * 16, created_at=1.0, messages=opening,
    )  # fmt: skip
    records: list[Record] = [header]
    messages: list[dict[str, Any]] = list(opening)
    context: list[int] = []
    for step in range(1, steps + 1):
        if step == rewrite_at:
            messages = [*opening, {"role": "user", "content": summary}]
        results = [n for n, one in enumerate(messages) if str(one["content"]).startswith("result ")]
        shown = [{**one, "content": "elided"} if elide and n in results[:-1] else one for n, one in enumerate(messages)]
        prompt = template.ids(shown, answer=True)
        shared = 0
        while shared < min(len(prompt), len(context)) and prompt[shared] == context[shared]:
            shared += 1
        text = f"step {step} of {index}"
        answer = template.tokenizer(text, add_special_tokens=False)["input_ids"] + [template.end]
        if step == cut_off_at:
            answer = answer[:-1]
        taken = ActionTaken(
            step=step, at=float(step), action=Action(name="think", arguments={"thought": text}), text=text,
            shared_tokens=shared if tokens else 0, new_prompt_ids=prompt[shared:] if tokens else [],
            token_ids=answer if tokens else [], logprobs=[-0.5] * len(answer) if tokens else [],
        )  # fmt: skip
        observed = Observed(step=step, at=step + 0.5, observation=Observation(text=f"result {step}"))
        records += [taken, observed]
        context = [*prompt, *answer]
        messages += [answer_message(taken), result_message(taken, observed)]
        for one in guidance:
            if one.applied_step == step:
                records.append(one)
                messages.append({"role": "user", "content": real_user(one.text)})
    records.append(
        OutcomeReached(status=status, at=99.0, steps=steps, working_seconds=9.0, final_score=score, best_score=score)
    )
    return records


def store(root: Path, *episodes: list[Record]) -> RunDir:
    """A run with these episodes, sealed."""
    run = RunDir.create(root / "run", manifest={"run": "run"}, config={}, config_hash="0" * 16)
    for index, records in enumerate(episodes):
        with TrajectoryWriter.open(run, index) as writer:
            writer.append(*records)
            writer.seal()
    return run
