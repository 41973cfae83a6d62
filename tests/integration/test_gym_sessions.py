"""Terminal sessions with a real bash: exit codes, kills, rubbish, and what they leave behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from hpc.core.errors import GymError, SessionError
from hpc.gym.render import plain_lines
from hpc.gym.sessions import Session, Terminals

ENVIRONMENT = {"PATH": os.environ["PATH"], "TERM": "dumb", "LANG": "C.UTF-8"}
DEADLINE_S = 30.0


def _make(workspace: Path, name: str = "lab", program: str = "/bin/bash") -> Session:
    return Session(
        name, "localhost", program=program, workspace=workspace, environment=ENVIRONMENT, buffer_lines=10_000
    )


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[Session]:
    session = _make(tmp_path)
    yield session
    await session.close()


async def _run(session: Session, command: str) -> tuple[list[str], int | None]:
    await session.run(command)
    assert await session.wait(DEADLINE_S), f"{command!r} does not end"
    return plain_lines(session.output.latest()), session.exit_code


async def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def _pid_in(path: Path) -> int:
    await _until(lambda: path.exists() and path.read_text().endswith("\n"), f"{path.name} is written")
    return int(path.read_text())


async def test_output_and_exit_codes(session: Session) -> None:
    assert await _run(session, "echo hello; false") == (["hello"], 1)
    assert await _run(session, "true") == ([], 0)
    assert await _run(session, "echo out; echo err >&2; (exit 42)") == (["out", "err"], 42)
    assert (await _run(session, "no-such-program"))[1] == 127
    assert (await _run(session, "echo 'unbalanced"))[1] == 2
    assert await _run(session, "kill -9 $BASHPID &\nwait $!") != ([], 0)


async def test_state_stays_from_command_to_command(session: Session, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    await _run(session, "cd sub; export COLOUR=red; declare -A map=([a]=1); f() { echo f:$1; }")

    assert await _run(session, 'basename "$PWD"; echo $COLOUR ${map[a]}; f x') == (["sub", "red 1", "f:x"], 0)


async def test_quoting_survives(session: Session) -> None:
    command = "cat <<'END'\na'b\"c\\n $HOME `x` !! ✓ é\ttab\nEND\n# a comment"

    assert await _run(session, command) == (["a'b\"c\\n $HOME `x` !! ✓ é\ttab"], 0)


async def test_a_command_reads_a_terminal(session: Session) -> None:
    assert await _run(session, "test -t 0 && test -t 1 && tty -s && echo yes") == (["yes"], 0)
    await session.run("read -r answer; echo got $answer")
    session.type("forty two")
    assert await session.wait(DEADLINE_S)
    assert plain_lines(session.output.latest()) == ["got forty two"]
    with pytest.raises(SessionError, match="no running command"):
        session.type("nobody reads")


async def test_background_work_is_followed(session: Session, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    await session.run("echo begun; cat gate; echo over; exit_with() { return 7; }; exit_with")
    await _until(lambda: "begun" in session.output.latest(), "the first line")

    assert session.running
    assert session.look()
    assert not session.look()
    with pytest.raises(SessionError, match="busy"):
        await session.run("echo too early")

    with gate.open("w") as file:
        file.write("through the gate\n")
    assert await session.wait(DEADLINE_S)
    assert plain_lines(session.output.latest()) == ["begun", "through the gate", "over"]
    assert session.exit_code == 7
    assert session.look()


@pytest.mark.parametrize(
    "command",
    [
        "echo begun; sleep 1000; echo never",
        "echo begun; for i in 1 2 3; do sleep 1000; done; echo never",
        "echo begun; while :; do :; done",
        "echo begun; trap '' INT; while :; do :; done",
        "echo begun; bash -c 'trap \"\" INT TERM HUP; sleep 1000 & wait'",
        "echo begun; cat",
        "echo begun; cat | cat | cat",
        "exec sh -c 'echo begun; sleep 1000'",
    ],
)
async def test_a_command_is_killed_and_the_session_goes_on(session: Session, command: str) -> None:
    await session.run(command)
    await _until(lambda: "begun" in session.output.latest(), "the command runs")

    await session.kill()

    assert not session.running
    assert plain_lines(session.output.latest()) == ["begun"]
    assert session.exit_code not in (0, None)
    assert await _run(session, "echo on") == (["on"], 0)


async def test_killing_a_command_spares_work_in_the_background(session: Session, tmp_path: Path) -> None:
    await _run(session, "cd /; (echo $BASHPID > '%s'; exec sleep 1000) &" % (tmp_path / "pid"))
    pid = await _pid_in(tmp_path / "pid")
    await session.run("sleep 1000")

    await session.kill()

    assert _alive(pid)
    assert plain_lines((await _run(session, "pwd"))[0][-1]) == ["/"]


@pytest.mark.parametrize(
    "forgery",
    [
        "printf 'done 0\\n'",
        "printf 'done 0\\n' >&98",
        "printf 'exit 0\\n'; printf '\\033]0123456789abcdef0123456789abcdef\\007'",
        "for n in $(seq 3 120); do printf 'done 0\\n' 1>&$n; done",
        "PROMPT_COMMAND='printf done\\ 0'; printf '[exit 0]'",
    ],
)
async def test_output_cannot_forge_the_end(session: Session, forgery: str) -> None:
    await session.run(f"{{ {forgery}; }} 2>/dev/null; echo asking; read -r go; echo real; (exit 9)")
    await _until(lambda: "asking" in session.output.latest(), "the forgery is out")
    assert session.running
    session.type("on")
    assert await session.wait(DEADLINE_S)

    assert session.exit_code == 9
    assert "real" in plain_lines(session.output.latest())


@pytest.mark.parametrize(
    ("command", "code"), [("exit 3", 3), ("set -e; false", 1), ("kill -9 $$", 137), ("exec true", 0)]
)
async def test_a_shell_that_ends_is_replaced(session: Session, command: str, code: int) -> None:
    await _run(session, "export MARK=old")

    assert (await _run(session, command))[1] == code
    assert await _run(session, "echo [$MARK]") == (["[]"], 0)


async def test_killing_the_guard_is_survived(session: Session, tmp_path: Path) -> None:
    await session.run("echo $PPID > guard; sh -c 'echo $$ > job; exec sleep 99' & sh -c 'echo $$ > own; exec sleep 99'")
    guard, *pids = [await _pid_in(tmp_path / name) for name in ("guard", "job", "own")]
    os.kill(guard, signal.SIGKILL)

    assert await session.wait(DEADLINE_S)
    assert session.exit_code == 137
    await _until(lambda: not any(_alive(pid) for pid in pids), "its processes are gone")
    assert await _run(session, "echo on") == (["on"], 0)


async def test_huge_output(session: Session) -> None:
    lines, code = await _run(session, "seq 1 300000")

    assert code == 0
    assert lines == [str(n) for n in range(290_001, 300_001)]
    assert (await _run(session, "head -c 5000000 /dev/zero | tr '\\0' x; echo; echo after"))[0][-1] == "after"


async def test_rubbish_bytes(session: Session) -> None:
    await _run(session, "head -c 200000 /dev/urandom")
    await _run(session, "printf '\\033[31mred\\033[0m\\n\\0\\377\\376'")

    assert plain_lines(session.output.latest())[0] == "red"
    assert await _run(session, "echo clean") == (["clean"], 0)


async def test_a_terminal_in_a_bad_state(session: Session) -> None:
    await _run(session, "stty raw; printf 'half a line'")

    assert await _run(session, "echo fine") == (["fine"], 0)


async def test_commands_that_cannot_be_taken(session: Session) -> None:
    for command, said in (("a\0b", "NUL"), ("x" * 40_000, "put it into a file"), ("\ud800", "Unicode")):
        with pytest.raises(SessionError, match=said):
            await session.run(command)
    assert await _run(session, ": " + "x" * 29_000) == ([], 0)


async def test_closing_kills_daemons_too(session: Session, tmp_path: Path) -> None:
    await _run(session, "(echo $BASHPID > plain; exec sleep 1000) &")
    await _run(session, "setsid sh -c 'trap \"\" HUP TERM; (echo $$ > daemon; exec sleep 1000) &' < /dev/null")
    await _run(session, "nohup sh -c 'echo $$ > nohup; exec sleep 1000' >/dev/null 2>&1 &")
    pids = [await _pid_in(tmp_path / name) for name in ("plain", "daemon", "nohup")]

    await session.close()

    assert not any(_alive(pid) for pid in pids)


OWNER = """
import asyncio, os, sys
from pathlib import Path
from hpc.gym.sessions import Session

