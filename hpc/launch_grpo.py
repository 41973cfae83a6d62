"""Composition root of GRPO in rounds: rollouts of the weights as they are, an update, its export, again.

Every part of a round is a run or a file that is whole or absent, so the rounds may be left and gone on with at
any moment: what is there is taken, what is missing is made. The process that leads them does nothing else; the
work is in jobs.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from hpc import slurm
from hpc.config import config_hash, to_builtins
from hpc.config.episodes import EpisodesConfig, EpisodesRunConfig
from hpc.config.grpo import GrpoRunConfig
from hpc.config.server import RunDirConfig as ServerRunDirConfig
from hpc.config.server import ServerConfig, ServerRunConfig
from hpc.config.train import TrainRunConfig, TrainRunDirConfig
from hpc.core.errors import ConfigError, DatasetError, HpcError, JobFailed, UsageError
from hpc.core.locks import exclusive
from hpc.datasets.builder import build
from hpc.datasets.chat import Chat
from hpc.datasets.episode import OTHER_WEIGHTS
from hpc.evaluation.rounds import Round, mean_of_groups, read_rounds, superseded, write_round
from hpc.examples import MANIFEST, Manifest
from hpc.launch import EPISODES, Launch, launch_episodes, launch_server, provenance, resume_episodes, wait_until_gone
from hpc.launch_train import TRAIN, export_checkpoint, find_checkpoint, launch_training
from hpc.rundir import RunDir
from hpc.serving import registry
from hpc.serving.adapters import SERVER_ARGS, SERVER_ENV, push, served_rank
from hpc.serving.preflight import api_key, resolve_model
from hpc.training.metrics import read_metrics

POLL_SECONDS = 0.5
ASK_SECONDS = 5.0
"""How often the scheduler is asked; files are looked at more often."""

Serve = Callable[[int, str], ServerConfig | None]
"""(version, its weights) -> a server that has them now; None: the round's own will."""
Tell = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how many (0: nobody knows)."""


def open_rounds(config: GrpoRunConfig, *, overrides: Sequence[str] = ()) -> tuple[RunDir, GrpoRunConfig]:
    """The run directory of the rounds, made or gone on with; only `rounds.count` and what keeps or repeats
    work may differ from its first launch.

    Raises:
        ConfigError: it holds a run of another configuration.
    """
    config = _settled(config)
    run = RunDir(Path(config.run.root) / str(config.run.name))
    same = msgspec.structs.replace(
        config, rounds=msgspec.structs.replace(config.rounds, count=1, keep=1, retries=0, max_drift=1.0)
    )  # what may differ between launches
    run = RunDir.create(
        run.root, manifest=provenance(overrides), config=to_builtins(same), config_hash=config_hash(same)
    )
    return run, config


def plan_rounds(config: GrpoRunConfig) -> list[Launch]:
    """What the first round would submit: its rollouts, and its update, whose dataset is not there yet."""
    config = _settled(config)
    first = Leader(RunDir(Path(config.run.root) / str(config.run.name)), config)
    plans = [launch_episodes(first.rollouts_config(1, 0, config.model.path), dry_run=True)]
    return [*plans, launch_training(first.update_config(1, None), dry_run=True)]


def _require_fitting(config: GrpoRunConfig) -> None:
    """Refuse parts that do not make rounds together."""
    needed = (
        ("train.method", config.train.method, "grpo"),
        ("dataset.rewards", config.dataset.rewards, "score"),
        ("dataset.filter", config.dataset.filter, False),  # nobody labels actions between rounds
        ("dataset.validation_share", config.dataset.validation_share, 0.0),  # every rollout was played to be trained on
        ("train.start_from", config.train.start_from, None),  # a place in another dataset; warm_start names weights
        ("server.kind", config.server.kind, "vllm"),  # each round serves its own version
    )
    if config.lora.enabled:
        served_rank(config.lora.rank)
    for key, value, wanted in needed:
        if value != wanted:
            shown = str(wanted).lower() if wanted is False else "null" if wanted is None else wanted
            raise ConfigError(f"{key} is {value!r}, which rounds of GRPO cannot use", f"set {key}={shown}")


def _settled(config: GrpoRunConfig) -> GrpoRunConfig:
    _require_fitting(config)
    name = config.run.name or time.strftime("grpo-%Y%m%d-%H%M%S")
    model = msgspec.structs.replace(config.model, path=resolve_model(config.model.path))
    if not Path(model.path).is_dir():
        raise ConfigError(f"model.path is {model.path!r}, training needs its files", "download it and name the folder")
    return msgspec.structs.replace(config, run=msgspec.structs.replace(config.run, name=name), model=model)


def rounds_of(run: RunDir) -> list[Round]:
    """The rounds of a run that are over.

    Raises:
        UsageError: it is another kind of run.
    """
    if "rounds" not in run.read_config():
        raise UsageError(f"{run.name} is no GRPO in rounds", "name one that `hpc train grpo` without a dataset made")
    return read_rounds(run.rounds)


class Leader:
    """Leads the rounds of one run.

    Args:
        tell: learns what is being done.
    """

    def __init__(self, run: RunDir, config: GrpoRunConfig, *, tell: Tell = lambda what, done, of: None) -> None:
        self.run = run
        self.config = config
        self.tell = tell

    def lead(self) -> Iterator[Round]:
        """Make the rounds that are missing; each is given as it is over.

        Raises:
            UsageError: another process leads them; the lock goes with it.
            JobFailed: rollouts or an update failed more often than `rounds.retries` says.
            HpcError: the engine does not serve the weights that it should, or a part cannot be made.
        """
        busy = UsageError(
            f"another process leads the rounds of {self.run.name}",
            f"follow them with `hpc train rounds {self.run.name}`, or end that process first",
        )
        with exclusive(self.run.leader_lock, busy=busy):
            found = read_rounds(self.run.rounds)
            if len(found) >= self.config.rounds.count:
                return
            with self._serving() as serve:
                for number in range(len(found) + 1, self.config.rounds.count + 1):
                    found.append(self._round(number, found, serve))
                    write_round(self.run.rounds, found[-1])
                    self._prune(found)
                    yield found[-1]

    # ---- what a round consists of
    def rollouts_config(
        self, number: int, version: int, weights: str, server: ServerConfig | None = None
    ) -> EpisodesConfig:
        """The run of episodes that collects a round's rollouts with a version of the weights; ``server`` has it
        already, else the run serves it."""
        config, rounds = self.config, self.config.rounds
        seed = config.task.seed + (number - 1 if rounds.new_tasks else 0)
        return EpisodesConfig(
            run=EpisodesRunConfig(
                name=f"{config.run.name}-{number:03d}-rollouts",
                root=config.run.root,
                episodes=rounds.tasks * rounds.group,
                episodes_per_job=rounds.episodes_per_job,
            ),
            model=msgspec.structs.replace(config.model, name=self._name(version), path=weights),
            task=msgspec.structs.replace(config.task, repeats=rounds.group, seed=seed),
            cluster=config.cluster,
            runtime=config.runtime,
            server=server or config.server,
            agent=config.agent,
            gym=config.gym,
            drift=config.drift,
            annotators=config.annotators,
            router=config.router,
        )

    def update_config(self, number: int, before: str | None) -> TrainRunConfig:
        """The training on a round's rollouts, from the checkpoint of the update before."""
        config = self.config
        return TrainRunConfig(
            run=TrainRunDirConfig(name=f"{config.run.name}-{number:03d}-update", root=config.run.root),
            cluster=config.cluster,
            model=config.model,
            layout=config.layout,
            lora=config.lora,
            train=msgspec.structs.replace(
                config.train,
                dataset=str(self.run.dataset(number)),
                warm_start=before or config.train.warm_start,
                seed=config.train.seed + number,
            ),
        )

    def _round(self, number: int, before: Sequence[Round], serve: Serve) -> Round:
        updates = [each for each in before if each.update is not None]
        last = updates[-1] if updates else None
        version = last.number if last is not None else 0
        weights = str(last.export) if last is not None else self.config.model.path
        started = time.monotonic()
        base = self.config.model.path if self.config.lora.enabled else weights
        rollouts = self._collect(self.rollouts_config(number, version, base, serve(version, weights)))
        collected = time.monotonic()
        counts = self._dataset(number, rollouts, version)
        groups: dict[str, list[float]] = counts["rewards"]
        if not groups:
            why = ", ".join(f"{reason} ({count})" for reason, count in counts["left_out"].items()) or "see its report"
            raise JobFailed(
                f"no rollout of {rollouts.name} has a reward: {why}",
                f"mend it (hpc episodes status {rollouts.name}), hpc run clean {rollouts.name}, repeat the command",
            )
        done = Round(
            number=number, version=self._name(version), weights=weights, rollouts=rollouts.name,
            reward=mean_of_groups(groups), rewards=groups, groups=len(groups),
            episodes=counts["episodes"], used=counts["episodes_used"], stale=counts["left_out"].get(OTHER_WEIGHTS, 0),
            trained_tokens=counts["trained_tokens"], seconds={"rollouts": round(collected - started, 2)},
        )  # fmt: skip
        if not counts["examples"]:
            return done
        update = self._update(
            self.update_config(number, f"{self._path(last.update)}" if last and last.update else None)
        )
        figures = self._figures(update)
        trained = time.monotonic()
        export = self._export(update)
        seconds = {
            **done.seconds, "update": round(trained - collected, 2), "export": round(time.monotonic() - trained, 2)
        }  # fmt: skip
        return msgspec.structs.replace(done, update=update.name, export=str(export), seconds=seconds, **figures)

    def _collect(self, config: EpisodesConfig) -> RunDir:
        launch = launch_episodes(config)
        run, wanted, tries = launch.run, config.run.episodes, 0
        asked = time.monotonic()
        while True:
            there = sum(run.result(index).exists() for index in range(wanted))
            self.tell(f"rollouts with {config.model.name}", there, wanted)
            if there == wanted:
                break
            if time.monotonic() - asked > ASK_SECONDS:
                asked = time.monotonic()
                states = slurm.states(run, EPISODES)
                if not any(state.state in slurm.LIVE or state.state == "UNKNOWN" for state in states):
                    there = sum(run.result(index).exists() for index in range(wanted))
                    if there == wanted:
                        break
                    if tries == self.config.rounds.retries:
                        why = next((state.reason for state in states if state.reason), "see their logs")
                        raise JobFailed(
                            f"{wanted - there} of {wanted} rollouts of {run.name} have no outcome: {why}",
                            f"hpc episodes status {run.name}; repeating this command goes on",
                        )
                    tries += 1
                    resume_episodes(run)
            time.sleep(POLL_SECONDS)
        self.tell("waiting for the server to leave", 0, 0)
        wait_until_gone(run)  # the next round's server needs what this one's has
        return run

    def _dataset(self, number: int, rollouts: RunDir, version: int) -> dict[str, Any]:
        """The counts of a round's dataset; without a folder where no group teaches anything."""
        folder = self.run.dataset(number)
        if (folder / MANIFEST).exists():
            return dict(Manifest.read(folder / MANIFEST).about["counts"])
        shutil.rmtree(folder, ignore_errors=True)  # what a killed build left
        config = msgspec.structs.replace(
            self.config.dataset, model=self.config.model.path, versions=[self._name(version)]
        )
        wanted = self.config.rounds.tasks * self.config.rounds.group
        files = [path for index in range(wanted) if (path := rollouts.trajectory(index)).exists()]
        chat = Chat.load(config.model)

        def made(target: Path | None) -> dict[str, Any]:
            return build(
                files, target, config, chat, None, name=folder.name,
                on_source=lambda report: self.tell("building the dataset", report.episodes, len(files)),
            ).plain()  # fmt: skip

        try:
            return made(folder)
        except DatasetError:  # nothing to learn from is no error of a round; whatever else fails, fails again
            counts = made(None)
            if counts["examples"]:
                raise
            return counts

    def _update(self, config: TrainRunConfig) -> RunDir:
        for attempt in range(self.config.rounds.retries + 1):
            run = launch_training(config).run
            while (state := slurm.states(run, TRAIN)[0]).state in slurm.LIVE or state.state == "UNKNOWN":
                newest = [record for record in read_metrics(run.metrics) if record["kind"] in ("data", "step")]
                steps = next((int(record["steps"]) for record in newest if record["kind"] == "data"), 0)
                self.tell("update", max((int(record["step"]) for record in newest), default=0), steps)
                time.sleep(POLL_SECONDS)
            if state.state == "DONE":
                return run
            if attempt == self.config.rounds.retries:
                raise JobFailed(
                    f"the update {run.name} ended as {state.state}: {state.reason}",
                    f"hpc train logs {run.name}; repeating this command goes on",
                )
        raise AssertionError("unreachable")

    def _figures(self, update: RunDir) -> dict[str, Any]:
        """What the update was like.

        Raises:
            HpcError: trainer and engine disagree already at the first step.
        """
        steps = list(read_metrics(update.metrics, "step"))
        first, last = steps[0], steps[-1]
        if first["gap"] > self.config.rounds.max_drift:
            raise HpcError(
                f"trainer and engine differ by {first['gap']:.4f} (natural logarithm) at the first step of "
                f"{update.name}, more than rounds.max_drift={self.config.rounds.max_drift:g}",
                "the engine serves other weights, or computes differently: docs/training.md says how to tell",
            )
        names = {"ratio": first, "gap": first, "kl": last, "clipped": last, "grad_norm": first}
        return {"steps": len(steps), **{name: float(row[name]) for name, row in names.items()}}

    def _export(self, update: RunDir) -> Path:
        self.tell("exporting the weights", 0, 0)
        found = find_checkpoint(str(update.root), Path(self.config.run.root))
        target = update.export(found.checkpoint.step)
        if not target.exists():
            if self.config.lora.enabled:
                export_checkpoint(found, target, adapters=True)
            else:
                precision = "float32" if self.config.train.precision == "fp32" else None
                export_checkpoint(found, target, dtype=self.config.rounds.export_dtype or precision)
        return target

    # ---- parts
    @contextmanager
    def _serving(self) -> Iterator[Serve]:
        """How a version of the weights comes to be served: with adapters, by a server of all rounds that loads them
        while it runs; whole weights by each round's own server.

        Raises:
            JobFailed: that server does not come up.
        """
        config, lora = self.config, self.config.lora
        if not lora.enabled:
            yield lambda version, weights: None
            return
        args = [*config.server.extra_args, *SERVER_ARGS, str(served_rank(lora.rank))]
        server = msgspec.structs.replace(config.server, extra_args=args, env={**config.server.env, **SERVER_ENV})
        run = launch_server(
            ServerRunConfig(
                run=ServerRunDirConfig(name=f"{config.run.name}-server", root=config.run.root),
                cluster=config.cluster,
                runtime=config.runtime,
                model=msgspec.structs.replace(config.model, name=self._name(0)),
                server=server,
            )
        ).run

        def serve(version: int, weights: str) -> ServerConfig:
            urls = self._urls(run, server)
            if version > 0:
                push(urls, self._name(version), Path(weights), api_key=api_key(server))
            return msgspec.structs.replace(server, kind="external", urls=urls)

        try:
            yield serve
        finally:
            run.mark_done("the rounds are over, or were left")

    def _urls(self, run: RunDir, server: ServerConfig) -> list[str]:
        """Where all replicas answer, once they do."""
        while True:
            ready = [each for each in registry.live_endpoints(run, server.name) if each.state == "READY"]
            if len(ready) == server.replicas:
                return [each.url for each in ready]
            if failure := registry.failure(run, server.name):
                raise JobFailed(f"the server of {run.name} failed: {failure}", f"hpc server logs {run.name}")
            self.tell("waiting for the server", len(ready), server.replicas)
            time.sleep(POLL_SECONDS)

    def _name(self, version: int) -> str:
        """The name that a version is served under, which every answer then bears."""
        return f"{self.config.model.name}@{version}"

    def _path(self, name: str) -> Path:
        return Path(self.config.run.root) / name

    def _prune(self, rounds: Sequence[Round]) -> None:
        """Remove checkpoints and weights that nobody will ask for."""
        for update in superseded(rounds, keep=self.config.rounds.keep):
            folder = RunDir(self._path(update))
            for part in (folder.checkpoints, folder.root / "exports"):
                shutil.rmtree(part, ignore_errors=True)
