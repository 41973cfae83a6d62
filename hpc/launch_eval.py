"""Composition root of evaluations: for each model a run of episodes over the same tasks and seeds.

A run of its own for each model is what makes them comparable and repeatable: only what is missing is submitted,
a model's server ends with its last episode, and everything that reads runs reads evaluations.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from hpc import slurm
from hpc.config.annotators import AnnotatorsConfig
from hpc.config.drift import DriftConfig
from hpc.config.episodes import EpisodesConfig, EpisodesRunConfig
from hpc.config.evaluate import EvaluateRunConfig
from hpc.config.model import ModelConfig
from hpc.core.errors import ConfigError, UsageError
from hpc.launch import Launch, launch_episodes
from hpc.launch_train import TRAIN, Found, export_checkpoint, find_training, training_config
from hpc.rundir import RunDir
from hpc.serving.preflight import resolve_model
from hpc.training.shelf import parse_reference, shelf_of

ALL = "all"
WATCH_SECONDS = 2.0
URL = re.compile(r"https?://")


class Subject(NamedTuple):
    """A model to be evaluated: a checkpoint of a training, weights in Hugging Face format, or an endpoint.

    ``label`` tells it from the others in names of runs; ``weights`` is empty for an endpoint.
    """

    label: str
    weights: str = ""
    url: str = ""
    found: Found | None = None
    served_as: str = ""


def subjects_of(targets: Sequence[str], root: Path) -> list[Subject]:
    """What the words of a command line name: RUN (its newest checkpoint), RUN@STEP, RUN@best, RUN@all, a folder of
    weights, shipped:NAME, or NAME=http://HOST:PORT/v1 of an endpoint that serves NAME.

    Raises:
        UsageError: it is none of these, or two have the same label.
        CheckpointNotFound: the training has no such checkpoint.
    """
    found: list[Subject] = []
    for target in targets:
        name, _, url = target.partition("=")
        if URL.match(url):
            found.append(Subject(_label(name), url=url, served_as=name))
        elif target.startswith("shipped:"):
            found.append(Subject(_label(target.removeprefix("shipped:")), weights=resolve_model(target)))
        elif (Path(target) / "config.json").is_file() and not (Path(target) / "manifest.json").is_file():
            found.append(Subject(_label(Path(target).absolute().name), weights=str(Path(target).absolute())))
        else:
            found += _checkpoints(target, root)
    labels = [subject.label for subject in found]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UsageError(f"two models would be called {twice[0]}", "evaluate them under different eval.name")
    return found


def _checkpoints(target: str, root: Path) -> list[Subject]:
    name, which = parse_reference(target)
    try:
        run = find_training(name, root)
    except UsageError as error:
        raise UsageError(
            f"{target!r} is no training, no folder of weights and no endpoint",
            "name RUN[@STEP|@best|@all], a folder with config.json, shipped:NAME, or NAME=http://HOST:PORT/v1",
        ) from error
    shelf = shelf_of(run)
    chosen = shelf.stable() if which == ALL else [shelf.find(which)]
    if not chosen:
        raise UsageError(f"{run.name} has no whole checkpoint yet", f"hpc checkpoint ls {run.name}")
    return [
        Subject(_label(f"{run.name}-{each.step}"), weights=str(run.export(each.step)), found=Found(run, each))
        for each in chosen
    ]


def launch_evaluation(
    config: EvaluateRunConfig, subjects: Sequence[Subject], *, overrides: Sequence[str] = (), dry_run: bool = False
) -> list[Launch]:
    """Export what has no weights yet, then submit each model's run; what is there or over already is left alone.

    Raises:
        ConfigError: a value that cannot work, or tasks that are not held out.
        ExportFailed: a checkpoint could not be exported.
        SubmissionError: the cluster refused a job; what was submitted before stays, repeating goes on.
    """
    _require_held_out(config)
    launches = []
    for subject in subjects:
        found = subject.found
        if found is not None and not Path(subject.weights).exists():
            if dry_run:  # what training began from stands in for the weights that are not there yet
                subject = subject._replace(weights=training_config(found.run).model.path)
            else:
                export_checkpoint(found, Path(subject.weights))
        launches.append(launch_episodes(episodes_config(config, subject), overrides=overrides, dry_run=dry_run))
    return launches


def watch_training(
    config: EvaluateRunConfig, run: RunDir, *, servers: int, overrides: Sequence[str] = ()
) -> Iterator[tuple[str, Subject]]:
    """Evaluate each checkpoint of a training once it is whole, until the training is over and all are evaluated.
    Gives ("launched", checkpoint) and ("over", checkpoint) as it happens. May be left and repeated at any time.

    Args:
        servers: so many evaluations are at work at most, each with a server of its own.

    Raises:
        UsageError: it is no training.
        HpcError: as `launch_evaluation`.
    """
    training_config(run)
    _require_held_out(config)
    told: set[str] = set()
    while True:
        states = slurm.states(run, TRAIN)
        training = any(state.state in slurm.LIVE or state.state == "UNKNOWN" for state in states)
        subjects = _checkpoints(f"{run.root}@{ALL}", run.root) if shelf_of(run).stable() else []
        waiting: list[Subject] = []
        at_work = 0
        for subject in subjects:
            evaluated = RunDir(Path(config.eval.root) / f"{config.eval.name}-{subject.label}")
            if evaluated.done.exists():
                if subject.label not in told:
                    told.add(subject.label)
                    yield "over", subject
            elif evaluated.config.exists():
                at_work += 1
            else:
                waiting.append(subject)
        for subject in waiting[: max(0, servers - at_work)]:
            launch_evaluation(config, [subject], overrides=overrides)
            yield "launched", subject
        if not training and not waiting and not at_work:
            return
        time.sleep(WATCH_SECONDS)


def _require_held_out(config: EvaluateRunConfig) -> None:
    """Evaluations count on tasks that training cannot have met."""
    if not config.eval.name:
        raise ConfigError("eval.name is empty", "name the evaluation: eval.name=NAME; its runs are NAME-<model>")
    if config.task.split != "eval":
        raise ConfigError(
            f"task.split is {config.task.split!r}, evaluations use tasks that were held out", "set task=minilab_eval"
        )


def episodes_config(config: EvaluateRunConfig, subject: Subject) -> EpisodesConfig:
    """The run of episodes that evaluates one model."""
    evaluation = config.eval
    server = config.server
    if subject.url:
        server = msgspec.structs.replace(server, kind="external", urls=[subject.url])
    served = subject.served_as or subject.label
    return EpisodesConfig(
        run=EpisodesRunConfig(
            name=f"{evaluation.name}-{subject.label}",
            root=evaluation.root,
            episodes=evaluation.tasks * evaluation.seeds,
            first=evaluation.first * evaluation.seeds,
            episodes_per_job=evaluation.episodes_per_job,
        ),
        model=ModelConfig(name=served, path=subject.weights or served),
        task=msgspec.structs.replace(config.task, repeats=evaluation.seeds),
        cluster=config.cluster,
        runtime=config.runtime,
        server=server,
        agent=config.agent,
        gym=config.gym,
        drift=DriftConfig(enabled=False),
        annotators=AnnotatorsConfig(kind="none"),
        router=config.router,
    )


def _label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
