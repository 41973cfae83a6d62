"""Secrets leave the text, words stay."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.router.annotators.redact import MARK, redact

# Joined at run time, so that scanners of repositories do not take the samples for real.
HEX = "0123456789abcdef" * 3
SECRETS = {
    "slack bot": "xoxb" + "-1234567890-abcdefGHIJ",
    "slack app": "xapp" + "-1-A012-99-deadbeef",
    "slack hook": "hooks.slack.com" + "/services/T000/B000/XXXXXXXXXXXX",
    "github": "ghp" + "_" + "a1" * 18,
    "github fine": "github" + "_pat_" + "a1" * 20,
    "gitlab": "glpat" + "-abcdefghijklmnopqrst",
    "hugging face": "hf" + "_" + "aB3" * 11,
    "openai": "sk" + "-proj-" + "aB3_" * 10,
    "aws": "AKIA" + "ABCDEFGHIJKLMNOP",
    "google": "AIza" + "a1B2c" * 7,
    "pypi": "pypi" + "-AgEIcHlwaS5vcmc" * 2,
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0" + ".sflKxwRJSMeKKF2QT4",
}


@pytest.mark.parametrize("name", SECRETS)
def test_known_tokens_go(name: str) -> None:
    secret = SECRETS[name]
    for text in (secret, f"loaded {secret}, fine", f"'{secret}'", f"x={secret};"):
        assert secret not in redact(text)
        assert MARK in redact(text)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("DB_PASSWORD=hunter2", "hunter2"),
        ("password: correct-horse", "correct-horse"),
        ('{"api_key": "abc def 123"}', "abc def 123"),
        ("aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI"),
        ("WANDB_API_KEY=" + HEX, HEX),
        ("export HF_TOKEN=" + HEX, HEX),
        ("Authorization: Bearer " + HEX, HEX),
        ("authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("curl -H 'X-Api-Key: s3cr3t-value' host", "s3cr3t-value"),
        ("curl -u admin:letmein https://host", "letmein"),
        ("mysql --password=letmein", "letmein"),
        ("login --token abcdefgh12345678", "abcdefgh12345678"),
        ("git clone https://user:pa55w0rd@example.org/repo", "pa55w0rd"),
        ("git clone https://oauth-secret-value@example.org/repo", "oauth-secret-value"),
        ("postgres://app:p%40ss@db:5432/x", "p%40ss"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----", "MIIEow"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEcut off in the middle", "MIIEcut"),
    ],
)
def test_secrets_in_their_places_go(text: str, secret: str) -> None:
    assert secret not in redact(f"before\n{text}\nafter" if "cut off" not in text else text)


@pytest.mark.parametrize(
    "text",
    [
        "for cobalt set anneal to 450C",
        "max_tokens=4096 pad_token=<pad> eos_token_id: 151643",
        "token_ids: [1, 2, 3], tokens: 512",
        "password: $DB_PASSWORD",
        "api_key=os.environ['KEY']",
        "https://example.org/a?b=c and user@example.org",
        "step 12: loss 0.31, 88 pass",
        "commit 0123456789abcdef0123456789abcdef01234567",
        "the secret of the matter",
    ],
)
def test_words_stay(text: str) -> None:
    assert redact(text) == text


def test_the_address_stays_readable() -> None:
    assert redact("https://bob:pw@example.org/x") == f"https://bob:{MARK}@example.org/x"


@given(st.text(max_size=300))
def test_redacting_again_changes_nothing(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@pytest.fixture
def a_few_seconds() -> Iterator[None]:
    """A regular expression that never ends cannot be interrupted by the event loop, only by a signal."""

    def expire(_number: int, _frame: object) -> None:
        raise TimeoutError("redact took too long")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("a_few_seconds")
@pytest.mark.parametrize(
    "unit",
    ["a", "password", "password=", "token=", "--token ", "eyJ", "eyJaaaaaaaaa.", "http://", "a:", "Bearer ", " -u x"],
)
def test_hostile_text_is_no_slower(unit: str) -> None:
    redact(unit * (100_000 // len(unit)))
