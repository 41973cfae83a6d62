"""``hpc label judge``: ask a language model which actions were good."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.output import emit_json, emit_table, find_run, json_option, runs_option
from hpc.cli.plan import tell_launch

if TYPE_CHECKING:
    from hpc.config.action_judge import ActionJudgeConfig
    from hpc.rundir import RunDir


@click.command()
@click.argument("run_name", required=False, metavar="[RUN]")
@runs_option
@click.option("--url", metavar="URL", help="OpenAI-compatible endpoint, ends in /v1.  [default: the run's own server]")
@click.option("--model", metavar="NAME", help="Name of the model there.")
@click.option("--key-env", metavar="VARIABLE", help="Environment variable that holds the key of --url.")
@click.option("--calls", type=click.IntRange(min=1), default=1000, show_default=True, help="Budget: requests.")
@click.option("--tokens", type=click.IntRange(min=1), default=5_000_000, show_default=True, help="Budget: tokens.")
@click.option(
    "--jobs", type=click.IntRange(min=1), metavar="N", help="Submit an array of N elements instead of asking."
)
@click.option("--parallel", type=click.IntRange(min=1), default=4, show_default=True, help="Questions at a time.")
@click.option("--collect", is_flag=True, help="Ask nobody: take the answers that are there, as after --jobs.")
@json_option
def judge(
    run_name: str | None,
    runs_root: Path,
    url: str | None,
    model: str | None,
    key_env: str | None,
    calls: int,
    tokens: int,
    parallel: int,
    jobs: int | None,
    collect: bool,
    as_json: bool,
) -> None:
    """Ask a language model for facts about each action of RUN; verdicts follow from them (docs/judging.md).

    Answers are kept, so that repeating the command asks only what has no answer yet. The budget is that of one
    command, or of each element with --jobs.

    \b
    Examples:
      hpc label judge my-run --url http://judge:8000/v1 --model qwen3-32b --calls 200
      hpc label judge my-run --url http://judge:8000/v1 --model qwen3-32b --jobs 8
      hpc label judge my-run --url http://judge:8000/v1 --model qwen3-32b --collect
    """
    from hpc.config.action_judge import ActionJudgeConfig
    from hpc.core.errors import ConfigError, UsageError
    from hpc.trajectories.reader import stored_episodes

    run = find_run(run_name, runs_root)
    episodes = stored_episodes(run)
    if not episodes:
        raise UsageError(f"run {run.name} has no trajectory yet", f"see hpc episodes status {run.name}")
    try:
        config = ActionJudgeConfig(
            url=url, model=model, api_key_env=key_env, calls=calls, tokens=tokens, parallel=parallel
        )
    except ValueError as error:
        raise ConfigError(str(error), "see hpc label judge --help") from error
    if jobs is not None:
        from hpc.launch import launch_judge

        launch = launch_judge(run, [episodes[first::jobs] for first in range(min(jobs, len(episodes)))], config)
        tell_launch(launch, as_json)
        if not as_json:
            click.echo("then: the same command with --collect", err=True)
        return
    if not collect:
        _ask(run, episodes, config)
    _store(run, episodes, config, as_json)


def _ask(run: RunDir, episodes: list[int], config: ActionJudgeConfig) -> None:
    from hpc.core.errors import PartialFailure
    from hpc.slurm import Allocation
    from jobs.judge import JudgeJob

    try:
        JudgeJob(indices=episodes, judge=config)(run, Allocation(job_id=""))
    except PartialFailure as error:
        click.echo(f"warning: {error}", err=True)


def _store(run: RunDir, episodes: list[int], config: ActionJudgeConfig, as_json: bool) -> None:
    from jobs.judge import judged_before

    rows: list[dict[str, Any]] = []
    for index in episodes:
        name, steps, judged = asyncio.run(judged_before(run, index, config))
        rows.append(
            {
                "trajectory": f"{run.name}/{index}",
                "optimal": sum(one.verdict == "optimal" for one in judged.judgements),
                "suboptimal": sum(one.verdict == "suboptimal" for one in judged.judgements),
                "unsure": sum(one.verdict == "unsure" for one in judged.judgements),
                "without": steps - len(judged.judgements),
                "added": _label(run, index, name, steps, judged),
            }
        )
    if as_json:
        emit_json(rows)
        return
    columns = ["trajectory", "optimal", "suboptimal", "unsure", "without", "added"]
    emit_table(columns, [list(row.values()) for row in rows])


def _label(run: RunDir, index: int, model: str, steps: int, judged: Any) -> int:
    """Add the judgements as labels, once; how many were added. A pass says what the judgements are about, so that
    later answers are taken in too."""
    import hashlib

    from hpc.supervision.facts import VERSION
    from hpc.trajectories.labels import Label, Pass, add_labels, is_done, read_labels

    path, now = run.labels(index), time.time()
    said = hashlib.sha256(repr([(one.step, one.verdict) for one in judged.judgements]).encode()).hexdigest()[:16]
    done = Pass(
        author_kind="judge", author=model, rule="facts", rule_version=VERSION, steps=steps, at=now, settings=said
    )
    if not judged.judgements or is_done(read_labels(path), done):
        return 0
    labels = [
        Label(
            step=one.step,
            verdict=one.verdict,
            reason=one.reason,
            author_kind="judge",
            author=model,
            rule="facts",
            rule_version=VERSION,
            at=now,
            source="hpc label judge",
        )
        for one in judged.judgements
    ]
    add_labels(path, [*labels, done])
    return len(labels)
