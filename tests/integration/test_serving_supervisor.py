"""The supervisor over a real child process that stands in for vLLM."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import httpx
import psutil
import pytest

from hpc.config.runtime import RuntimeConfig
from hpc.config.server import ServerConfig
from hpc.core.errors import ConfigError
from hpc.serving import registry
from hpc.serving.probe import Prober
from hpc.serving.supervisor import Supervisor
from tests.integration.serving_run import make_model, make_run, serving, until
from tests.integration.stub_openai import script_stub, start_stub, stub_state, write_program

QUICK = {"probe_seconds": 0.2, "probe_timeout": 1.0, "heartbeat_seconds": 0.2, "drain_seconds": 10.0}


def quick(**fields: object) -> ServerConfig:
    return ServerConfig(**{"name": "s", **QUICK, **fields})  # type: ignore[arg-type]


def stub_runtime(folder: Path, **environment: str) -> RuntimeConfig:
    return RuntimeConfig(vllm=str(write_program(folder, **environment)))


def group_of(pid: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def test_publishes_after_a_token_and_withdraws_when_the_run_is_over(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with serving(run, quick(), make_model(tmp_path), stub_runtime(tmp_path)) as served:
        endpoint = served.wait_endpoint()
        assert (endpoint.model, endpoint.state, endpoint.max_model_len) == ("stub", "READY", 4096)
        served.wait_state("READY")
        until(lambda: (now := served.endpoint()) and now.heartbeat > endpoint.heartbeat, "a renewed heartbeat")
        run.mark_done("all episodes over")
        assert served.wait_outcome() == "done"
        assert not run.endpoint("s", 0).exists()
        assert group_of(endpoint.pid) == []
        state = served.state
        assert state is not None
        assert (state.state, state.reason) == ("SHUTDOWN", "the run is over")


def test_a_booting_server_is_launching_and_not_published(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with serving(run, quick(), make_model(tmp_path), stub_runtime(tmp_path, STUB_BOOT_SECONDS="600")) as served:
        served.wait_state("LAUNCHING")
        until(lambda: (run.logs / "serve-s-0.log").exists(), "the child's log")
        served.supervisor.stop("preempt")
        assert served.wait_outcome() == "stopped"
        assert served.endpoint() is None


def test_a_server_that_does_not_boot_in_time_has_failed(tmp_path: Path) -> None:
    runtime = stub_runtime(tmp_path, STUB_BOOT_SECONDS="600")
    with serving(make_run(tmp_path), quick(ready_timeout=0.5), make_model(tmp_path), runtime) as served:
        assert served.wait_outcome() == "failed"
        assert "no token within 0.5 s" in served.supervisor.reason


def test_a_server_that_ends_at_once_has_failed_with_its_own_reason(tmp_path: Path) -> None:
    runtime = stub_runtime(tmp_path, STUB_EXIT="ValueError: No GPU for you")
    with serving(make_run(tmp_path), quick(), make_model(tmp_path), runtime) as served:
        assert served.wait_outcome() == "failed"
        state = served.state
        assert state is not None
        assert state.state == "FAILED"
        assert "ValueError: No GPU for you" in state.reason
        assert Path(state.log).read_text().strip() == "ValueError: No GPU for you"


def test_a_wrong_path_or_runtime_fails_before_anything_starts(tmp_path: Path) -> None:
    run, model = make_run(tmp_path), make_model(tmp_path)
    with serving(run, quick(), model, RuntimeConfig(vllm="/no/such/vllm")) as served:
        assert served.wait_outcome() == "failed"
        assert "/no/such/vllm" in served.supervisor.reason
    (Path(model.path) / "config.json").unlink()
    with serving(run, quick(), model, stub_runtime(tmp_path)) as served:
        assert served.wait_outcome() == "failed"
        assert "holds no config.json" in served.supervisor.reason
        assert "\n" not in served.supervisor.reason
    assert not (run.logs / "serve-s-0.log").exists()


def test_a_server_that_refuses_the_probe_has_failed(tmp_path: Path) -> None:
    with serving(make_run(tmp_path), quick(), make_model(tmp_path), stub_runtime(tmp_path)) as served:
        endpoint = served.wait_endpoint()
        script_stub(endpoint.url, default={"status": 400, "message": "no chat template"})
        assert served.wait_outcome() == "failed"
        assert "no chat template" in served.supervisor.reason
        assert served.endpoint() is None


def test_a_hanging_server_is_withdrawn_and_comes_back(tmp_path: Path) -> None:
    """Its health page stays green all the time."""
    run = make_run(tmp_path)
    with serving(run, quick(restart_after=1000), make_model(tmp_path), stub_runtime(tmp_path)) as served:
        endpoint = served.wait_endpoint()
        script_stub(endpoint.url, default={"status": 503})
        state = served.wait_state("DEGRADED")
        assert "503" in state.reason
        until(lambda: not run.endpoint("s", 0).exists(), "the withdrawal")
        assert httpx.get(endpoint.url.replace("/v1", "/health")).status_code == 200
        script_stub(endpoint.url, default={"text": "ok"})
        assert served.wait_endpoint().pid == endpoint.pid


def test_a_server_that_hangs_for_good_is_restarted(tmp_path: Path) -> None:
    server = quick(degraded_after=1, restart_after=1, probe_timeout=0.3)
    with serving(make_run(tmp_path), server, make_model(tmp_path), stub_runtime(tmp_path)) as served:
        first = served.wait_endpoint()
        script_stub(first.url, default={"hang": True})
        second = until(lambda: (now := served.endpoint()) and now.pid != first.pid and now, "another child")
        assert second.url == first.url
        assert group_of(first.pid) == []


def test_a_killed_server_is_restarted_until_the_limit(tmp_path: Path) -> None:
    with serving(make_run(tmp_path), quick(max_restarts=1), make_model(tmp_path), stub_runtime(tmp_path)) as served:
        first = served.wait_endpoint()
        os.kill(first.pid, signal.SIGKILL)
        second = until(lambda: (now := served.endpoint()) and now.pid != first.pid and now, "another child")
        os.kill(second.pid, signal.SIGKILL)
        assert served.wait_outcome() == "failed"
        assert "killed by signal 9 (after 1 restarts)" in served.supervisor.reason
        assert served.endpoint() is None


def test_the_engine_of_a_killed_server_is_swept_away(tmp_path: Path) -> None:
    runtime = stub_runtime(tmp_path, STUB_CHILD="1")
    with serving(make_run(tmp_path), quick(max_restarts=0), make_model(tmp_path), runtime) as served:
        endpoint = served.wait_endpoint()
        assert len(group_of(endpoint.pid)) == 2
        os.kill(endpoint.pid, signal.SIGKILL)
        assert served.wait_outcome() == "failed"
        assert group_of(endpoint.pid) == []


async def test_requests_in_flight_are_answered_while_draining(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with serving(run, quick(), make_model(tmp_path), stub_runtime(tmp_path)) as served:
        endpoint = await asyncio.to_thread(served.wait_endpoint)
        script_stub(endpoint.url, {"text": "worth waiting for", "delay": 2.0})
        async with httpx.AsyncClient(timeout=30) as http:
            body = {"model": "stub", "messages": [{"role": "user", "content": "long"}]}
            request = asyncio.create_task(http.post(f"{endpoint.url}/chat/completions", json=body))
            await asyncio.to_thread(until, lambda: stub_state(endpoint.url)["requests"], "the request")
            served.supervisor.stop("walltime")
            await asyncio.to_thread(
                until, lambda: (now := served.endpoint()) and now.state == "DRAINING", "the announcement"
            )
            answer = await request
        assert answer.json()["choices"][0]["message"]["content"] == "worth waiting for"
        assert await asyncio.to_thread(served.wait_outcome) == "stopped"
        assert not run.endpoint("s", 0).exists()


def test_a_request_that_never_ends_does_not_hold_up_the_drain(tmp_path: Path) -> None:
    server = quick(drain_seconds=1.0, probe_seconds=600.0)
    with serving(make_run(tmp_path), server, make_model(tmp_path), stub_runtime(tmp_path)) as served:
        endpoint = served.wait_endpoint()
        script_stub(endpoint.url, {"hang": True})
        with httpx.Client(timeout=0.2) as http, pytest.raises(httpx.TimeoutException):
            http.post(f"{endpoint.url}/chat/completions", json={"model": "stub", "messages": []})
        served.supervisor.stop("preempt")
        assert served.wait_outcome() == "stopped"
        assert group_of(endpoint.pid) == []


def test_two_replicas_get_two_ports(tmp_path: Path) -> None:
    run, model, runtime = make_run(tmp_path), make_model(tmp_path), stub_runtime(tmp_path)
    with serving(run, quick(), model, runtime) as one, serving(run, quick(), model, runtime, replica=1):
        until(lambda: len(registry.live_endpoints(run, "s")) == 2, "both endpoints")
        first, second = registry.live_endpoints(run, "s")
        assert first.url != second.url
        one.supervisor.stop()
        one.wait_outcome()
        assert [endpoint.replica for endpoint in registry.live_endpoints(run, "s")] == [1]


def test_an_external_server_needs_no_supervisor(tmp_path: Path) -> None:
    server = ServerConfig(name="s", kind="external", urls=["http://h:1/v1"])
    with pytest.raises(ConfigError, match="external"):
        Supervisor(make_run(tmp_path), 0, server=server, model=make_model(tmp_path), runtime=RuntimeConfig())


SUPERVISE = """
import sys
from pathlib import Path
from hpc.config.model import ModelConfig
from hpc.config.runtime import RuntimeConfig
from hpc.config.server import ServerConfig
from hpc.rundir import RunDir
from hpc.serving.supervisor import Supervisor
folder = Path(sys.argv[1])
model = ModelConfig(name="stub", path=str(folder / "model"))
server = ServerConfig(name="s", probe_seconds=0.2)
Supervisor(RunDir(folder / "run"), 0, server=server, model=model, runtime=RuntimeConfig(vllm=sys.argv[2])).run()
"""


def test_a_killed_supervisor_leaves_no_server_behind(tmp_path: Path) -> None:
    run, model = make_run(tmp_path), make_model(tmp_path)
    program = write_program(tmp_path)
    assert model.path
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISE, str(tmp_path), str(program)], env=environment)
    try:
        endpoint = until(lambda: next(iter(registry.live_endpoints(run, "s")), None), "an endpoint")
        assert group_of(endpoint.pid)
        supervisor.kill()
        until(lambda: not group_of(endpoint.pid), "the end of the server", 30)
    finally:
        supervisor.kill()
        supervisor.wait()
    now = endpoint.heartbeat + registry.STALE_AFTER + 1
    assert registry.live_endpoints(run, "s", now=now) == []


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with serving(make_run(tmp_path), quick(), make_model(tmp_path), stub_runtime(tmp_path)) as served:
        served.wait_endpoint()
        assert list(scratch.iterdir())
    assert list(scratch.iterdir()) == []


def test_a_full_server_is_not_taken_for_a_hung_one() -> None:
    """The probe gets no token in time; what tells the two apart is whether others get theirs."""
    with start_stub() as stub, contextlib.closing(Prober(stub.url, "stub", timeout=1.0)) as prober:
        stub.script(default={"text": "ok", "delay": 600.0})
        hung = prober.generate()
        assert (hung.verdict, hung.reason) == ("unanswered", "no token within 1 s")
        stop = threading.Event()

        def keep_busy() -> None:
            while not stop.is_set():
                stub.script({"text": "served"})
                httpx.post(f"{stub.url}/chat/completions", json={"model": "stub", "messages": []})

        others = threading.Thread(target=keep_busy)
        others.start()
        try:
            full = prober.generate()
        finally:
            stop.set()
            others.join()
        assert (full.verdict, full.reason) == ("answered", "busy")
