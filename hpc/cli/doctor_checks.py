"""What ``hpc doctor`` looks at. Each check stands alone: it returns one finding, and one that fails,
hangs or breaks never hides another."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from hpc.core.errors import HpcError

if TYPE_CHECKING:
    from hpc.config.episodes import EpisodesConfig

OLDEST_PYTHON = (3, 11)
LIMIT_S = 20.0
"""A check that takes longer has hung, as a dead network file system does."""

TRAINING = ("torch", "megatron", "safetensors", "transformers")
"""Packages that the command line looks for before it submits a training."""

_EGRESS_S = 5.0
_GIB = 1024**3
_LOW_GIB = 10.0
_TOO_LOW_GIB = 1.0


Status = Literal["ok", "warn", "fail"]
Outcome = tuple[Status, str, str]
"""Status, what was found, and how to mend it (empty when all is well)."""


class Finding(msgspec.Struct, frozen=True):
    """What one check found."""

    check: str
    status: Status
    message: str
    mend: str = ""


class Subject(msgspec.Struct, frozen=True):
    """What is looked at: a configuration and the folder of the runs."""

    config: EpisodesConfig
    runs: Path
    environ: Mapping[str, str]


Check = Callable[[Subject], Outcome]


def check_python(subject: Subject) -> Outcome:
    """The interpreter is new enough, and the system is Linux."""
    found = f"Python {platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return "fail", found, "install Python 3.11 or newer and run scripts/setup again"
    if sys.platform != "linux":
        return "fail", f"{found} on {sys.platform}", "run it on Linux: sessions and Slurm need it"
    return "ok", found, ""


def check_packages(subject: Subject) -> Outcome:
    """What the configuration needs is installed; the protocol can encrypt."""
    import zmq

    if not zmq.has("curve"):
        return "fail", "this ZeroMQ was built without CURVE encryption", "reinstall pyzmq from a wheel"
    missing = [name for name in ("slack_sdk", "aiohttp") if importlib.util.find_spec(name) is None]
    if not missing:
        return "ok", "all packages are installed", ""
    text = f"{' and '.join(missing)} not installed: no Slack"
    mend = "pip install 'apollo-hpc[router]'"
    return ("fail" if subject.config.annotators.kind == "slack" else "warn"), text, mend


def check_hdf5(subject: Subject) -> Outcome:
    """A compressed trajectory can be written and read back."""
    import h5py
    import hdf5plugin
    import numpy as np

    data = np.arange(10_000)
    with h5py.File("doctor.h5", "w", driver="core", backing_store=False) as file:
        written = file.create_dataset("x", data=data, chunks=True, **hdf5plugin.Zstd(clevel=3))
        same = bool((written[:] == data).all())
    version = f"HDF5 {h5py.version.hdf5_version}, h5py {h5py.version.version}"
    if not same:
        return "fail", f"{version}: zstd data does not read back", "reinstall h5py and hdf5plugin"
    return "ok", f"{version}, zstd works", ""


def check_shell(subject: Subject) -> Outcome:
    """The agents' shell is a bash."""
    shell = subject.config.gym.shell
    mend = "install bash, or set gym.shell to the path of one"
    try:
        done = subprocess.run([shell, "--version"], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except OSError as error:
        return "fail", f"{shell}: {error.strerror}", mend
    first = done.stdout.partition("\n")[0]
    if "bash" not in first:
        return "fail", f"{shell} is no bash", mend
    return "ok", first, ""


def check_slurm(subject: Subject) -> Outcome:
    """Which scheduler there is, and whether it lets jobs resume."""
    from hpc.slurm.facts import choose_executor, cluster_facts

    cluster = subject.config.cluster
    try:
        executor = choose_executor(cluster)
    except HpcError as error:
        return "fail", error.message, error.hint
    if executor == "local":
        found = "jobs run as processes on this machine"
        if cluster.executor == "local":
            return "ok", f"{found} (cluster.executor=local)", ""
        return "warn", f"no Slurm here: {found}", "for a cluster, log in to a node that has sbatch"
    facts = cluster_facts()
    if not facts.available:
        return "fail", facts.problem, "mend Slurm (`scontrol ping`), or use cluster=local"
    names = ", ".join(partition.name for partition in facts.partitions) or "none"
    found = f"Slurm {facts.version} ({facts.cluster}), partitions: {names}, arrays up to {facts.max_array_size - 1}"
    if cluster.partition is not None and cluster.partition not in {partition.name for partition in facts.partitions}:
        return "fail", f"{found}; cluster.partition={cluster.partition} is none of them", "set it to one of them"
    if not facts.requeue:
        return "warn", f"{found}; JobRequeue=0", "resume by hand (`hpc episodes resume`), or ask for JobRequeue=1"
    if not facts.accounting:
        return "warn", f"{found}; no accounting", "nothing to do: states of old jobs are read from the run directory"
    return "ok", found, ""


def check_runs_folder(subject: Subject) -> Outcome:
    """Files in the runs folder can be replaced durably and locked."""
    from hpc.core import files

    mend = "choose another folder with --runs (HPC_RUNS), one that every node mounts"
    try:
        subject.runs.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=subject.runs))
    except OSError as error:
        return "fail", f"cannot write to {subject.runs}: {error.strerror}", mend
    kind, options = mount_of(folder)
    found = f"{subject.runs} on {kind}"
    hdf5 = ""
    try:
        files.write_json(folder / "probe.json", {})
        problem = locking_problem(folder) or mount_problem(options)
        hdf5 = "" if problem else hdf5_locking_problem(folder / "lock.h5")
    except (HpcError, OSError) as error:
        problem = str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if problem:
        return "fail", f"{found}: {problem}", f"mount it with locks (Lustre: flock; NFS: version 4), or {mend}"
    if hdf5:
        return "warn", f"{found}: {hdf5}", "export HDF5_USE_FILE_LOCKING=FALSE for h5py and h5dump; hpc needs none"
    if kind.startswith(("nfs", "lustre", "gpfs", "beegfs", "cifs", "fuse")):
        return "ok", f"{found}, locks hold", "if steps are slow: run.local_dir='$TMPDIR' keeps logs on the node"
    return "ok", f"{found}, locks hold", ""


