"""Composition root of training: what `hpc train` and `hpc checkpoint` do with a configuration or a run."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hpc import slurm
from hpc.config import config_hash, to_builtins
from hpc.config.train import TrainRunConfig
from hpc.core.errors import ConfigError, ExportFailed, HpcError, MissingExtra, SubmissionError, UsageError
from hpc.core.locks import exclusive
from hpc.examples import Dataset
from hpc.launch import Launch, provenance
from hpc.rundir import RunDir
from hpc.serving.preflight import resolve_model
from hpc.slurm import JobSpec
from hpc.training.layout import check, check_adapters
from hpc.training.packing import fingerprint, require_same_data, require_tokenizer, take_in
from hpc.training.shape import read_shape
from hpc.training.shelf import (
    Checkpoint,
    describe_adapters,
    parse_reference,
    refuse_broken_moves,
    refuse_other_adapters,
    shelf_of,
)

TRAIN = "train"


class TrainLaunch(Launch, kw_only=True):
    """What launching a training did."""

    world: int = 1

    def describe(self) -> list[str]:
        lines = [f"submitted {job.name}: {', '.join(job.ids)} ({self.executor})" for job in self.jobs]
        lines += [f"kept {name}: {why}" for name, why in (each.split(": ", 1) for each in self.kept)]
        at = f" --runs {shlex.quote(str(self.run.root.parent))}"
        at = at if self.run.root.parent != Path("runs").absolute() else ""
        return [*lines, f"run directory: {self.run.root}", f"next: hpc train status {self.run.name}{at} --watch"]


def launch_training(config: TrainRunConfig, *, overrides: Sequence[str] = (), dry_run: bool = False) -> TrainLaunch:
    """Submit a training, or go on with one: repeating the command submits only what is not alive or done.

    Raises:
        ConfigError: a value that cannot work, found before anything is submitted.
        DatasetError: the dataset cannot be used.
        SubmissionError: the cluster refused the job.
    """
    name = config.run.name or time.strftime(f"{config.train.method}-%Y%m%d-%H%M%S")
    config = _settled(config, name)
    spec = JobSpec(name=TRAIN, kind="train", payloads=[{}])
    executor = slurm.choose_executor(config.cluster)
    world = world_size(config, executor)
    root = Path(config.run.root) / name
    values, digest = to_builtins(config), config_hash(config)
    if dry_run:
        run = RunDir(root)
        run.require_same(values, digest)
        problems: list[HpcError] = []
        try:
            _check(config, world)
        except HpcError as error:
            problems.append(error)
        scripts = {TRAIN: slurm.render(spec, config.cluster, run)}
        return TrainLaunch(run=run, config=values, executor=executor, scripts=scripts, problems=problems, world=world)
    _check(config, world)
    run = RunDir.create(root, manifest=provenance(overrides), config=values, config_hash=digest)
    launch = TrainLaunch(run=run, config=values, executor=executor, world=world)
    with exclusive(run.launch_lock):
        _submit(launch, config, spec)
    return launch


def _submit(launch: TrainLaunch, config: TrainRunConfig, spec: JobSpec) -> None:
    run = launch.run
    if not slurm.is_recorded(run, TRAIN):
        try:
            launch.jobs.append(slurm.submit(spec, config.cluster, run))
        except SubmissionError:
            run.discard()  # nothing was ever submitted in it: it is no run, and its name is free
            raise
        return
    states = slurm.states(run, TRAIN)
    if slurm.unsure(states):
        raise SubmissionError(
            f"the state of the training of {run.name} is unknown: {states[0].reason}",
            "repeat the command when the scheduler answers, or on the machine that runs it",
        )
    if any(element.state in slurm.LIVE for element in states):
        launch.kept.append(f"{TRAIN}: already at work")
    elif run.done.exists():
        launch.kept.append(f"{TRAIN}: already trained")
    else:
        launch.jobs.append(slurm.resubmit(run, config.cluster, TRAIN, [0]))


def world_size(config: TrainRunConfig, executor: str) -> int:
    """Ranks of the training.

    Raises:
        ConfigError: more tasks than this machine starts.
    """
    resources = config.cluster.resources_for("train")
    tasks = resources.nodes * resources.tasks_per_node
    if executor == "local":
        if tasks > 1:
            raise ConfigError(
                f"cluster.resources.train asks for {tasks} tasks, this machine starts one",
                "set train.ranks_per_node for several ranks on one machine",
            )
        return config.train.ranks_per_node
    if resources.tasks_per_node > 1 and config.train.ranks_per_node > 1:
        raise ConfigError(
            f"cluster.resources.train.tasks_per_node={resources.tasks_per_node} and "
            f"train.ranks_per_node={config.train.ranks_per_node} would multiply",
            "let one of them start the ranks and leave the other at 1",
        )
    return tasks * config.train.ranks_per_node


def training_config(run: RunDir) -> TrainRunConfig:
    """The configuration that a training was launched with.

    Raises:
        UsageError: it is another kind of run.
    """
    try:
        return msgspec.convert(run.read_config(), TrainRunConfig)
    except msgspec.ValidationError as error:
        raise UsageError(f"{run.name} is no training that this version can read: {error}", "hpc run ls") from error


class Found(NamedTuple):
    """A whole checkpoint and the training that made it."""

    run: RunDir
    checkpoint: Checkpoint


def find_checkpoint(reference: str, root: Path) -> Found:
    """The checkpoint that ``RUN`` or ``RUN@WHICH`` means; RUN is a name under ``root`` or a folder.

    Raises:
        UsageError: no such training.
        CheckpointNotFound: it has no such checkpoint.
    """
    name, which = parse_reference(reference)
    run = find_training(name, root)
    return Found(run, shelf_of(run).find(which))


def find_training(name: str, root: Path) -> RunDir:
    """The training of this name under ``root``, or in this folder.

    Raises:
        UsageError: no such training.
    """
    run = RunDir.open(Path(name) if (Path(name) / "config.json").is_file() else root / name)
    training_config(run)
    return run


def export_checkpoint(found: Found, target: Path, *, dtype: str | None = None, adapters: bool = False) -> None:
    """Write a checkpoint as Hugging Face weights, in a process of its own; the folder appears when it is whole.

    Args:
        dtype: precision of the tensors, such as float32; None: what the model had that training began from.
        adapters: write the adapters alone, as peft and vLLM read them, not merged into the model.

    Raises:
        UsageError: the folder is there already, or the training has no adapters.
        ExportFailed: it could not be converted or written.
    """
    if target.exists():
        raise UsageError(f"{target} is there already", "name another folder with --to, or remove it")
    words = [sys.executable, "-P", "-m", "jobs.export", str(found.run.root), str(found.checkpoint.step), str(target)]
    words += ["--dtype", dtype] if dtype is not None else []
    if adapters:
        if not training_config(found.run).lora.enabled:
            raise UsageError(f"{found.run.name} trained the weights themselves", "export it without --adapters")
        words.append("--adapters")
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        why = next((line.removeprefix("error: ") for line in reversed(said) if line.startswith("error: ")), said[-1])
        raise ExportFailed(f"cannot export step {found.checkpoint.step} of {found.run.name}: {why}", "see above")


def _settled(config: TrainRunConfig, name: str) -> TrainRunConfig:
    """The configuration with its run's name, and paths that mean the same in every folder."""
    train: dict[str, Any] = {}
    if config.train.dataset:
        train["dataset"] = str(Path(config.train.dataset).expanduser().absolute())
    for key in ("start_from", "warm_start"):
        if (reference := getattr(config.train, key)) is not None:
            folder, which = parse_reference(reference)
            train[key] = str(Path(folder).expanduser().absolute()) + (f"@{which}" if which else "")
    return msgspec.structs.replace(
        config,
        run=msgspec.structs.replace(config.run, name=name),
        model=msgspec.structs.replace(config.model, path=resolve_model(config.model.path)),
        train=msgspec.structs.replace(config.train, **train),
    )


