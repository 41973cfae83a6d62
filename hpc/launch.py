"""Composition root: a validated configuration becomes jobs, and jobs become a submission.

Every launch is repeatable: what is already alive or done is left alone, what is missing is
submitted.
"""

from __future__ import annotations

import getpass
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hpc import __version__, slurm
from hpc.agent.prompts import opening_messages
from hpc.config import config_hash, to_builtins
from hpc.config.action_judge import ActionJudgeConfig
from hpc.config.episodes import EpisodesConfig
from hpc.config.server import ServerRunConfig
from hpc.core import files
from hpc.core.errors import ConfigError, HpcError, JobError, SubmissionError, UsageError
from hpc.core.locks import exclusive
from hpc.core.provenance import git_state
from hpc.drift.judge import judge_prompt
from hpc.rundir import RunDir
from hpc.serving import registry
from hpc.serving.preflight import api_key, check_model
from hpc.slurm import Dependency, JobSpec, SubmittedJob
from hpc.wire import discovery
from hpc.wire.keys import create_run_keys

C = TypeVar("C", EpisodesConfig, ServerRunConfig)

EPISODES = "episodes"
ROUTER = "router"
STANDBY = "standby"
FINALIZE = "finalize"
LEAVE_SECONDS = 120.0
"""How long jobs may take to save and leave: servers drain, the router stays for late replies."""
SECRETS = ("SLACK_BOT_TOKEN", "SLACK_APP_TOKEN")
"""Environment variables that only the router's job may see."""


class Launch(msgspec.Struct, kw_only=True):
    """What a launch did (or, on a dry run, would do)."""

    run: RunDir
    config: dict[str, Any]
    executor: str
    jobs: list[SubmittedJob] = []
    kept: list[str] = []
    scripts: dict[str, list[str]] = {}
    problems: list[HpcError] = []
    """What a dry run found missing on this machine; a launch refuses it."""

    def summary(self) -> dict[str, Any]:
        """For --json."""
        return {
            "run": self.run.name,
            "directory": str(self.run.root),
            "executor": self.executor,
            "jobs": {job.name: job.ids for job in self.jobs},
            "kept": self.kept,
        }

    def describe(self) -> list[str]:
        """Job ids, the run directory and the exact next commands."""
        lines = [f"submitted {job.name}: {', '.join(job.ids)} ({self.executor})" for job in self.jobs]
        lines += [f"kept {name}: already there" for name in self.kept]
        lines.append(f"run directory: {self.run.root}")
        at = (
            f" --runs {shlex.quote(str(self.run.root.parent))}"
            if self.run.root.parent != Path("runs").absolute()
            else ""
        )
        lines.append(f"next: hpc episodes status {self.run.name}{at} --watch")
        return lines


# ---- launching --------------------------------------------------------------------------------


def launch_episodes(config: EpisodesConfig, *, overrides: Sequence[str] = (), dry_run: bool = False) -> Launch:
    """Servers, router, the array of episodes and the job that ends the run.

    Raises:
        ConfigError: a value that cannot work here, found before anything is submitted.
        SubmissionError: the cluster refused a job; what was submitted before it stays recorded.
    """
    name = config.run.name or time.strftime("episodes-%Y%m%d-%H%M%S")
    config = _settled(config, name)
    specs = [*_server_specs(config), *_router_specs(config), *_episode_specs(config)]
    if dry_run:
        return _plan(config, name, specs, lambda: _check(config))
    _check(config)
    run = _create(config, name, overrides, {"episodes": config.run.episodes})
    with exclusive(run.launch_lock):
        if slurm.is_recorded(run, EPISODES):
            return _continue(run, config)
        return _submit(run, config, specs)


def launch_server(config: ServerRunConfig, *, overrides: Sequence[str] = (), dry_run: bool = False) -> Launch:
    """Only the replicas of one server."""
    name = config.run.name or time.strftime(f"{config.server.name}-%Y%m%d-%H%M%S")
    config = _settled(config, name)
    if dry_run:
        return _plan(
            config, name, _server_specs(config), lambda: check_model(config.model, config.server, config.runtime)
        )
    check_model(config.model, config.server, config.runtime)
    run = _create(config, name, overrides, {})
    with exclusive(run.launch_lock):
        _reopen(run)
        return _submit(run, config, _server_specs(config))