def locking_problem(folder: Path) -> str:
    """What is wrong with file locks in a folder; empty when they hold."""
    path = folder / "lock"
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for _ in range(2))
    try:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return f"flock fails ({error.strerror})"
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return "flock does not exclude a second owner"
    finally:
        os.close(second)
        os.close(first)
    return ""


def mount_problem(options: str) -> str:
    """What the options of a mount say against locks between nodes, which one node cannot try; empty if nothing."""
    given = options.split(",")
    for option in ("noflock", "localflock", "nolock", "local_lock=flock", "local_lock=all"):
        if option in given:
            return f"it is mounted with {option}: locks do not reach other nodes"
    return ""


def hdf5_locking_problem(path: Path) -> str:
    """What is wrong with HDF5's own locks, which our files do without but other programs ask for."""
    import h5py

    try:
        with h5py.File(path, "w", libver="latest", locking=True) as writer:
            writer.create_dataset("x", shape=(0,), maxshape=(None,), chunks=(16,), dtype="i8")
            writer.swmr_mode = True
            with h5py.File(path, "r", libver="latest", swmr=True, locking=True) as reader:
                reader["x"].refresh()
    except OSError as error:
        return f"HDF5 cannot lock files ({str(error).splitlines()[0]})"
    return ""


def mount_of(path: Path) -> tuple[str, str]:
    """Type and options of the file system that holds ``path``, as /proc/mounts tells them."""
    resolved = path.resolve()
    best = (0, "an unknown file system", "")
    for line in Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
        _, mounted, kind, options, *_ = line.split(" ")
        point = Path(mounted.replace("\\040", " "))
        if resolved.is_relative_to(point):
            best = max(best, (len(point.parts), kind, options), key=lambda item: item[0])
    return best[1:]


def check_ports(subject: Subject) -> Outcome:
    """Servers can listen, and are reachable under this machine's own name."""
    name = socket.gethostname()
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        try:
            with socket.create_connection((name, port), timeout=_EGRESS_S):
                return "ok", f"ports are free; {name} reaches itself", ""
        except OSError as error:
            mend = "mend /etc/hosts or DNS, or set router.host and server.host to an address other nodes reach"
            return "warn", f"{name} does not reach itself by name ({error})", mend