def _check(config: TrainRunConfig, world: int) -> None:
    """Find on the login node what would otherwise fail in the log of a job."""
    lacking = [name for name in ("torch", "megatron") if importlib.util.find_spec(name) is None]
    if lacking and config.cluster.python is None:
        raise MissingExtra(
            f"training needs {' and '.join(lacking)}",
            "pip install 'apollo-hpc[train]', or set cluster.python to an interpreter that has them",
        )
    if not config.train.dataset:
        raise ConfigError(
            "train.dataset is empty", "name a dataset: train.dataset=FOLDER (hpc dataset build makes one)"
        )
    if not Path(config.model.path).is_dir():
        raise ConfigError(
            f"model.path is {config.model.path!r}, training needs its files", "download it and name the folder"
        )
    shape = read_shape(Path(config.model.path))
    check(config.layout, shape, world)
    _check_optimizer(config)
    check_adapters(config.lora, shape)
    if config.train.packing and config.layout.context > 1:
        raise ConfigError(
            f"packed rows cannot be shared by layout.context={config.layout.context} ranks",
            "set train.packing=false, or layout.context=1",
        )
    for split in filter(None, (config.train.split, config.train.validation)):
        with Dataset(Path(config.train.dataset), split=split) as dataset:
            require_tokenizer(dataset, Path(config.model.tokenizer or config.model.path))
            take_in(dataset, config.train)
            if config.train.start_from is not None and split == config.train.split:
                data = fingerprint(config.train, dataset)
                _check_start(config, config.train.start_from, data, experts=bool(shape.experts))
    if config.train.warm_start is not None:
        _check_start(config, config.train.warm_start, None, experts=bool(shape.experts))


def _check_optimizer(config: TrainRunConfig) -> None:
    """Muon works on whole matrices, in an optimizer of their own."""
    if config.train.optimizer.kind != "muon":
        return
    if config.lora.enabled:
        raise ConfigError(
            "train.optimizer.kind=muon with lora=on: what it does to adapters was never proven",
            "set train.optimizer.kind=adamw, or lora=off",
        )
    layout = config.layout
    for key, value, wanted in (
        ("tensor", layout.tensor, 1),
        ("expert", layout.expert, 1),
        ("expert_tensor", layout.experts_tensor, 1),
        ("distributed_optimizer", layout.distributed_optimizer, False),
    ):
        if value != wanted:
            raise ConfigError(
                f"train.optimizer.kind=muon needs whole matrices on each rank, layout.{key} is {str(value).lower()}",
                f"set layout.{key}={str(wanted).lower()}, or train.optimizer.kind=adamw",
            )


def _check_start(config: TrainRunConfig, reference: str, data: dict[str, Any] | None, *, experts: bool) -> None:
    """The checkpoint of another run can be taken in this layout, and with ``data`` be gone on from."""
    checkpoint = find_checkpoint(reference, Path()).checkpoint
    if data is not None:
        require_same_data(data, checkpoint.data, checkpoint.folder)
    refuse_broken_moves(checkpoint.layout, to_builtins(config.layout), experts=experts)
    refuse_other_adapters(checkpoint, describe_adapters(config.lora))
