"""Where tokens may come from, and that they stay there."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import msgspec
import pytest

from hpc.config.annotators import AnnotatorsConfig, SlackConfig
from hpc.core.errors import AnnotatorError, ConfigError
from hpc.router.annotators.slack_tokens import SlackTokens, load_tokens

BOT, APP = "xoxb" + "-1-secret-one", "xapp" + "-1-secret-two"
ENVIRONMENT = {"SLACK_BOT_TOKEN": BOT, "SLACK_APP_TOKEN": APP}
CONFIG = AnnotatorsConfig(kind="slack", slack=SlackConfig(channel="C0ALERTS", annotators=("U0ALICE",)))


def with_file(path: Path) -> AnnotatorsConfig:
    return msgspec.structs.replace(CONFIG, tokens_file=str(path))


FILE = f"# ours\nexport SLACK_BOT_TOKEN={BOT}\nSLACK_APP_TOKEN='{APP}'\n"


def write(path: Path, mode: int = 0o600) -> Path:
    path.write_text(FILE)
    path.chmod(mode)
    return path


def test_tokens_from_the_environment() -> None:
    tokens = load_tokens(CONFIG, ENVIRONMENT)
    assert (tokens.bot, tokens.app) == (BOT, APP)


def test_tokens_from_a_private_file_win_over_the_environment(tmp_path: Path) -> None:
    tokens = load_tokens(with_file(write(tmp_path / "tokens")), {"SLACK_BOT_TOKEN": "xoxb-other"})
    assert (tokens.bot, tokens.app) == (BOT, APP)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "tokens", mode)
    with pytest.raises(AnnotatorError, match=f"mode {mode:04o}") as caught:
        load_tokens(with_file(path))
    assert caught.value.hint == f"chmod 600 {path}"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotatorError, match="No such file"):
        load_tokens(with_file(tmp_path / "absent"))
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("folder", "fifo"):
        with pytest.raises(AnnotatorError, match="not a regular file"):
            load_tokens(with_file(tmp_path / name))


@pytest.mark.parametrize("missing", ["SLACK_BOT_TOKEN", "SLACK_APP_TOKEN"])
def test_a_missing_token_is_named_with_both_ways(missing: str) -> None:
    with pytest.raises(AnnotatorError, match=f"no {missing}") as caught:
        load_tokens(CONFIG, {**ENVIRONMENT, missing: " "})
    assert "SLACK_BOT_TOKEN" in caught.value.hint
    assert "annotators.tokens_file" in caught.value.hint


@pytest.mark.parametrize(
    "environment",
    [
        {**ENVIRONMENT, "SLACK_BOT_TOKEN": APP},
        {**ENVIRONMENT, "SLACK_APP_TOKEN": BOT},
        {**ENVIRONMENT, "SLACK_APP_TOKEN": APP + "\nX: y"},
        {**ENVIRONMENT, "SLACK_BOT_TOKEN": "my secret-one password"},
    ],
)
def test_errors_never_show_a_token(environment: dict[str, str]) -> None:
    with pytest.raises(AnnotatorError) as caught:
        load_tokens(CONFIG, environment)
    assert "secret-" not in "".join(traceback.format_exception(caught.value))


def test_tokens_are_not_printed() -> None:
    tokens = SlackTokens(bot=BOT, app=APP)
    assert "secret" not in f"{tokens} {tokens!r}"


@pytest.mark.parametrize(
    ("slack", "words"),
    [
        (SlackConfig(annotators=("U0ALICE",)), "channel is empty"),
        (SlackConfig(channel="C0ALERTS"), "nobody who may answer"),
    ],
)
def test_a_frontend_that_could_reach_nobody_is_refused_early(slack: SlackConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_tokens(AnnotatorsConfig(kind="slack", slack=slack), ENVIRONMENT)


def test_a_user_group_is_enough() -> None:
    assert load_tokens(AnnotatorsConfig(slack=SlackConfig(channel="C0ALERTS", usergroup="S0EXPERTS")), ENVIRONMENT)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"channel": "#alerts"}, "channel's id"),
        ({"annotators": ["@alice"]}, "user's id"),
        ({"usergroup": "experts"}, "user group's id"),
        ({"base_url": "slack.com/api"}, "must be a URL"),
        ({"base_url": "http://slack.com/api/"}, "https only"),
        ({"sockets": 11}, "1 to 10"),
        ({"posts_per_second": 0}, "positive"),
        ({"post_burst": 0}, "1 or more"),
        ({"chanel": "C0ALERTS"}, "chanel"),
    ],
)
def test_values_that_cannot_work_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(fields, SlackConfig)


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "tokens")
    os_uid = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: os_uid)
    if path.stat().st_uid == 0:
        assert load_tokens(with_file(path))  # root's files are trusted
    else:
        with pytest.raises(AnnotatorError, match="another user"):
            load_tokens(with_file(path))
