"""Take secrets out of text before it leaves the cluster.

Meant for what agents print: a false alarm costs an annotator a word, a miss costs a credential. Yet
logs must stay readable, so what only might be a secret (the value of ``token=``) counts where it looks
like one, and code such as ``api_key=settings.key`` stays. Every pattern is bounded, so that hostile
text cannot make the search slow.
"""

from __future__ import annotations

import re

MARK = "[redacted]"
SCANNED = 100_000
"""Characters of a longer text that callers should give: the search takes time."""
LONGEST = 8192
"""Characters of the longest secret that is told by its whole: who shows less of a text than there is gives
so many more, and cuts afterwards."""

_KNOWN = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r".*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)"
    r"|xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{8,512}|xapp-[A-Za-z0-9-]{8,512}"  # Slack
    r"|hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_-]{8,256}"
    r"|discord(?:app)?\.com/api/webhooks/[A-Za-z0-9/_-]{8,256}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,255}|\bgithub_pat_[A-Za-z0-9_]{20,255}"
    r"|\bgl(?:pat|dt|rt|cbt|ptt|ft|soat|imt|agent)-[A-Za-z0-9_.-]{16,255}"
    r"|\bhf_[A-Za-z0-9]{30,255}"  # Hugging Face
    r"|\b(?:sk|gsk|xai|pplx|tvly|rk|r8)[-_](?=[A-Za-z_-]{0,64}\d)[A-Za-z0-9_-]{16,255}"  # OpenAI, Anthropic, Stripe, …
    r"|\b(?:AKIA|ASIA|AROA|AIDA|ABIA|ACCA)[0-9A-Z]{16}\b"  # AWS
    r"|\bAIza[0-9A-Za-z_-]{35}|\bya29\.[0-9A-Za-z_-]{20,1024}|\bGOCSPX-[0-9A-Za-z_-]{20,128}"  # Google
    r"|\bAccountKey=[A-Za-z0-9+/]{40,255}={0,2}"  # Azure
    r"|\bpypi-[A-Za-z0-9_-]{16,512}|\bnpm_[A-Za-z0-9]{20,255}|\bdckr_pat_[A-Za-z0-9_-]{16,255}"
    r"|\bdapi[0-9a-f]{32}\b|\bdop_v1_[0-9a-f]{32,128}|\bSG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,128}"
    r"|\b\d{8,10}:AA[A-Za-z0-9_-]{33}\b"  # Telegram
    r"|\bAGE-SECRET-KEY-1[0-9A-Z]{20,128}"
    r"|\beyJ[A-Za-z0-9_-]{8,4096}(?:\.[A-Za-z0-9_-]{0,4096}){2,4}",  # JSON web tokens, signed or encrypted
    re.DOTALL,
)

_IN_URL = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]{1,20}://)([^\s/@:\"'<>]{0,256})(:?)([^\s/@\"'<>]{0,512})@")
_PARAMETER = re.compile(
    r"([?&](?:sig|signature|x-amz-signature|x-amz-security-token|x-goog-signature|key|auth|code)=)([^\s&\"'<>#]{12,2048})",
    re.IGNORECASE,
)

_HEADER = re.compile(
    r"\b((?:authorization|proxy-authorization|x-api-key|x-auth-token|private-token|cookie|set-cookie)[\"']?"
    r"\s{0,3}[:=]\s{0,3}[\"']?)((?:bearer|basic|token|digest|apikey)\s{1,3})?([^\s\"',;]{4,4096})",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer\s{1,3})([A-Za-z0-9._~+/=-]{12,4096})", re.IGNORECASE)

_PLACEHOLDER = r"(?!\$|%|\{\{|<|\*{3}|\[redacted|None\b|null\b|true\b|false\b|os\.|getenv)"
_EQUALS = r"[\"']?\s{0,3}(?::=|=>|[:=])\s{0,3}"
_VALUE = r"(\"[^\"\n]{1,1024}\"|'[^'\n]{1,1024}'|[^\s\"',;&]{1,1024})"
_ASSIGNED = re.compile(
    r"((password|passwd|passphrase|secret|api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|"
    r"client[_-]?secret|credential)" + _EQUALS + ")" + _PLACEHOLDER + _VALUE,
    re.IGNORECASE,
)
# "token" is an everyday word of language models: only what looks random counts. So do variables of an
# environment whose names end like those of secrets.
_PERHAPS = re.compile(
    r"((?:(?i:token)|\b[A-Z0-9_]{1,64}_(?:KEY|TOKEN|PASS|PWD|PW|AUTH|CREDENTIALS?))"
    + _EQUALS
    + r"[\"']?)"
    + _PLACEHOLDER
    + r"([\w./+=@#!~^*-]{8,8192}+)(?![(\[])"
)
_FLAG = re.compile(
    r"(--?(?:password|passwd|passphrase|token|secret|api-?key|access-?key|auth-?token)[ =]{1,3})"
    + _PLACEHOLDER
    + r"(?!-)"
    + _VALUE,
    re.IGNORECASE,
)
_CURL_USER = re.compile(r"((?:\s-u|--user)[ =]{0,3}[\"']?[^\s:\"']{1,128}:)([^\s\"']{1,256})")

_NAME = r"[A-Za-z_]\w{0,63}"
_CODE = re.compile(rf"{_NAME}(?:\.{_NAME}){{0,8}}[(\[]|{_NAME}(?:\.{_NAME}){{1,8}}[)\]}},]{{0,4}}$")
"""A call, a subscript, or an attribute: code that names a secret, not a secret."""
_PATH = re.compile(r"~?/[a-z]{1,20}/[\w./-]{0,256}$")
_TYPES = ("str", "string", "bytes", "int", "bool", "float", "any", "optional", "required", "object", "secretstr")


def redact(text: str) -> str:
    """``text`` with keys, tokens, passwords and credentials in addresses replaced by `MARK`."""
    text = _KNOWN.sub(MARK, text)
    text = _IN_URL.sub(_credentials, text)
    text = _HEADER.sub(_header, text)
    text = _FLAG.sub(rf"\1{MARK}", text)
    text = _ASSIGNED.sub(_assigned, text)
    for pattern in (_BEARER, _PERHAPS, _PARAMETER):
        text = pattern.sub(_if_random, text)
    return _CURL_USER.sub(rf"\1{MARK}", text)


def _credentials(match: re.Match[str]) -> str:
    scheme, user, colon, _secret = match.groups()
    return f"{scheme}{user}:{MARK}@" if colon else f"{scheme}{MARK}@"


def _header(match: re.Match[str]) -> str:
    name, scheme, value = match.groups()
    if scheme is None and not _is_random(value):
        return match.group()  # "Authorization: required"
    return f"{name}{scheme or ''}{MARK}"


def _assigned(match: re.Match[str]) -> str:
    head, name, value = match.groups()
    if value[0] not in "\"'":
        word = value.rstrip(")]},.").lower()
        if _CODE.match(value) or _PATH.match(value) or word in _TYPES or word == name.lower() or not word.strip("([{"):
            return match.group()  # password=args.password, api_key: str, passwd: /etc/passwd
        if name.lower() in ("secret", "credential") and word.isalpha():
            return match.group()  # "the secret: patience"
    return f"{head}{MARK}"


def _if_random(match: re.Match[str]) -> str:
    return f"{match.group(1)}{MARK}" if _is_random(match.group(2)) else match.group()


def _is_random(value: str) -> bool:
    """Whether it may have been drawn: letters and digits, and no path."""
    return (
        any(c.isdigit() for c in value)
        and any(c.isalpha() for c in value)
        and not value.startswith(("/", "./", "../", "~/"))
    )
