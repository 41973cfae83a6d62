"""Secrets leave the text, words stay."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.core.redact import MARK, redact

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
    "anthropic": "sk" + "-ant-api03-" + "aB3_" * 10,
    "groq": "gsk" + "_" + "aB3" * 15,
    "stripe": "sk" + "_live_" + "aB3" * 8,
    "aws": "AKIA" + "ABCDEFGHIJKLMNOP",
    "aws session": "ASIA" + "ABCDEFGHIJKLMNOP",
    "google oauth": "ya29" + ".a0AfH6SMBx-1_2aB3_xyz",
    "google client": "GOCSPX" + "-abcDEF123456_abcDEF12",
    "azure": "AccountKey" + "=" + "aB3+" * 20 + "==",
    "docker": "dckr" + "_pat_" + "aB3-" * 6,
    "sendgrid": "SG" + "." + "aB3_" * 5 + "." + "aB3-" * 10,
    "databricks": "dapi" + "0123456789abcdef" * 2,
    "telegram": "123456789" + ":AA" + "aB3-" * 8 + "x",
    "encrypted token": "eyJ" + "hbGciOiJSU0EtT0FFUCJ9" + ".b1" * 4,
    "gitlab runner": "glrt" + "-abcdefghijklmnopqrst",
    "discord hook": "discord.com" + "/api/webhooks/123456/abcDEF",
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
        ("S3_KEY=abc12345xyz", "abc12345xyz"),
        ("export REGISTRY_PASS='pa55word!'", "pa55word!"),
        ("CI_JOB_TOKEN=abc12345", "abc12345"),
        ("access_token=" + HEX, HEX),
        ("PRIVATE-TOKEN: abc12345", "abc12345"),
        ("https://bucket.example/x?X-Amz-Signature=" + HEX + "&y=1", HEX),
        ("https://maps.example/js?key=aB3aB3aB3aB3aB3", "aB3aB3aB3aB3aB3"),
        ('config = {"password": "two words"}', "two words"),
        ("passphrase: swordfish", "swordfish"),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----\nabc\n-----END PGP PRIVATE KEY BLOCK-----", "abc"),
        ('{"private_key": "-----BEGIN PRIVATE KEY-----\\nMIIEvQ\\n-----END PRIVATE KEY-----\\n"}', "MIIEvQ"),
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
        "the secret: patience",
        "client = OpenAI(api_key=settings.openai_key, timeout=3)",
        "def login(user: str, password: str, api_key: Optional[str] = None) -> None:",
        "connect(password=args.password, secret=secret, credential=DefaultAzureCredential())",
        "token = tokenizer.decode(ids[0]); next_token: torch.Tensor",
        "pip install sk-learn-compatible-estimators hf_transformers_backend_loader",
        "from transformers import hf_AutoModelForCausalLM",
        "Authorization: required. A bearer authentication-scheme is used",
        "sort_key=loss_2024, primary_key: user12345",
        "TOKEN_COUNT=8192 MAX_KEY=17 CACHE_KEY=/data/cache/v1",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "wandb: Run summary: val/acc 0.8123, lr 3e-04, step 12000",
        "Traceback (most recent call last): KeyError: 'password'",
        "2026-11-27 13:02:11,402 INFO epoch 3/10 loss=0.4312 ppl=12.1 tok/s=18234",
        "ssh -i ~/.ssh/id_ed25519 user@login01.example.org:2222",
        "slurmstepd: error: *** JOB 1234567 ON node001 CANCELLED AT 2026-11-27 ***",
        "the passwd: /etc/passwd is world-readable, secret_key_base is unset",
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
    [
        *("a", "password", "password=", "token=", "--token ", "eyJ", "eyJaaaaaaaaa.", "http://", "a:", "Bearer "),
        *(" -u x", "sk-", "sk-a", "A_", "A_KEY=", "token=a.", "password=a.b", "?key=", "1:AA", "SG.a", "Cookie: "),
    ],
)
def test_hostile_text_is_no_slower(unit: str) -> None:
    redact(unit * (100_000 // len(unit)))
