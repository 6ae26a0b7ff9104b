"""Sizes are cheap and near, contents are valid, short and without secrets."""

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
    """What has a size of its own is not estimated."""
    assert estimate_size(value) == size


@given(st.dictionaries(st.text("abc", min_size=1, max_size=8), st.text("xyz", max_size=20), min_size=1, max_size=30))
def test_an_estimate_is_near_the_json(value: dict[str, str]) -> None:
    """A container counts about what it takes as JSON."""
    assert estimate_size(value) == pytest.approx(len(json.dumps(value)), rel=0.5)


def test_a_large_container_is_extrapolated() -> None:
    """The cost of an estimate does not grow with the value, and the estimate does."""
    value = [{"name": "x" * 90} for _ in range(200_000)]
    started = time.perf_counter()
    size = estimate_size(value)
    assert time.perf_counter() - started < 0.01
    assert size == pytest.approx(len(json.dumps(value)), rel=0.2)


def test_an_estimate_survives_values_that_refuse() -> None:
    """A container that raises when it is looked at has no size, and harms nobody."""

    class Refusing(dict[str, str]):
        def __len__(self) -> int:
            raise RuntimeError("not mine")

    assert estimate_size(Refusing()) == 0


@given(JSON, st.integers(64, 2000))
def test_contents_are_valid_json_within_the_cap(value: Any, max_bytes: int) -> None:
    """Whatever the value, the text parses and is no longer than allowed."""
    text = to_json(value, max_bytes=max_bytes)
    json.loads(text)
    assert len(text.encode()) <= max_bytes


@given(st.integers(0, 60), st.sampled_from(SECRET_KEYS), st.booleans())
def test_secrets_are_redacted_at_any_depth(depth: int, key: str, in_list: bool) -> None:
    """A value under a key that names a secret never gets out, however deep it lies."""
    value: Any = {key: {"inner": "hunter2"}}
    for _ in range(depth):
        value = [value] if in_list else {"below": value}
    assert "hunter2" not in to_json(value)
    assert REDACTED in json.dumps(redact(value)) or depth >= 60


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_keys_that_name_a_secret_are_known(key: str) -> None:
    """Every common spelling is found."""
    assert redact({key: "x"}) == {key: REDACTED}


@pytest.mark.parametrize("key", PLAIN_KEYS)
def test_keys_that_only_look_alike_are_left(key: str) -> None:
    """Design tokens and token counts are not secrets."""
    assert redact({key: "x"}) == {key: "x"}


def test_objects_are_looked_into() -> None:
    """Dataclasses and plain objects are recorded by their fields, redacted like dictionaries."""

    @dataclasses.dataclass
    class Login:
        user: str
        password: str

    assert redact([Login("ada", "hunter2"), SimpleNamespace(api_key="k")]) == [
        {"user": "ada", "password": REDACTED},
        {"api_key": REDACTED},
    ]


def test_a_value_that_refuses_gives_nothing_away() -> None:
    """Where redaction fails, nothing of the value is recorded."""

    class Refusing(dict[str, str]):
        def items(self) -> Any:
            raise RuntimeError("hunter2")

    assert to_json({"login": Refusing(a="hunter2")}) == '{"_redaction_failed":true}'


def test_what_is_cut_says_so() -> None:
    """A long text keeps its beginning and says how much is missing."""
    text = json.loads(to_json({"code": "x" * 5000, "name": "Button"}, max_bytes=3000))
    assert text["name"] == "Button"
    assert text["code"].startswith("xxx")
    assert "(+3000)" in text["code"]


def test_a_value_that_holds_itself_ends() -> None:
    """A cycle is cut, not followed."""
    value: dict[str, Any] = {"name": "loop"}
    value["self"] = value
    assert json.loads(to_json(value))["name"] == "loop"
    assert estimate_size(value) > 0