def check_slack(subject: Subject) -> Outcome:
    """Slack's Web API answers from here."""
    import httpx

    url = subject.config.annotators.slack.base_url
    try:
        answer = httpx.get(f"{url.rstrip('/')}/api.test", timeout=_EGRESS_S)
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        return (
            "warn",
            f"{url} cannot be reached ({reason})",
            "run the router where it can be (`hpc router start RUN --foreground`), set HTTPS_PROXY, "
            "or answer with `hpc inbox`",
        )
    return "ok", f"{url} answers (HTTP {answer.status_code})", ""


def check_runtime(subject: Subject) -> Outcome:
    """vLLM is installed where the configuration looks for it."""
    from hpc.serving.preflight import vllm_program

    runtime = subject.config.runtime
    if runtime.kind == "external":
        return "ok", "servers are started by someone else (runtime.kind=external)", ""
    try:
        program = vllm_program(runtime, subject.environ)
    except HpcError as error:
        return "fail", error.message, error.hint
    if runtime.kind == "container":
        return "ok", f"{' '.join(program)} (not started)", ""
    # `vllm --version` imports torch for many seconds; the installed metadata says the same
    python = Path(program[0]).resolve().parent / "python"
    if not os.access(python, os.X_OK):
        return (
            "warn",
            f"{program[0]} is there, with no python beside it to ask for its version",
            f"try it: {program[0]} --version",
        )
    code = "from importlib.metadata import version; print(version('vllm'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        return "fail", f"{program[0]} is there, but its Python has no vllm", "make it anew with scripts/setup-serve"
    return "ok", f"vLLM {done.stdout.strip()} at {program[0]}", ""


def check_training(subject: Subject) -> Outcome:
    """What trainings need is installed; looked up, not imported, which takes seconds."""
    missing = [name for name in TRAINING if importlib.util.find_spec(name) is None]
    if missing:
        found = f"{', '.join(missing)} not installed: no training on this interpreter"
        return "warn", found, "pip install 'apollo-hpc[train]', or set cluster.python to another interpreter"
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "megatron-core", "transformers")]
    return "ok", ", ".join(versions), ""


def check_gpu(subject: Subject) -> Outcome:
    """Which GPUs this machine has; none is fine on a login node."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "ok", "none on this machine (runtime=cpu needs none; Slurm's nodes may have some)", ""
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        problem = (done.stderr or done.stdout).strip().partition("\n")[0]
        return "warn", f"nvidia-smi fails: {problem}", "mend the driver; until then use runtime=cpu here"
    return "ok", "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip()) or "none", ""


def check_disk(subject: Subject) -> Outcome:
    """There is room for runs."""
    folder = subject.runs
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free / _GIB
    inodes = os.statvfs(folder)
    found = f"{free:.1f} GiB free at {folder}"
    mend = "free space (`hpc run clean`), or choose another folder with --runs"
    if free < _TOO_LOW_GIB:
        return "fail", found, mend
    if inodes.f_files and inodes.f_favail < 10_000:
        return "warn", f"{found}, but only {inodes.f_favail} more files fit", mend
    return ("ok", found, "") if free >= _LOW_GIB else ("warn", found, mend)


CHECKS: dict[str, Check] = {
    "python": check_python,
    "packages": check_packages,
    "hdf5": check_hdf5,
    "shell": check_shell,
    "slurm": check_slurm,
    "runs folder": check_runs_folder,
    "ports": check_ports,
    "slack": check_slack,
    "runtime": check_runtime,
    "training": check_training,
    "gpu": check_gpu,
    "disk": check_disk,
}
"""Every check by the name it is shown with."""


def examine(subject: Subject, checks: Mapping[str, Check] = CHECKS, limit_s: float = LIMIT_S) -> list[Finding]:
    """Run the checks; one finding each, in their order.

    A check that raises is a failed one. One that is not done after ``limit_s`` seconds is given up:
    its thread is a daemon, so it does not hold up the end of the program either. One at a time,
    because HDF5 is not safe in threads.
    """
    return [_finding(name, check, subject, limit_s) for name, check in checks.items()]


def _finding(name: str, check: Check, subject: Subject, limit_s: float) -> Finding:
    found: list[Finding] = []

    def run() -> None:
        try:
            found.append(Finding(name, *check(subject)))
        except Exception as error:
            found.append(Finding(name, "fail", f"the check broke: {error!r}", "report it as a bug"))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    return found[0] if found else Finding(name, "fail", f"no result after {limit_s:g} s", "look for a dead mount")
