"""What the agent reads after an action: pure text, the same for the same facts.

Small policies are trained on these texts, so they are a format: change one and the shipped tiny
policy must be trained again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

SHOWN_LINES = 50

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\|$)"  # OSC: titles, links
    r"|\x1b[PX^_].*?(?:\x1b\\|$)"  # DCS, SOS, PM, APC
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[ -/]*[0-~]",  # two-byte escapes
    re.DOTALL,
)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def plain_line(line: str) -> str:
    """One terminal line as a reader sees it: no escapes, no control characters; a carriage return
    starts the line over, as progress bars do; a backspace rubs out."""
    line = _ESCAPES.sub("", line).rstrip("\r")
    line = line.rpartition("\r")[2]
    if "\b" in line:
        kept: list[str] = []
        for character in line:
            if character != "\b":
                kept.append(character)
            elif kept:
                kept.pop()
        line = "".join(kept)
    return _CONTROL.sub("", line)


def plain_lines(output: str, shown: int | None = None) -> list[str]:
    """The last ``shown`` lines of ``output`` (all without it), plain, without blank lines at the end."""
    lines = [plain_line(line).rstrip() for line in output.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines if shown is None else lines[max(len(lines) - shown, 0) :]


def _closed(output: str, last: str, shown: int | None = None) -> str:
    return "\n".join([*plain_lines(output, shown), last])


def session_created(session_id: str, computer_ip: str) -> str:
    """A new shell stands ready."""
    return f"session {session_id} ready on {computer_ip}"


def command_done(output: str, exit_code: int, *, shown: int = SHOWN_LINES) -> str:
    """A command ended while the agent waited for it."""
    return _closed(output, f"[exit {exit_code}]", shown)


def command_killed(output: str, seconds: float, *, shown: int = SHOWN_LINES) -> str:
    """A command ran longer than the agent may wait."""
    return _closed(output, f"[killed after {seconds:g} s]", shown)


def command_started(session_id: str) -> str:
    """A command runs in the background."""
    return f"started in session {session_id}"


def session_state(running: bool, exit_code: int | None) -> str:
    """What a session does; ``exit_code`` is None when no command ever ended in it."""
    ended = "[idle]" if exit_code is None else f"[exit {exit_code}]"
    return "[running]" if running else ended


def session_output(output: str, running: bool, exit_code: int | None) -> str:
    """A look at a session; the lines were chosen by the one who looks."""
    return _closed(output, session_state(running, exit_code))


def session_line(session_id: str, computer_ip: str, running: bool, exit_code: int | None) -> str:
    """One session in a list."""
    return f"{session_id} on {computer_ip} {session_state(running, exit_code)}"


def session_list(lines: Iterable[str]) -> str:
    """All sessions, in the order of their creation."""
    return "\n".join(lines) or "(no sessions)"


def session_idle(running: bool) -> str:
    """Whether a session can take a command."""
    return "busy" if running else "idle"


def input_sent(session_id: str) -> str:
    """A line was typed into a running command."""
    return f"input sent to session {session_id}"


def session_closed(session_id: str) -> str:
    """A session and all of its processes are gone."""
    return f"session {session_id} closed"


def file_listing(names: Iterable[str]) -> str:
    """Entries of a directory; names of directories end in ``/``."""
    return "\n".join(sorted(names)) or "(empty)"


def file_opened(path: str, lines: Sequence[str], first: int, total: int) -> str:
    """``lines`` of a file, of which the first has the number ``first`` (from 1)."""
    numbered = [f"{number}: {text}" for number, text in enumerate(lines, start=first)]
    return "\n".join([f"{path} ({total} lines)", *numbered])


def file_edited(path: str, start: int, end: int, total: int) -> str:
    """Lines ``start`` to ``end`` (as they are numbered now) were written; ``total`` lines now."""
    return f"{path} lines {start}-{end} edited, {total} lines"


def file_created(path: str, total: int) -> str:
    """A whole file was written."""
    return f"{path} created, {total} lines"


def file_searched(path: str, matches: Sequence[tuple[int, str]]) -> str:
    """Lines of a file that hold the text looked for, with their numbers."""
    return "\n".join([f"{path} ({len(matches)} matches)", *(f"{number}: {text}" for number, text in matches)])


def thought_logged() -> str:
    """A thought changes nothing."""
    return "ok"


def slept(seconds: float) -> str:
    """Time passed."""
    return f"slept {seconds:g} s"


def evaluated(score: float, message: str, left: int) -> str:
    """The hidden evaluator's verdict; ``score`` in [0, 100]."""
    verdict = f"score {score:.1f} {message}".rstrip()
    return f"{verdict}; {left} evaluations left"


def finished() -> str:
    """The agent ended the episode."""
    return "finished"


def problem(reason: str) -> str:
    """What was wrong with an action."""
    return f"error: {reason}"
