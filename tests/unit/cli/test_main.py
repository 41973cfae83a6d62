"""The entry point: every end of a command is one line for the user and an exit status."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NoReturn

import click
import pytest

import hpc.cli
from hpc.cli import main


def _ends_with(monkeypatch: pytest.MonkeyPatch, *argv: str, command: Callable[[], None]) -> int | str | None:
    """Exit status of a command line whose noun does what ``command`` does."""
    verb = click.Command("task", callback=command)
    monkeypatch.setattr(hpc.cli._Nouns, "get_command", lambda *_: verb)
    with pytest.raises(SystemExit) as ended:
        main([*argv, "task"])
    return ended.value.code


def _full() -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/jobs.json")


def test_an_error_of_the_system_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _ends_with(monkeypatch, command=_full) == 1
    assert capsys.readouterr().err == "error: runs/a/jobs.json: No space left on device\n"


def test_debug_shows_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="No space left"):
        _ends_with(monkeypatch, "--debug", command=_full)


def _asks() -> None:
    click.confirm("Remove?", abort=True, err=True)


@pytest.mark.parametrize("answer", ["n", ""])
def test_a_declined_confirmation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    def visible_input(_prompt: str) -> str:
        if not answer:
            raise EOFError
        return answer

    monkeypatch.setattr("click.termui.visible_prompt_func", visible_input)
    assert _ends_with(monkeypatch, command=_asks) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "nothing was done"


def test_an_interrupt_at_the_question_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("click.termui.visible_prompt_func", interrupted)
    assert _ends_with(monkeypatch, command=_asks) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
