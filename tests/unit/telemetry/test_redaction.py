"""Tests of the redaction of secrets in text: by name, by surroundings, by format."""

import json
import time

import pytest

from forge_otel.telemetry.redaction import is_secret_name, scrub

SECRETS = [
    *(
        "https://user:CANARY@host/x",
        "postgresql://u:CANARY@h/db",
        "redis://:CANARY@h:6379/0",
        "dsn=postgres://u:CANARY@h",
    ),
    *("?token=CANARY&x=1", "access_token%3DCANARY", "x-amz-signature=CANARY", "password=CANARY,CANARY"),
    *("Authorization: Bearer CANARY1", "authorization=Bearer CANARY", "Cookie: a=CANARY; b=CANARY", "Basic CANARYpXNz"),
    *("{'api_key': 'CANARY'}", '{"api_key": "CANARY"}', "{'password': b'CANARY'}", '"token": ["CANARY"]'),
    *('{"a": "{\\"password\\": \\"CANARY\\"}"}', "password = 'CAN\\'CANARY'", 'password: "CANARY and more"'),
    *("Invalid key: client_secret='CANARY CANARY' given", "curl -H 'X-Api-Key: CANARY' http://x", "secret=>CANARY"),
    *("sk-CANARYCANARYCANARY1", "AKIACANARYCANARYC", "ghp_CANARYCANARYCANARY12", "figd_CANARYCANARY"),
    *("lsv2_pt_CANARYCANARYCANARY", "eyJCANARYxx.CANARYxxx.CANARY", "BEARER CANARY123"),
    "-----BEGIN RSA PRIVATE KEY-----\nCANARY\n-----END RSA PRIVATE KEY-----\nrest",
]
GROWING = {
    "jwt headers": "eyJ-",
    "jwt headers and payloads": "eyJ-aaaaa.",
    "long jwt segments": "eyJaaaaa-eyJaaaaa",
    "dotted words": "aaaaaa.",
    "keys": "sk-",
    "urls": "://",
    "user information": "://aaaa@",
    "headers": "cookie:",
    "schemes": "bearer ",
    "private keys": "-----BEGIN PRIVATE KEY-----",
    "names": "token=",
    "name without a value": "a.b-",
    "quotes": 'token="',
    "escaped quotes": 'token="\\"',
    "brackets": "token=[",
    "percent": "%3D",
}
HARMLESS = [
    *(
        "max_tokens=5",
        "tokens: {color: red}",
        "key=abc",
        "session_id=s1",
        "a = b",
        "http://host:80/p?x=1",
        "Basic HTML",
    ),
    *("the token economy", "component key: 12", "GET /items/{item}", "border: 1px solid", "a bearer of news"),
]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_replaced(text: str) -> None:
    """By a marker; the text around them stays."""
    assert "CANARY" not in scrub(text)
    assert "[redacted]" in scrub(text)
    assert scrub(scrub(text)) == scrub(text)


@pytest.mark.parametrize(
    "begin",
    [
        *("sk-", "sk_", "pk-", "rk_", "ak-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "figd_"),
        *(
            "xoxa-",
            "xoxb-",
            "xoxe-",
            "xoxo-",
            "xoxp-",
            "xoxr-",
            "xoxs-",
            "lsv2_",
            "hf_",
            "npm_",
            "AKIA",
            "ASIA",
            "AIza",
        ),
        *("whsec_", "ya29.", "eyJCANARY.CANARY.", "bearer ", "basic+", "Digest\t", "negotiate\n", "TOKEN "),
    ],
)
@pytest.mark.parametrize("around", ["{}", "found {} in the file", "({})"])
def test_a_secret_is_recognized_by_its_format(begin: str, around: str) -> None:
    """Without any other hint in the text."""
    assert "CANARY" not in scrub(around.format(f"{begin}CANARYCANARYCANARYCANARY"))


@pytest.mark.parametrize("before", ["", "id-", "aaaa-bbbb-", "aaaaaaa.", "eyJx."])
def test_a_jwt_is_recognized_behind_other_characters(before: str) -> None:
    """Of a word, of another segment, or of a shorter look-alike."""
    assert scrub(f"{before}eyJCANARYxx.CANARYxxx.CANARY") == f"{before}[redacted]"


@pytest.mark.parametrize("name", GROWING)
def test_time_is_linear_in_the_length_of_the_text(name: str) -> None:
    """Eight times the text takes far less than 64 times as long, which a quadratic reader would take."""

    def cpu_s(repeated: int) -> float:
        text, times = "=" + GROWING[name] * repeated, []
        for _ in range(3):
            begun_s = time.process_time()
            scrub(text)
            times.append(time.process_time() - begun_s)
        return min(times)

    assert cpu_s(8_000) < 24 * max(cpu_s(1_000), 1e-4)


@pytest.mark.parametrize("text", HARMLESS)
def test_other_words_stay(text: str) -> None:
    """Design tokens and token counts are not secrets."""
    assert scrub(text) == text


def test_json_stays_json() -> None:
    """A redacted content can still be parsed."""
    text = json.dumps({"a": {"password": "x y"}, "b": json.dumps({"token": "z"}), "c": 1})
    assert json.loads(scrub(text)) == {"a": {"password": "[redacted]"}, "b": '{"token": "[redacted]"}', "c": 1}


@pytest.mark.parametrize("name", ["apiKey", "X-Amz-Signature", "accesstoken", "db_password", "AccountKey", "auth"])
def test_names_of_secrets(name: str) -> None:
    """In every spelling."""
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["tokens", "max_tokens", "token_type", "figma_key", "author", "keyboard", "pinned"])
def test_names_of_other_things(name: str) -> None:
    """With similar words."""
    assert not is_secret_name(name)