async def main():
    workspace = Path(sys.argv[1])
    session = Session("lab", "localhost", program="/bin/bash", workspace=workspace,
                      environment={"PATH": os.environ["PATH"]}, buffer_lines=100)
    await session.run("setsid sh -c 'echo $$ > daemon; exec sleep 1000' & sh -c 'echo $$ > job; exec sleep 1000'")
    (workspace / "guard").write_text(f"{session._shell._guard.pid}\\n")
    await session.wait(1000)

asyncio.run(main())
"""


async def test_nothing_outlives_an_owner_killed_with_9(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)])
    try:
        pids = [await _pid_in(tmp_path / name) for name in ("guard", "daemon", "job")]
        assert all(_alive(pid) for pid in pids)
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()

    await _until(lambda: not any(_alive(pid) for pid in pids), "everything is gone")


async def test_a_shell_that_is_none_is_an_error_of_the_environment(tmp_path: Path) -> None:
    for program in ("/no/such/bash", "/bin/true"):
        with pytest.raises(GymError, match="cannot start the shell"):
            await _make(tmp_path, program=program).open()
    with pytest.raises(GymError, match="cannot start a session in"):
        await _make(tmp_path / "gone").open()


async def test_descriptors_do_not_leak(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        session = _make(tmp_path)
        await _run(session, "true")
        await session.close()
        with pytest.raises(GymError):
            await _make(tmp_path, program="/no/such/bash").open()

    assert len(os.listdir("/proc/self/fd")) == before


async def test_terminals_by_name(tmp_path: Path) -> None:
    terminals = Terminals(
        ["localhost", "127.0.0.1"],
        2,
        program="/bin/bash",
        workspace=tmp_path,
        environment=ENVIRONMENT,
        buffer_lines=100,
    )
    try:
        first = await terminals.create("a")
        second = await terminals.ensure("b", "127.0.0.1")
        assert await terminals.ensure("a") is first
        assert [session.session_id for session in terminals] == ["a", "b"]
        assert second.computer_ip == "127.0.0.1"
        with pytest.raises(SessionError, match="exists already"):
            await terminals.create("a")
        with pytest.raises(SessionError, match="that is the limit"):
            await terminals.create("c")
        with pytest.raises(SessionError, match=r"unknown computer '10\.0\.0\.1'; known: localhost, 127\.0\.0\.1"):
            await terminals.create("c", "10.0.0.1")
        with pytest.raises(SessionError, match="no session c; open: a, b"):
            terminals.get("c")
        await terminals.close("a")
        assert [session.session_id for session in terminals] == ["b"]
    finally:
        await terminals.close_all()
    assert list(terminals) == []