def launch_router(run: RunDir, *, standby: bool = False) -> Launch:
    """The router of a run whose episodes are at work, again (after it was stopped or lost); or a second
    one that stands by.

    Raises:
        UsageError: no episode is alive, so nobody would ever end the router; or the run has none.
    """
    config = read_episodes_config(run)
    if config.annotators.kind == "none":
        raise UsageError(f"{run.name} was launched with annotators=none: it has no router", "launch a run with one")
    _check_annotators(config)
    with exclusive(run.launch_lock):
        if not _alive(run, EPISODES):
            raise UsageError(
                f"no episode of {run.name} is at work or every one is over",
                f"`hpc episodes resume {run.name}` starts what is missing, the router with it",
            )
        specs = [_spec(STANDBY, "router", [{"standby": True}], secrets=SECRETS)]
        return _submit(run, config, specs if standby else _router_specs(config))


def launch_judge(run: RunDir, indices: list[list[int]], judge: ActionJudgeConfig) -> Launch:
    """An array that asks the judge about a run's trajectories: one element for each list of indices.

    Raises:
        SubmissionError: it cannot be submitted.
    """
    config = read_episodes_config(run)
    payloads = [{"indices": each, "judge": to_builtins(judge)} for each in indices]
    with exclusive(run.launch_lock):
        return _submit(run, config, [_spec("judge", "judge", payloads)])


def resume_episodes(run: RunDir) -> Launch:
    """Submit again what of a run is not over: servers, router, and the episodes without an outcome.

    Raises:
        UsageError: every episode is over.
    """
    config = read_episodes_config(run)
    with exclusive(run.launch_lock):
        launch = _continue(run, config)
    if not launch.jobs and not launch.kept:
        raise UsageError(f"nothing to resume: every episode of {run.name} is over", f"hpc episodes status {run.name}")
    return launch


def _continue(run: RunDir, config: EpisodesConfig) -> Launch:
    payloads = _payloads(run)
    open_ones = [
        position
        for position, payload in enumerate(payloads)
        if any(not run.result(index).exists() for index in payload["indices"])
    ]
    if not open_ones:
        return Launch(run=run, config=to_builtins(config), executor=slurm.choose_executor(config.cluster))
    _check(config)
    _reopen(run)
    states = {element.index: element.state for element in _known_states(run, EPISODES)}
    launch = _submit(run, config, [*_server_specs(config), *_router_specs(config)])
    missing = [position for position in open_ones if states.get(position) not in slurm.LIVE]
    if missing:
        launch.jobs.append(slurm.resubmit(run, config.cluster, EPISODES, missing))
    if len(missing) < len(open_ones):
        launch.kept.append(EPISODES)
    if _alive(run, FINALIZE):
        launch.kept.append(FINALIZE)
    else:
        launch.jobs.append(slurm.submit(_finalize_spec(), config.cluster, run))
    return launch


def _reopen(run: RunDir) -> None:
    """Let a run that was done or cancelled go on: what is still leaving must not be taken for alive."""
    if run.done.exists():
        wait_until_gone(run)
        run.done.unlink(missing_ok=True)


def cancel_run(run: RunDir) -> int:
    """Cancel every live job of a run and wait until they have left; how many there were."""
    try:
        cancelled = slurm.cancel(run)
    finally:  # what could not be reached from here leaves by itself when it sees the mark
        run.mark_done("cancelled")
    wait_until_gone(run)
    return cancelled


def wait_until_gone(run: RunDir) -> None:
    """Wait for the jobs of a run that is done or cancelled to save and leave.

    Raises:
        JobError: some are still there after `LEAVE_SECONDS`.
    """
    deadline = time.monotonic() + LEAVE_SECONDS
    while left := sorted({element.job for element in _known_states(run) if element.state in slurm.LIVE}):
        if time.monotonic() > deadline:
            raise JobError(
                f"{', '.join(left)} of {run.name} did not leave within {LEAVE_SECONDS:g} s",
                f"see `hpc run status {run.name}`, then repeat the command",
            )
        time.sleep(0.2)


# ---- what a run is doing ----------------------------------------------------------------------


def element_of_episode(run: RunDir, index: int) -> int:
    """The array element that plays an episode.

    Raises:
        UsageError: the run has no such episode.
    """
    for position, payload in enumerate(_payloads(run)):
        if index in payload["indices"]:
            return position
    raise UsageError(f"{run.name} has no episode {index}", f"hpc episodes status {run.name}")


