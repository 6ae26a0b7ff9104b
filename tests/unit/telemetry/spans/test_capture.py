"""Tests of estimated sizes and captured contents."""

import dataclasses
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_otel.telemetry.spans.capture import REDACTED, estimate_size, redact, to_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=20),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
    max_leaves=40,
)
SECRET_KEYS = [
    "password",
    "apiKey",
    "X-API-Key",
    "access_token",
    "Authorization",
    "client_secret",
    "DB_PASSWORD",
    "token",
]
PLAIN_KEYS = ["tokens", "max_tokens", "token_type", "input_tokens", "key", "figma_key", "monkey", "tokenizer"]


@pytest.mark.parametrize(("value", "size"), [("abc", 3), (b"abc", 3), (None, 0), ("", 0), ("é" * 10, 20)])
def test_texts_and_bytes_are_measured(value: object, size: int) -> None:
    """Their size is exact for ASCII and for uniform texts."""
    assert estimate_size(value) == size


@given(st.dictionaries(st.text("abc", min_size=1, max_size=8), st.text("xyz", max_size=20), min_size=1, max_size=30))
def test_the_estimate_of_a_container_approximates_its_json(value: dict[str, str]) -> None:
    """Within a factor of two."""
    assert estimate_size(value) == pytest.approx(len(json.dumps(value)), rel=0.5)


def test_a_large_container_is_extrapolated() -> None:
    """The time does not grow with the value."""
    value = [{"name": "x" * 90} for _ in range(200_000)]
    started = time.perf_counter()
    size = estimate_size(value)
    assert time.perf_counter() - started < 0.01
    assert size == pytest.approx(len(json.dumps(value)), rel=0.2)


def test_a_container_that_raises_has_size_zero() -> None:
    """The error does not reach the caller."""

    class Refusing(dict[str, str]):
        def __len__(self) -> int:
            raise RuntimeError("not mine")

    assert estimate_size(Refusing()) == 0


@given(JSON, st.integers(64, 2000))
def test_contents_are_valid_json_within_the_limit(value: Any, max_bytes: int) -> None:
    """For any value and limit."""
    text = to_json(value, max_bytes=max_bytes)
    json.loads(text)
    assert len(text.encode()) <= max_bytes


@given(st.integers(0, 60), st.sampled_from(SECRET_KEYS), st.booleans())
def test_secrets_are_redacted_at_any_depth(depth: int, key: str, in_list: bool) -> None:
    """Under keys that name a secret."""
    value: Any = {key: {"inner": "hunter2"}}
    for _ in range(depth):
        value = [value] if in_list else {"below": value}
    assert "hunter2" not in to_json(value)
    assert REDACTED in json.dumps(redact(value)) or depth >= 60


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_secret_keys_are_redacted(key: str) -> None:
    """In every common spelling."""
    assert redact({key: "x"}) == {key: REDACTED}


@pytest.mark.parametrize("key", PLAIN_KEYS)
def test_similar_keys_are_kept(key: str) -> None:
    """Design tokens and token counts are not secrets."""
    assert redact({key: "x"}) == {key: "x"}


def test_objects_are_recorded_by_their_fields() -> None:
    """Dataclasses and plain objects, redacted like dictionaries."""

    @dataclasses.dataclass
    class Login:
        user: str
        password: str

    assert redact([Login("ada", "hunter2"), SimpleNamespace(api_key="k")]) == [
        {"user": "ada", "password": REDACTED},
        {"api_key": REDACTED},
    ]


def test_an_error_in_redaction_records_nothing() -> None:
    """Nothing of the value is in the content."""

    class Refusing(dict[str, str]):
        def items(self) -> Any:
            raise RuntimeError("hunter2")

    assert to_json({"login": Refusing(a="hunter2")}) == '{"_redaction_failed":true}'


def test_a_truncated_text_has_a_marker() -> None:
    """It keeps its beginning, followed by the number of missing characters."""
    text = json.loads(to_json({"code": "x" * 5000, "name": "Button"}, max_bytes=3000))
    assert text["name"] == "Button"
    assert text["code"].startswith("xxx")
    assert "(+3000)" in text["code"]


def test_a_cycle_is_truncated() -> None:
    """In contents and in estimates."""
    value: dict[str, Any] = {"name": "loop"}
    value["self"] = value
    assert json.loads(to_json(value))["name"] == "loop"
    assert estimate_size(value) > 0
