"""Slack's tokens: from the environment or a private file; never in a configuration, log or error."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from hpc.config.annotators import AnnotatorsConfig
from hpc.core.errors import AnnotatorError, ConfigError

BOT_TOKEN = "SLACK_BOT_TOKEN"
APP_TOKEN = "SLACK_APP_TOKEN"
MAX_FILE = 65536  # bytes
_PREFIXES = {BOT_TOKEN: "xoxb-", APP_TOKEN: "xapp-"}
_BOTH_WAYS = (
    f"export {BOT_TOKEN} (xoxb-…) and {APP_TOKEN} (xapp-…), or name a file that holds both with annotators.tokens_file"
)


class SlackTokens:
    """The bot token (Web API) and the app token (Socket Mode). Printing it shows neither."""

    __slots__ = ("app", "bot")

    def __init__(self, bot: str, app: str) -> None:
        for name, value in ((BOT_TOKEN, bot), (APP_TOKEN, app)):
            if not value.startswith(_PREFIXES[name]) or any(not 33 <= ord(c) <= 126 for c in value):
                raise AnnotatorError(
                    f"{name} is not a token that starts with {_PREFIXES[name]}",
                    "copy it again from the app's pages: OAuth & Permissions, and Basic Information for the app token",
                )
        self.bot = bot
        self.app = app

    def __repr__(self) -> str:
        return "SlackTokens(bot=xoxb-…, app=xapp-…)"


def load_tokens(config: AnnotatorsConfig, environ: Mapping[str, str] | None = None) -> SlackTokens:
    """The tokens, after a look at everything else without which no annotator can be reached.

    Raises:
        ConfigError: no channel, or nobody who may answer.
        AnnotatorError: a token missing or malformed, or a token file that others may read. The
            message never holds a token.
    """
    if not config.slack.channel:
        raise ConfigError(
            "annotators.slack.channel is empty", "give the channel's id, as in annotators.slack.channel=C0123456789"
        )
    if not config.slack.annotators and config.slack.usergroup is None:
        raise ConfigError(
            "annotators.slack names nobody who may answer",
            "give annotators.slack.annotators=[U0123456789] or annotators.slack.usergroup=S0123456789",
        )
    if config.tokens_file is not None:
        path = Path(config.tokens_file).expanduser()
        values, source = _read_private(path), f"in {path}"
    else:
        values, source = dict(os.environ if environ is None else environ), "in the environment"
    missing = [name for name in _PREFIXES if not values.get(name, "").strip()]
    if missing:
        raise AnnotatorError(f"no {' and no '.join(missing)} {source}", _BOTH_WAYS)
    return SlackTokens(bot=values[BOT_TOKEN].strip(), app=values[APP_TOKEN].strip())


def _read_private(path: Path) -> dict[str, str]:
    """``NAME=value`` lines of a file that only its owner can read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise AnnotatorError(f"cannot read the token file {path}: {error.strerror}", _BOTH_WAYS) from error
    try:
        status = os.fstat(descriptor)  # of the file that was opened, not of what the name means by now
        if not stat.S_ISREG(status.st_mode):
            raise AnnotatorError(f"the token file {path} is not a regular file", _BOTH_WAYS)
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise AnnotatorError(f"the token file {path} has mode {mode:04o}, others may read it", f"chmod 600 {path}")
        if status.st_uid not in (os.getuid(), 0):
            raise AnnotatorError(f"the token file {path} belongs to another user", "copy it and chmod 600 the copy")
        lines = os.read(descriptor, MAX_FILE).decode(errors="replace").splitlines()
    finally:
        os.close(descriptor)
    values: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.lstrip().startswith("#"):
            values[name.strip()] = value.strip().strip("\"'")
    return values
