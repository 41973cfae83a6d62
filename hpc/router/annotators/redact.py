"""Take secrets out of text before it leaves the cluster.

Meant for what agents print: a false alarm costs an annotator a word, a miss costs a credential.
Every pattern is bounded, so that hostile text cannot make the search slow.
"""

from __future__ import annotations

import re

MARK = "[redacted]"

_KNOWN = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)"
    r"|xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{8,512}"  # Slack
    r"|xapp-[A-Za-z0-9-]{8,512}"
    r"|hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{8,256}"
    r"|gh[pousr]_[A-Za-z0-9]{20,255}|github_pat_[A-Za-z0-9_]{20,255}|glpat-[A-Za-z0-9_-]{16,255}"
    r"|\bhf_[A-Za-z0-9]{16,255}"  # Hugging Face
    r"|\bsk-[A-Za-z0-9_-]{16,255}"  # OpenAI, Anthropic
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS
    r"|\bAIza[0-9A-Za-z_-]{35}"  # Google
    r"|\bpypi-[A-Za-z0-9_-]{16,512}|\bnpm_[A-Za-z0-9]{20,255}"
    r"|\beyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{0,4096}",  # JSON web token
    re.DOTALL,
)

_IN_URL = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]{1,20}://)([^\s/@:\"'<>]{0,256})(:?)([^\s/@\"'<>]{0,512})@")

_HEADER = re.compile(
    r"\b((?:authorization|proxy-authorization|x-api-key|cookie|set-cookie)[\"']?\s{0,3}[:=]\s{0,3}[\"']?"
    r"(?:(?:bearer|basic|token|digest)\s{1,3})?)([^\s\"',;]{4,4096})",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer\s{1,3})([A-Za-z0-9._~+/=-]{12,4096})", re.IGNORECASE)

_PLACEHOLDER = r"(?!\$|%|\{\{|<|\*{3}|\[redacted|None\b|null\b|true\b|false\b|os\.|getenv)"
_VALUE = r"(\"[^\"\n]{1,1024}\"|'[^'\n]{1,1024}'|[^\s\"',;&]{1,1024})"
_ASSIGNED = re.compile(
    r"((?:password|passwd|passphrase|secret|api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|"
    r"client[_-]?secret|credential)[\"']?\s{0,3}(?::=|=>|[:=])\s{0,3})" + _PLACEHOLDER + _VALUE,
    re.IGNORECASE,
)
# "token" alone is an everyday word of language models: only long opaque values count.
_TOKEN = re.compile(
    r"(token[\"']?\s{0,3}(?::=|=>|[:=])\s{0,3}[\"']?)" + _PLACEHOLDER + r"([A-Za-z0-9_./+=-]{16,1024})", re.IGNORECASE
)
_FLAG = re.compile(
    r"(--?(?:password|passwd|passphrase|token|secret|api-?key|access-?key|auth-?token)[ =]{1,3})"
    + _PLACEHOLDER
    + r"(?!-)"
    + _VALUE,
    re.IGNORECASE,
)
_CURL_USER = re.compile(r"((?:\s-u|--user)[ =]{0,3}[\"']?[^\s:\"']{1,128}:)([^\s\"']{1,256})")


def redact(text: str) -> str:
    """``text`` with keys, tokens, passwords and credentials in addresses replaced by `MARK`."""
    text = _KNOWN.sub(MARK, text)
    text = _IN_URL.sub(_credentials, text)
    for pattern in (_HEADER, _BEARER, _FLAG, _ASSIGNED, _TOKEN, _CURL_USER):
        text = pattern.sub(rf"\1{MARK}", text)
    return text


def _credentials(match: re.Match[str]) -> str:
    scheme, user, colon, _secret = match.groups()
    return f"{scheme}{user}:{MARK}@" if colon else f"{scheme}{MARK}@"