def episode_states(run: RunDir) -> dict[int, tuple[str, str]]:
    """Episode index -> the scheduler's (state, reason) of the element that plays it."""
    payloads = _payloads(run)
    states: dict[int, tuple[str, str]] = {}
    for element in slurm.states(run, EPISODES):
        if element.index < len(payloads):
            for index in payloads[element.index]["indices"]:
                states[int(index)] = (element.state, element.reason)
    return states


def services(run: RunDir) -> str:
    """One line on the run's servers and router."""
    config = run.read_config()
    parts = []
    server = str(config["server"]["name"])
    for replica in range(int(config["server"]["replicas"])):
        path = run.server_state(server, replica)
        state = str(files.read_json(path)["state"]) if path.exists() else "PENDING"
        parts.append(f"{server}/{replica} {state}")
    if config["annotators"]["kind"] != "none":
        parts.append("router down" if router_is_missing(run) else "router up")
    return "  ".join(parts)


def router_is_missing(run: RunDir) -> bool:
    """Whether the run is to have a router and none shows life."""
    info = discovery.read(run)
    alive = info is not None and not info.is_stale()
    return not alive and run.read_config().get("annotators", {}).get("kind") != "none"


# ---- parts ------------------------------------------------------------------------------------


def read_episodes_config(run: RunDir) -> EpisodesConfig:
    """The configuration that a run of episodes was launched with.

    Raises:
        ConfigError: it is another kind of run, or another version wrote it.
    """
    try:
        return msgspec.convert(run.read_config(), EpisodesConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{run.name} is not a run of episodes that this version can read: {error}", "name one of `hpc run ls`"
        ) from error


def _payloads(run: RunDir) -> list[dict[str, Any]]:
    """What each element of the episode array plays.

    Raises:
        UsageError: the run has no episodes.
    """
    if not run.elements(EPISODES).exists():
        raise UsageError(f"no episodes were submitted in {run.name}", "name another of `hpc run ls`")
    payloads: list[dict[str, Any]] = files.read_json(run.elements(EPISODES))["payloads"]
    return payloads


def _check(config: EpisodesConfig) -> None:
    """Find on the login node what would otherwise fail in the log of a job."""
    if config.drift.enabled and config.drift.judge.enabled:
        judge_prompt(config.drift.judge.prompt)
        api_key(config.judge_server)
    check_model(config.model, config.server, config.runtime)
    if config.server.kind == "external" and config.server.run is not None:
        _check_server_run(Path(config.server.run), config.server.name)
    opening_messages(config.agent.prompt, "")
    _check_annotators(config)


def _check_server_run(folder: Path, server: str) -> None:
    """The server of another run is up, or may still come up.

    Raises:
        ConfigError: there is no such run or server, or it is over.
    """
    run = RunDir(folder)
    if not run.config.is_file():
        raise ConfigError(
            f"server.run is {folder}, where no run is", "name the directory that `hpc server launch` printed"
        )
    started = run.read_config().get("server", {}).get("name")
    if started != server:
        raise ConfigError(f"the server of {run.name} is {started!r}, not {server!r}", f"set server.name={started}")
    living = any(element.job == f"serve-{server}" and element.state in slurm.LIVE for element in slurm.states(run))
    if not living and not registry.live_endpoints(run, server):
        why = registry.failure(run, server)
        raise ConfigError(
            f"the server of {run.name} is over{f': {why}' if why else ''}",
            "launch it again by repeating its `hpc server launch`, then submit",
        )


def _check_annotators(config: EpisodesConfig) -> None:
    if config.annotators.kind == "slack":
        from hpc.router.annotators.slack_tokens import load_tokens

        load_tokens(config.annotators)


def _settled(config: C, name: str) -> C:
    """The configuration with its run's name, and paths that mean the same in every folder."""
    model = config.model
    if model.path.startswith((".", "~")) or Path(model.path).is_dir():
        model = msgspec.structs.replace(model, path=str(Path(model.path).expanduser().absolute()))
    if config.server.run is not None:
        server_run = str(Path(config.server.run).expanduser().absolute())
        config = msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, run=server_run))
    return msgspec.structs.replace(config, run=msgspec.structs.replace(config.run, name=name), model=model)


