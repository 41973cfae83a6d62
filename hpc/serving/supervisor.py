"""One replica from start to end: boots vLLM, publishes it while it answers, mends it, drains it.

Synchronous and single-threaded, but for the probe, which may hang as long as the server does and
must not hold up heartbeats.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Literal

import msgspec

from hpc.config.model import ModelConfig
from hpc.config.runtime import RuntimeConfig
from hpc.config.server import ServerConfig
from hpc.core.errors import ConfigError, HpcError
from hpc.rundir import RunDir
from hpc.serving import preflight, registry
from hpc.serving.argv import vllm_argv, vllm_env
from hpc.serving.health import Decision, Health, Limits
from hpc.serving.probe import Prober, ProbeResult
from hpc.serving.process import HeldPort, ServerProcess, is_port_clash, node_address, share_model_facts
from hpc.serving.registry import Endpoint, ServerState, StateName

log = logging.getLogger(__name__)

Outcome = Literal["done", "stopped", "failed"]
"""done: the run is over; stopped: `Supervisor.stop` was called; failed: see `Supervisor.reason`."""

TICK_SECONDS = 0.25
BOOT_PROBE_SECONDS = 1.0
DOUBT_PROBE_SECONDS = 2.0
SETTLE_SECONDS = 1.0  # clients read the registry twice a second: late comers still arrive after a withdrawal
KILL_SECONDS = 10.0
CANCEL_SECONDS = 15.0  # Slurm kills a cancelled job after KillWait, 30 s by default
MAX_CLASHES = 3


class Supervisor:
    """Serves one replica of a run's server.

    Args:
        local: the job runs on the user's own machine; the server then listens on 127.0.0.1 only.
        clock: monotonic seconds.

    Raises:
        ConfigError: the server is an external one.
    """

    def __init__(
        self,
        run: RunDir,
        replica: int,
        *,
        server: ServerConfig,
        model: ModelConfig,
        runtime: RuntimeConfig,
        job_id: str = "",
        local: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if server.kind == "external":
            raise ConfigError(f"server {server.name!r} is external and needs no job", "use its urls, or server=vllm")
        self.run_dir = run
        self.replica = replica
        self.server = server
        self.model = model
        self.runtime = runtime
        self.job_id = job_id
        self.log_path = run.logs / f"serve-{server.name}-{replica}.log"
        self._host = server.host or ("127.0.0.1" if local else node_address())
        self._clock = clock
        self._health = Health(
            Limits(
                degraded_after=server.degraded_after,
                restart_after=server.restart_after,
                max_restarts=server.max_restarts,
            )
        )
        self._stopping = threading.Event()
        self._stop_reason = ""
        self._process: ServerProcess | None = None
        self._prober: Prober | None = None
        self._port: HeldPort | None = None
        self._clashes = 0
        self._booted_at = 0.0
        self._endpoint: Endpoint | None = None
        self._heartbeat_due = 0.0
        self._probe: Future[ProbeResult] | None = None
        self._probe_due = 0.0

    @property
    def reason(self) -> str:
        """Why the replica is in its state."""
        return self._health.reason

    def stop(self, reason: str = "stopped") -> None:
        """Ask `run` to drain and return; from any thread or signal handler, any number of times."""
        self._stop_reason = self._stop_reason or reason
        self._stopping.set()

    def run(self) -> Outcome:
        """Serve until the run is over, `stop` is called or the server cannot be kept alive.

        Whatever happens, the endpoint is withdrawn and no process is left behind.
        """
        scratch = Path(tempfile.mkdtemp(prefix="hpc-serve-"))
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="probe")
        self._say("LAUNCHING")
        try:
            return self._serve(scratch, executor)
        except HpcError as error:
            self._health.hopeless(str(error))
            return "failed"
        except BaseException as error:
            self._health.hopeless(f"{type(error).__name__}: {error}")
            raise
        finally:
            self._withdraw()
            self._end_child()
            if self._port is not None:
                self._port.release()
            executor.shutdown()
            shutil.rmtree(scratch, ignore_errors=True)
            failed = self._health.state == "FAILED"
            self._say("FAILED" if failed else "SHUTDOWN", self._health.reason if failed else self._stop_reason)

    def _serve(self, scratch: Path, executor: ThreadPoolExecutor) -> Outcome:
        command = self._prepare(scratch)
        self._boot(command, scratch)
        while True:
            decision = self._look(executor)
            if decision == "fail":
                return "failed"
            if decision == "restart":
                self._boot(command, scratch)
            elif decision == "publish":
                self._publish()
            elif decision == "withdraw":
                self._withdraw()
                self._say("DEGRADED", self._health.reason)
            self._beat()
            if self.run_dir.done.exists():
                self._drain("the run is over")
                return "done"
            if self._stopping.wait(TICK_SECONDS):
                self._drain(self._stop_reason)
                return "stopped"

    # ---- the child

    def _prepare(self, scratch: Path) -> _Command:
        if self.runtime.kind == "venv":  # a container may not see the folder
            share_model_facts(scratch)
        preflight.check_model(self.model, self.server, self.runtime)
        template = preflight.chat_template(self.server)
        key = preflight.api_key(self.server)
        return _Command(
            program=preflight.vllm_program(self.runtime),
            model_path=preflight.resolve_model(self.model.path),
            model=msgspec.structs.replace(self.model, tokenizer=preflight.resolve_tokenizer(self.model.tokenizer)),
            server=msgspec.structs.replace(self.server, chat_template=template),
            env=vllm_env(self.runtime, self.server, scratch=scratch, api_key=key),
            api_key=key,
        )

    def _boot(self, command: _Command, scratch: Path) -> None:
        """Start the child, after sweeping the last one away."""
        self._withdraw()
        if self._process is not None:
            self._say("DEGRADED", self._health.reason)
        self._end_child()
        if self._port is None:
            self._port = HeldPort(self._host)
        host, port = self._port.host, self._port.port
        if self._clashes:
            self._port.release()  # this server cannot share a held port: it must win the race
        argv = vllm_argv(
            command.program,
            command.model,
            command.server,
            self.runtime,
            model_path=command.model_path,
            host=host,
            port=port,
        )
        self._process = ServerProcess(argv, env=command.env, cwd=scratch, log_path=self.log_path)
        url = f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
        self._prober = Prober(url, self.model.name, api_key=command.api_key, timeout=self.server.probe_timeout)
        self._booted_at = self._clock()
        self._probe_due = self._booted_at + BOOT_PROBE_SECONDS
        log.info("started %s as process %d", url, self._process.pid)

    def _end_child(self) -> None:
        """Leave nothing of the last child. A probe still under way ends with it: its connection is cut."""
        if self._process is not None:
            self._process.sweep()
        if self._probe is not None:
            wait([self._probe])
            self._probe = None
        if self._prober is not None:
            self._prober.close()

    def _look(self, executor: ThreadPoolExecutor) -> Decision:
        """See how the child does."""
        if self._process is None or self._prober is None:
            return "keep"
        if self._process.exit_code() is not None:
            if self._health.booting and self._clashes < MAX_CLASHES and is_port_clash(self._process.tail()):
                self._clashes += 1
                self._port = None
                return "restart"
            return self._health.broken(self._process.why())
        if self._health.booting and self._clock() - self._booted_at > self.server.ready_timeout:
            return self._health.broken(f"no token within {self.server.ready_timeout:g} s: {self._process.why()}")
        if self._probe is None:
            if self._clock() >= self._probe_due:
                self._probe = executor.submit(self._prober.generate)
            return "keep"
        if not self._probe.done():
            return "keep"
        result, self._probe = self._probe.result(), None
        return self._judge(result)

    def _judge(self, result: ProbeResult) -> Decision:
        if result.verdict == "refused":
            return self._health.hopeless(f"the server refuses a one-token request: {result.reason}")
        if result.verdict == "answered":
            decision, again = self._health.answered(), self.server.probe_seconds
        else:
            decision = self._health.unanswered(result.reason)
            again = BOOT_PROBE_SECONDS if self._health.booting else DOUBT_PROBE_SECONDS
        self._probe_due = self._clock() + again
        return decision

    def _drain(self, reason: str) -> None:
        """Stop taking new episodes' requests, let the present ones finish, then end the child."""
        seconds = self.server.drain_seconds if reason != "cancel" else min(self.server.drain_seconds, CANCEL_SECONDS)
        deadline = self._clock() + seconds
        self._stop_reason = reason
        self._say("SHUTDOWN", f"draining: {reason}")
        if self._endpoint is not None:
            self._endpoint = msgspec.structs.replace(self._endpoint, state="DRAINING")
            self._heartbeat_due = 0.0
            self._beat()
            self._wait_idle(deadline)
        self._withdraw()
        if self._process is not None:
            self._process.stop(max(deadline - self._clock(), KILL_SECONDS))

    def _wait_idle(self, deadline: float) -> None:
        """Until two looks in a row show no request, the child ends or ``deadline`` passes."""
        idle = 0
        time.sleep(min(SETTLE_SECONDS, self.server.drain_seconds))
        while idle < 2 and self._clock() < deadline:
            if self._process is None or self._prober is None or self._process.exit_code() is not None:
                return
            metrics = self._prober.metrics()
            idle = idle + 1 if metrics is not None and metrics.running + metrics.waiting == 0 else 0
            self._beat()
            time.sleep(TICK_SECONDS)

    # ---- what others see

    def _publish(self) -> None:
        if self._prober is None or self._process is None:
            return
        now = time.time()
        self._endpoint = Endpoint(
            server=self.server.name,
            replica=self.replica,
            url=self._prober.url,
            model=self.model.name,
            heartbeat=now,
            started_at=now,
            job_id=self.job_id,
            pid=self._process.pid,
            host=os.uname().nodename,
            max_model_len=self._prober.max_model_len(),
        )
        self._heartbeat_due = 0.0
        self._beat()
        self._say("READY")

    def _beat(self) -> None:
        """Renew the endpoint. A file system that fails for a moment must not end a healthy server."""
        if self._endpoint is None or self._clock() < self._heartbeat_due:
            return
        self._endpoint = msgspec.structs.replace(self._endpoint, heartbeat=time.time())
        self._heartbeat_due = self._clock() + self.server.heartbeat_seconds
        try:
            registry.publish(self.run_dir, self._endpoint)
        except HpcError as error:
            log.warning("heartbeat: %s", error)

    def _withdraw(self) -> None:
        self._endpoint = None
        registry.withdraw(self.run_dir, self.server.name, self.replica)

    def _say(self, state: StateName, reason: str = "") -> None:
        value = ServerState(
            state=state,
            reason=reason,
            at=time.time(),
            job_id=self.job_id,
            host=os.uname().nodename,
            pid=os.getpid(),
            log=str(self.log_path),
        )
        log.log(logging.ERROR if state == "FAILED" else logging.INFO, "%s %s", state, reason)
        try:
            registry.write_state(self.run_dir, self.server.name, self.replica, value)
        except HpcError as error:
            log.warning("state %s: %s", state, error)


class _Command(msgspec.Struct, frozen=True, kw_only=True):
    """What every start of the child has in common."""

    program: list[str]
    model_path: str
    model: ModelConfig
    server: ServerConfig
    env: dict[str, str]
    api_key: str
