"""hpc doctor: each check says ok, warn or fail with the mend, and none hides another."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from click.testing import CliRunner

from hpc.cli import cli, doctor_checks
from hpc.cli.doctor_checks import CHECKS, Finding, Outcome, Subject, examine
from hpc.config import compose

SETTINGS = compose("episodes", ["cluster=local"])


def _subject(tmp_path: Path, *overrides: str, environ: dict[str, str] | None = None) -> Subject:
    config = compose("episodes", ["cluster=local", *overrides]) if overrides else SETTINGS
    return Subject(config=config, runs=tmp_path / "runs", environ=environ or {})


def _program(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_one_check_never_hides_another(tmp_path: Path) -> None:
    hangs = threading.Event()

    def breaks(subject: Subject) -> Outcome:
        raise RuntimeError("surprise")

    def waits(subject: Subject) -> Outcome:
        hangs.wait(60)
        return "ok", "never seen", ""

    checks = {"breaks": breaks, "waits": waits, "works": lambda subject: ("ok", "fine", "")}
    try:
        found = examine(_subject(tmp_path), checks, limit_s=0.05)
    finally:
        hangs.set()

    assert [(item.check, item.status) for item in found] == [("breaks", "fail"), ("waits", "fail"), ("works", "ok")]
    assert "surprise" in found[0].message
    assert "no result after 0.05 s" in found[1].message


def test_what_every_machine_can_do_is_ok_here(tmp_path: Path) -> None:
    checks = {name: CHECKS[name] for name in ("python", "hdf5", "shell", "slurm", "runs folder")}

    found = examine(_subject(tmp_path), checks)

    assert {item.check: item.status for item in found} == dict.fromkeys(checks, "ok"), found
    assert list((tmp_path / "runs").iterdir()) == []


def test_every_failure_says_how_to_mend_it(tmp_path: Path) -> None:
    found = examine(_subject(tmp_path, "gym.shell=/no/such/bash", environ={"PATH": ""}))

    assert [item.check for item in found] == list(CHECKS)
    assert all(item.mend for item in found if item.status != "ok")


def test_an_old_python_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Version(NamedTuple):
        major: int
        minor: int

    monkeypatch.setattr(sys, "version_info", Version(3, 9))

    assert doctor_checks.check_python(_subject(tmp_path))[0] == "fail"


def test_slack_packages_matter_only_with_slack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    slack = ("annotators=slack", "annotators.slack.channel=C0123456789", "annotators.slack.annotators=[U0123456789]")

    status, message, mend = doctor_checks.check_packages(_subject(tmp_path))
    assert (status, mend) == ("warn", "pip install 'apollo-hpc[router]'")
    assert "slack_sdk" in message
    assert doctor_checks.check_packages(_subject(tmp_path, *slack))[0] == "fail"


def test_training_packages_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, message, _ = doctor_checks.check_training(_subject(tmp_path))
    assert status == "ok" and "megatron-core 0.16.1" in message
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, message, mend = doctor_checks.check_training(_subject(tmp_path))
    assert status == "warn" and message.startswith("torch, megatron") and "apollo-hpc[train]" in mend


def test_a_shell_that_is_no_bash_fails(tmp_path: Path) -> None:
    for shell in ("/bin/true", "/no/such/bash"):
        status, message, mend = doctor_checks.check_shell(_subject(tmp_path, f"gym.shell={shell}"))
        assert status == "fail"
        assert shell in message
        assert "gym.shell" in mend


def test_locks_that_do_nothing_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_checks.locking_problem(tmp_path) == ""

    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert doctor_checks.locking_problem(tmp_path) == "flock does not exclude a second owner"

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert doctor_checks.locking_problem(tmp_path) == "flock fails (No locks available)"
    status, _, mend = doctor_checks.check_runs_folder(_subject(tmp_path))
    assert (status, "flock" in mend) == ("fail", True)


def test_a_runs_folder_that_cannot_be_made_fails(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")

    status, message, mend = doctor_checks.check_runs_folder(_subject(tmp_path))

    assert status == "fail"
    assert str(tmp_path / "runs") in message
    assert "--runs" in mend


def test_the_file_system_is_named(tmp_path: Path) -> None:
    assert doctor_checks.mount_of(Path("/proc/self"))[0] == "proc"


@pytest.fixture
def web_api() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/api.test" else 404)
            self.end_headers()
            self.wfile.write(b'{"ok": true}')

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api/"
        server.shutdown()
        thread.join()


def test_slack_that_answers(tmp_path: Path, web_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    status, message, _ = doctor_checks.check_slack(_subject(tmp_path, f"annotators.slack.base_url={web_api}"))

    assert (status, message) == ("ok", f"{web_api} answers (HTTP 200)")


def test_slack_out_of_reach_is_only_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/api/"

    status, message, mend = doctor_checks.check_slack(_subject(tmp_path, f"annotators.slack.base_url={url}"))

    assert status == "warn"
    assert url in message
    assert "--foreground" in mend


def test_the_serve_runtime(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    missing = doctor_checks.check_runtime(_subject(tmp_path, environ={"HPC_SERVE_VENV": str(venv)}))
    _program(venv / "bin" / "vllm", "exit 9")
    alone = doctor_checks.check_runtime(_subject(tmp_path, environ={"HPC_SERVE_VENV": str(venv)}))
    _program(venv / "bin" / "python", "exit 1")
    hollow = doctor_checks.check_runtime(_subject(tmp_path, environ={"HPC_SERVE_VENV": str(venv)}))
    _program(venv / "bin" / "python", "echo 0.32.0")
    whole = doctor_checks.check_runtime(_subject(tmp_path, environ={"HPC_SERVE_VENV": str(venv)}))

    assert (missing[0], "scripts/setup-serve" in missing[2]) == ("fail", True)
    assert (alone[0], "no python beside it" in alone[1]) == ("warn", True)
    assert (hollow[0], "has no vllm" in hollow[1]) == ("fail", True)
    assert whole == ("ok", f"vLLM 0.32.0 at {venv / 'bin' / 'vllm'}", "")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("echo 'NVIDIA H200, 143771 MiB'", "ok", "NVIDIA H200, 143771 MiB"),
        ("echo 'NVIDIA-SMI has failed' >&2; exit 9", "warn", "nvidia-smi fails: NVIDIA-SMI has failed"),
    ],
)
def test_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, status: str, said: str) -> None:
    program = _program(tmp_path / "bin" / "nvidia-smi", body)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    assert doctor_checks.check_gpu(_subject(tmp_path))[:2] == (status, said)


@pytest.mark.parametrize(("free_gib", "status"), [(500, "ok"), (5, "warn"), (0.5, "fail")])
def test_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gib: float, status: str) -> None:
    free = int(free_gib * 1024**3)
    usage = type(shutil.disk_usage("/"))(total=free, used=0, free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    assert doctor_checks.check_disk(_subject(tmp_path))[0] == status


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: Any, code: int) -> None:
    findings = [Finding("python", "ok", "3.11"), Finding("slack", status, "no way out", "open the door")]
    monkeypatch.setattr(doctor_checks, "examine", lambda subject: findings)
    arguments = ["doctor", "--runs", str(tmp_path), "cluster=local"]

    table = CliRunner().invoke(cli, arguments)
    data = CliRunner().invoke(cli, [*arguments, "--json"])

    assert (table.exit_code, data.exit_code) == (code, code)
    assert f"slack\t{status}\tno way out\topen the door" in table.output
    assert json.loads(data.stdout) == msgspec.to_builtins(findings)


def test_the_real_program_is_quick_about_help() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hpc.cli", "doctor", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "Example: hpc doctor" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"h5py", "hydra", "httpx", "numpy", "zmq", "submitit"}


def test_mounts_whose_locks_stay_on_the_node_fail() -> None:
    assert doctor_checks.mount_problem("rw,relatime,flock") == ""
    for options in ("rw,localflock", "rw,vers=3,nolock", "rw,vers=3,local_lock=all"):
        assert "do not reach other nodes" in doctor_checks.mount_problem(options)


def test_without_hdf5_locks_it_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor_checks.hdf5_locking_problem(tmp_path / "lock.h5") == ""
    monkeypatch.setattr(doctor_checks, "hdf5_locking_problem", lambda path: "HDF5 cannot lock files (unable to lock)")
    status, found, mend = doctor_checks.check_runs_folder(_subject(tmp_path))
    assert status == "warn" and "cannot lock" in found and "HDF5_USE_FILE_LOCKING=FALSE" in mend


def test_a_network_file_system_is_told_of_the_nodes_own_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor_checks, "mount_of", lambda path: ("nfs4", "rw,vers=4.2"))
    status, _, mend = doctor_checks.check_runs_folder(_subject(tmp_path))
    assert status == "ok" and "run.local_dir" in mend
    monkeypatch.setattr(doctor_checks, "mount_of", lambda path: ("lustre", "rw,localflock"))
    assert doctor_checks.check_runs_folder(_subject(tmp_path))[0] == "fail"
