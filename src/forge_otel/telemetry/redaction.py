"""Redaction of secrets in text: found by the name in front, by a URL or a header around them, or by their own format.

A secret without such a mark, for example a password in a sentence, cannot be recognized. For this reason contents are
recorded only on request.
"""

import re
from functools import lru_cache
from typing import Final

__all__ = ["REDACTED", "is_secret_name", "scrub", "scrub_name"]

REDACTED: Final = "[redacted]"
# The end of a long name decides, which also bounds the time of the search for words.
_MAX_NAME: Final = 64

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_WORDS: Final = frozenset(
    {"apikey", "authorization", "cookie", "cookies", "credential", "credentials", "otp", "jwt"}
    | {"passcode", "passphrase", "passwd", "password", "passwords", "pwd", "secret", "secrets", "signature"}
)
# Secret only as the last word: `access_token` is, `token_type` is not.
_SECRET_LAST: Final = frozenset({"token", "bearer", "auth", "sig"})
# Secret in front of `key`: `api_key` is, `figma_key` is not.
_SECRET_KEYS: Final = frozenset(
    {"api", "access", "account", "auth", "encryption", "master", "private", "secret", "session", "shared", "signing"}
    | {"subscription"}
)
# Words written together, without a separator or a capital letter.
_SECRET_ENDS: Final = (
    *("accesskey", "accesstoken", "apikey", "authtoken", "bearertoken", "clientsecret", "idtoken", "password"),
    *("privatekey", "refreshtoken", "secretkey", "sessiontoken"),
)

# Each pattern below needs one of these; most texts have none, and one search rules them out.
_HINT: Final = re.compile(
    r"[=:%]|-----BEGIN|\b(?:[apsr]k[-_]|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|figd_|lsv2_|hf_|npm_|AKIA|ASIA|AIza"
    r"|whsec_|ya29\.|eyJ)|\b(?i:bearer|basic|digest|negotiate|token)[\s+]"
)
# Every repetition is limited, or excludes the character after it, so that no text causes backtracking.
_PEM: Final = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
)
_USERINFO: Final = re.compile(r"(?<=://)[^\s/?#@\"'<>\\]{1,512}@")
_SCHEME: Final = re.compile(r"\b(bearer|basic|digest|negotiate|token)(\s+|%20|\+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_FORMAT: Final = re.compile(
    r"\b(?:sk|pk|rk|ak)[-_](?:[A-Za-z0-9_-]{16,})"
    r"|\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"
    r"|\bxox[abeoprs]-[\w-]{10,}|\bfigd_[\w-]{10,}|\blsv2_[\w-]{16,}|\bhf_[A-Za-z0-9]{16,}|\bnpm_[A-Za-z0-9]{16,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bAIza[\w-]{20,}|\bwhsec_[\w-]{10,}|\bya29\.[\w-]{10,}"
)
# The lookahead finds once for each run of characters whether it is a first segment. Without it, each `eyJ-` in a run
# would be followed to the end of the run, in quadratic time.
_JWT: Final = re.compile(r"(?<![\w-])(?=[\w-]++\.[\w-]{5,}+\.)(?P<before>[\w-]*?)\beyJ[\w-]{5,}+\.[\w-]{5,}+\.[\w-]*+")
# A name and a separator: quoted or not, escaped as in JSON inside of JSON, percent-encoded as in a query.
_NAME: Final = re.compile(r"(?<![\w.-])(?P<name>[A-Za-z][\w.-]*+)\\{0,3}[\"']?\s{0,4}(?:=>|[=:]|%3[AaDd])\s{0,4}")
# The value: quoted, bracketed, or up to the next blank.
_VALUE: Final = re.compile(
    r"(?P<open>[bru]{0,2}\\{0,3}\")(?:[^\"\\]|\\[^\"])*+(?P<close>\\?\"|\Z)"
    r"|(?P<open1>[bru]{0,2}\\{0,3}')(?:[^'\\]|\\.)*+(?P<close1>'|\Z)"
    r"|\[[^\]]*(?:\]|\Z)|\{[^}]*(?:\}|\Z)|\([^)]*(?:\)|\Z)"
    r"|(?:(?:bearer|basic|digest|negotiate|token)\s+)?(?:[^\s\"'&,;)}\]\\]|[,;)](?=\S))+",
    re.IGNORECASE,
)
_HEADER: Final = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie)(\s{0,4}:\s{0,4})[^\r\n\"']{1,4096}", re.IGNORECASE
)


@lru_cache(maxsize=4096)
def scrub_name(name: str) -> str:
    """Return `scrub(name)`, cached, for texts that repeat, such as the names of attributes."""
    return scrub(name)


def scrub(text: str) -> str:
    """Return `text` with `[redacted]` in place of recognized secrets."""
    if _HINT.search(text) is None:
        return text
    text = _PEM.sub(REDACTED, text)
    text = _USERINFO.sub(f"{REDACTED}@", text)
    text = _HEADER.sub(rf"\1\2{REDACTED}", text)
    text = _redact_named(text)
    text = _SCHEME.sub(rf"\1\2{REDACTED}", text)
    text = _FORMAT.sub(REDACTED, text)
    return _JWT.sub(rf"\g<before>{REDACTED}", text) if "eyJ" in text else text


def _redact_named(text: str) -> str:
    kept: list[str] = []
    done = 0
    for found in _NAME.finditer(text):
        if found.start() < done or not is_secret_name(found["name"]):
            continue
        value = _VALUE.match(text, found.end())
        if value is None or value[0].startswith(REDACTED):
            continue
        # The quotes stay, so that JSON stays valid.
        opening, closing = value["open"] or value["open1"] or "", value["close"] or value["close1"] or ""
        kept += [text[done : found.end()], opening, REDACTED, closing]
        done = value.end()
    return "".join([*kept, text[done:]])


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Return whether `name` names a secret, like `api_key` and `accessToken`, but not `max_tokens`."""
    words = [word.lower() for word in _WORD.findall(name[-_MAX_NAME:])]
    if not words:
        return False
    if not _SECRET_WORDS.isdisjoint(words) or words[-1] in _SECRET_LAST or words[-1].endswith(_SECRET_ENDS):
        return True
    return words[-1] == "key" and len(words) > 1 and words[-2] in _SECRET_KEYS
