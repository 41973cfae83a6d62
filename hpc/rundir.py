"""The run directory: sole owner of every path that one launch writes.

::

    runs/<name>/
      manifest.json          what was launched: versions, git state, command, episodes by index
      config.json            the resolved configuration (no secrets) and its hash
      jobs.json              every submitted job: backend, id, array chunk, dependencies
      elements/<job>.json    one array's elements: what each index runs (read by the jobs)
      endpoints/<server>/<replica>.json
      router.json            where the router listens, its generation and heartbeat
      judge/                 answers of the judge of actions, by the content of the question
      keys/                  CURVE keys and episode tokens (0700, files 0600)
      router/                the router's journal backup and its status
      episodes/<index>/      log.frames, workspace/, outbox.frames, inbox.frames, task.json, result.json
      trajectories/<index>.h5, index.json
      labels/<index>.jsonl   verdicts on actions, only ever added to
      checkpoints/step-<n>/  trained state, whole once its STABLE is there (hpc.training.shelf)
      meetings/<start>.json  where the ranks of one start of a training find each other
      metrics.jsonl  tensorboard/
      exports/<step>/        weights in Hugging Face format
      rounds/<n>.json        rounds of GRPO that are over; datasets/<n>/ what each was trained on
      snapshots/             workspaces by content: manifests/, objects/ (hpc.trajectories.snapshots)
      logs/  report/
      done.json              written when every episode has ended or the run was cancelled
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpc.core import files
from hpc.core.errors import ConfigError, HpcError, UsageError

LAYOUT_VERSION = 1


class RunDir:
    """Paths of one run. Making an instance touches nothing; `create` and `open` do."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def name(self) -> str:
        return self.root.name

    # ---- whole-run files
    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs.json"

    @property
    def launch_lock(self) -> Path:
        """Held while jobs are submitted, and while the run is marked done."""
        return self.root / "launch.lock"

    @property
    def done(self) -> Path:
        return self.root / "done.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def report(self) -> Path:
        return self.root / "report" / "index.html"

    def trajectory_page(self, index: int) -> Path:
        """The page of one trajectory, beside the report."""
        return self.root / "report" / f"{index:05d}.html"

    def elements(self, job: str) -> Path:
        """The element manifest of the job (array) called ``job``."""
        return self.root / "elements" / f"{job}.json"

    def element_results(self, job: str) -> Path:
        """Folder of the outcomes of the elements of ``job``, one file per index."""
        return self.root / "elements" / job

    def element_result(self, job: str, index: int) -> Path:
        return self.element_results(job) / f"{index}.json"

    def job_logs(self, job: str) -> Path:
        """Folder of the logs of the elements of ``job``."""
        return self.logs / job

    # ---- serving
    def endpoints(self, server: str) -> Path:
        return self.root / "endpoints" / server

    def endpoint(self, server: str, replica: int) -> Path:
        return self.endpoints(server) / f"{replica}.json"

    def server_state(self, server: str, replica: int) -> Path:
        """Why a server is in the state it is in, written by the serve job itself."""
        return self.root / "servers" / server / f"{replica}.json"

    @property
    def judge_answers(self) -> Path:
        """Folder of the judge's answers (`hpc.supervision.answers`); may be removed, and is then asked for anew."""
        return self.root / "judge"

    # ---- router
    @property
    def router(self) -> Path:
        return self.root / "router.json"

    @property
    def router_dir(self) -> Path:
        return self.root / "router"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    # ---- training
    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def meeting(self, start: str) -> Path:
        """Where the ranks of one start of a job find each other."""
        return self.root / "meetings" / f"{start}.json"

    @property
    def metrics(self) -> Path:
        """The figures of a training, one JSON line each."""
        return self.root / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    def export(self, step: int) -> Path:
        """The weights of a checkpoint in Hugging Face format."""
        return self.root / "exports" / f"step-{step:08d}"

    @property
    def rounds(self) -> Path:
        """The rounds of GRPO that are over, a file each (hpc.evaluation.rounds)."""
        return self.root / "rounds"

    @property
    def leader_lock(self) -> Path:
        """Held by the process that leads the rounds."""
        return self.root / "leader.lock"

    def dataset(self, number: int) -> Path:
        """What a round is trained on."""
        return self.root / "datasets" / f"round-{number:04d}"

    # ---- episodes
    def episode(self, index: int) -> Path:
        return self.root / "episodes" / f"{index:05d}"

    def log(self, index: int) -> Path:
        return self.episode(index) / "log.frames"

    def outbox(self, index: int) -> Path:
        return self.episode(index) / "outbox.frames"

    def inbox(self, index: int) -> Path:
        return self.episode(index) / "inbox.frames"

    def workspace(self, index: int) -> Path:
        return self.episode(index) / "workspace"

    def task_state(self, index: int) -> Path:
        return self.episode(index) / "task.json"

    def progress(self, index: int) -> Path:
        """Latest step, state, drift and score of a live episode; rewritten each step, not durable."""
        return self.episode(index) / "progress.json"

    def result(self, index: int) -> Path:
        return self.episode(index) / "result.json"

    def live_view(self, index: int, epoch: int) -> Path:
        return self.episode(index) / f"live-{epoch}.h5"

    def trajectory(self, index: int) -> Path:
        return self.root / "trajectories" / f"{index:05d}.h5"

    def labels(self, index: int) -> Path:
        """Verdicts on the actions of an episode (`hpc.trajectories.labels`)."""
        return self.root / "labels" / f"{index:05d}.jsonl"

    @property
    def trajectory_index(self) -> Path:
        """One line for each trajectory, kept by those who list them; may be removed at any time."""
        return self.root / "trajectories" / "index.json"

    @property
    def snapshots(self) -> Path:
        """Workspaces of all episodes, each distinct piece once."""
        return self.root / "snapshots"

    # ---- life
    @classmethod
    def create(cls, root: Path, *, manifest: dict[str, Any], config: dict[str, Any], config_hash: str) -> RunDir:
        """Make the directory, or return to an existing one launched with the same configuration.

        Raises:
            ConfigError: the directory holds a run of another configuration, or cannot be made.
        """
        run = cls(root)
        if run.config.is_file():
            run.require_same(config, config_hash)
            return run
        for folder in (run.root, run.logs, run.root / "elements", run.root / "episodes", run.root / "trajectories"):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"cannot make the run directory {folder}: {error.strerror}",
                    "set run.root to a folder that you may write to",
                ) from error
        files.write_json(run.manifest, {"layout": LAYOUT_VERSION, "created_at": time.time(), **manifest})
        files.write_json(run.config, {"hash": config_hash, "config": config})  # marker: last
        return run

    def require_same(self, config: dict[str, Any], config_hash: str) -> None:
        """Nothing, where no run is or one of this very configuration.

        Raises:
            ConfigError: a run of another configuration; the message names what differs.
        """
        if not self.config.is_file():
            return
        before = _mapping(files.read_json(self.config), self.config)
        if before.get("hash") == config_hash:
            return
        stored = before.get("config")
        written = json.loads(json.dumps(config))  # as it would be stored: a tuple is no list
        differing = sorted(_differing(stored if isinstance(stored, dict) else {}, written))
        shown = ", ".join(differing[:3]) + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
        raise ConfigError(
            f"{self.root} holds a run of another configuration ({shown or 'of another version'} differ)",
            f"choose another run.name, repeat the same overrides to resume, or remove it: hpc run clean {self.name}",
        )

    def discard(self) -> None:
        """Undo `create`: the marker first, so that it is no run from that moment on."""
        self.config.unlink(missing_ok=True)
        shutil.rmtree(self.root, ignore_errors=True)

    @classmethod
    def open(cls, root: Path) -> RunDir:
        """An existing run.

        Raises:
            UsageError: there is no run at ``root``.
        """
        run = cls(root)
        if not run.config.is_file():
            raise UsageError(f"no run directory at {root}", "name one of `hpc run ls`")
        return run

    def read_manifest(self) -> dict[str, Any]:
        """What was launched.

        Raises:
            HpcError: manifest.json is missing or damaged (so for `read_config` and its file).
        """
        return _mapping(files.read_json(self.manifest), self.manifest)

    def read_config(self) -> dict[str, Any]:
        """The configuration that it was launched with."""
        return _mapping(_mapping(files.read_json(self.config), self.config).get("config"), self.config)

    def mark_done(self, reason: str) -> None:
        """Tell servers and router of this run that their work is over."""
        files.write_json(self.done, {"reason": reason, "at": time.time()})


def _differing(before: dict[str, Any], now: dict[str, Any], where: str = "") -> Iterator[str]:
    """Dotted keys whose values differ."""
    for key in before.keys() | now.keys():
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differing(old, new, f"{where}{key}.")
        elif old != new:
            yield f"{where}{key}"


def make_folder(path: Path) -> None:
    """Make a folder of a run, and those above it, unless it is there.

    Raises:
        HpcError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HpcError(
            f"cannot make the folder {path}: {error.strerror}", "free space or mend the permissions"
        ) from error


def runs_under(root: Path) -> list[RunDir]:
    """The runs in ``root``, newest first. Hidden folders are none: what is being removed is hidden."""
    found: list[tuple[float, Path]] = []
    for marker in root.glob("*/config.json"):
        with contextlib.suppress(OSError):  # it was removed since
            if not marker.parent.name.startswith("."):
                found.append((marker.stat().st_mtime, marker.parent))
    return [RunDir(folder) for _, folder in sorted(found, reverse=True)]


def _mapping(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise HpcError(f"{path} is damaged: not what a launch writes", "restore it from a copy")
    return value