def _spec(
    name: str,
    kind: str,
    payloads: list[dict[str, Any]],
    *,
    throttle: int | None = None,
    after: Sequence[Dependency] = (),
    secrets: Sequence[str] = (),
) -> JobSpec:
    hidden = tuple(variable for variable in SECRETS if variable not in secrets)
    return JobSpec(name=name, kind=kind, payloads=payloads, throttle=throttle, after=list(after), hide_env=hidden)


def _server_specs(config: EpisodesConfig | ServerRunConfig) -> list[JobSpec]:
    if config.server.kind == "external":
        return []
    server = config.server.name
    payloads = [{"server": server, "replica": replica} for replica in range(config.server.replicas)]
    return [_spec(f"serve-{server}", "serve", payloads)]


def _router_specs(config: EpisodesConfig) -> list[JobSpec]:
    if config.annotators.kind == "none":
        return []
    return [_spec(ROUTER, "router", [{}], secrets=SECRETS)]


def _episode_specs(config: EpisodesConfig) -> list[JobSpec]:
    count, each = config.run.episodes, config.run.episodes_per_job
    payloads = [{"indices": list(range(start, min(start + each, count)))} for start in range(0, count, each)]
    return [_spec(EPISODES, "episode", payloads, throttle=config.cluster.throttle), _finalize_spec()]


def _finalize_spec() -> JobSpec:
    return _spec(FINALIZE, "finalize", [{"job": EPISODES}], after=[Dependency(job=EPISODES, kind="afterany")])


def _plan(
    config: EpisodesConfig | ServerRunConfig, name: str, specs: list[JobSpec], check: Callable[[], None]
) -> Launch:
    """What would be submitted; touches nothing. What this machine lacks is noted: another may have it."""
    run = RunDir(Path(config.run.root) / name)
    run.require_same(to_builtins(config), config_hash(config))
    problems = []
    try:
        check()
    except HpcError as error:
        problems.append(error)
    return Launch(
        problems=problems,
        run=run,
        config=to_builtins(config),
        executor=slurm.choose_executor(config.cluster),
        scripts={spec.name: slurm.render(spec, config.cluster, run) for spec in specs},
    )


def _create(
    config: EpisodesConfig | ServerRunConfig, name: str, overrides: Sequence[str], extra: dict[str, Any]
) -> RunDir:
    run = RunDir.create(
        Path(config.run.root) / name,
        manifest={**provenance(overrides), **extra},
        config=to_builtins(config),
        config_hash=config_hash(config),
    )
    create_run_keys(run)
    return run


def _submit(run: RunDir, config: EpisodesConfig | ServerRunConfig, specs: list[JobSpec]) -> Launch:
    if not run.config.exists():  # while we waited for the lock, another launch of it was refused
        raise JobError(f"{run.name} has just been given up by another launch", "repeat the command")
    launch = Launch(run=run, config=to_builtins(config), executor=slurm.choose_executor(config.cluster))
    for spec in specs:
        if _alive(run, spec.name):
            launch.kept.append(spec.name)
            continue
        if spec.kind == "serve":
            registry.forget(run, config.server.name)  # an old FAILED would end the new wait for it
        try:
            launch.jobs.append(slurm.submit(spec, config.cluster, run))
        except SubmissionError:
            slurm.cancel(run, [job.name for job in launch.jobs])  # servers without episodes would idle
            if not run.jobs.exists():  # nothing was ever submitted in it: it is no run, and its name is free
                run.discard()
            raise
    return launch


def _alive(run: RunDir, job: str) -> bool:
    return any(element.state in slurm.LIVE for element in _known_states(run, job))


def _known_states(run: RunDir, job: str | None = None) -> list[slurm.ElementState]:
    """States that may be acted on: silence is neither life nor death.

    Raises:
        JobError: the scheduler does not say what became of some element.
    """
    elements = slurm.states(run, job)
    if unsure := slurm.unsure(elements):
        first = unsure[0]
        raise JobError(
            f"the state of {first.job} {first.index} of {run.name} is unknown: {first.reason or 'no answer'}",
            "try again once the scheduler answers, on the host that submitted it",
        )
    return elements


def provenance(overrides: Sequence[str]) -> dict[str, Any]:
    """Who launched what with which code. The command line holds no secrets: flags never do."""
    return {
        "apollo_hpc": __version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "user": getpass.getuser(),
        "command": shlex.join(["hpc", *sys.argv[1:]]),
        "overrides": list(overrides),
        "git": git_state(Path(__file__).resolve()),
    }
