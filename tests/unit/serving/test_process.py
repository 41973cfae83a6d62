from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hpc.core.errors import ServingError
from hpc.serving.process import HeldPort, failure_reason, is_port_clash, share_model_facts

CORRUPT = """\
(APIServer pid=7996) WARNING 11-21 07:35:16 [x.py:255] This can cause errors like `OSError: [Errno 24] Too many files`.
Traceback (most recent call last):
  File "vllm/engine/arg_utils.py", line 2838, in create_engine_config
    config = VllmConfig(
pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig
  Value error, Unterminated string starting at: line 1 column 969 (char 968) [type=value_error, input_value=X()]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""
OUT_OF_MEMORY = """\
(EngineCore pid=12) ERROR 11-21 [core.py:1] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.
(APIServer pid=11) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CORRUPT, "Unterminated string starting at: line 1 column 969 (char 968)"),
        (OUT_OF_MEMORY, "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB."),
        (
            "(APIServer pid=1) x.EngineDeadError: EngineCore encountered an issue.",
            "EngineDeadError: EngineCore encountered an issue.",
        ),
        ("usage: vllm serve\nvllm: error: unrecognized arguments: --foo\n", "unrecognized arguments: --foo"),
        ("INFO all is well\n", ""),
        ("", ""),
    ],
)
def test_the_reason_is_the_cause_and_not_its_echo(text: str, reason: str) -> None:
    assert failure_reason(text) == reason


def test_errors_of_requests_long_answered_are_not_the_reason() -> None:
    old = "json.JSONDecodeError: Expecting value\n"
    assert failure_reason(old + "INFO\n" * 1000 + "a.EngineDeadError: gone\n") == "EngineDeadError: gone"


def test_a_clash_is_recognised() -> None:
    assert is_port_clash("OSError: [Errno 98] Address already in use")
    assert not is_port_clash(OUT_OF_MEMORY)


def test_a_held_port_is_taken_for_others_and_free_for_its_server() -> None:
    held = HeldPort("127.0.0.1")
    try:
        with socket.socket() as stranger, pytest.raises(OSError):
            stranger.bind(("127.0.0.1", held.port))
        others = [HeldPort("127.0.0.1") for _ in range(200)]
        assert held.port not in {other.port for other in others}
        for other in others:
            other.release()
        with (
            socket.create_server(("127.0.0.1", held.port), backlog=1) as server,  # sets SO_REUSEADDR
            socket.create_connection(("127.0.0.1", held.port), timeout=5) as client,
        ):
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"x")
                assert client.recv(1) == b"x"
    finally:
        held.release()


def test_a_foreign_address_is_an_error_with_a_hint() -> None:
    with pytest.raises(ServingError, match=r"192\.0\.2\.1") as caught:
        HeldPort("192.0.2.1")
    assert "server.host" in caught.value.hint


def test_what_vllm_learned_of_model_classes_outlives_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        share_model_facts(tmp_path / name)
    (tmp_path / "one" / "vllm" / "modelinfos" / "x.json").write_text("{}")
    assert (tmp_path / "two" / "vllm" / "modelinfos" / "x.json").read_text() == "{}"


def test_without_a_folder_for_caches_a_server_starts_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    share_model_facts(tmp_path)
    assert not (tmp_path / "vllm").exists()
