"""Equal meaning gives equal bytes; what JSON cannot say is refused."""

import math
import unicodedata
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_otel.errors import BadRequest
from forge_otel.keys import artifact_key, canonical, digest, generation_key, new_id
from forge_otel.types import GenerationRequest

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # RFC 8785 appendix B and §3.2.3.
        (333333333.33333329, "333333333.3333333"),
        (1e30, "1e+30"),
        (4.50, "4.5"),
        (2e-3, "0.002"),
        (0.000000000000000000000000001, "1e-27"),
        (5e-324, "5e-324"),
        (-0.0, "0"),
        (1.0, "1"),
        (1e21, "1e+21"),
        ({"\u20ac": 1, "\r": 2, "\U0001f600": 3, "\uffee": 4}, '{"\\r":2,"€":1,"😀":3,"\uffee":4}'),
        ("#FFF", '"#ffffff"'),
        ("#AbCdEf80", '"#abcdef80"'),
        ({3, 1, 2}, "[1,2,3]"),
        ((1, None, True), "[1,null,true]"),
    ],
)
def test_published_vectors(value: Any, expected: str) -> None:
    """The canonical form is RFC 8785 with our two additions."""
    assert canonical(value).decode() == expected


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), JSON, max_size=6))
def test_key_order_does_not_matter(value: dict[str, Any]) -> None:
    """An object and the same object built backwards have one digest."""
    try:
        expected = digest(value)
    except BadRequest:
        return  # two keys that are one letter in two Unicode forms
    assert digest(dict(reversed(value.items()))) == expected


@given(JSON, JSON)
def test_different_values_have_different_bytes(one: Any, other: Any) -> None:
    """Bytes are equal exactly when the values mean the same."""
    try:
        same_bytes = canonical(one) == canonical(other)
    except BadRequest:
        return
    assert same_bytes == (_meaning(one) == _meaning(other))


def _meaning(value: Any) -> Any:
    """Bring a value to a Python object that is equal exactly when the meaning is; an oracle that writes no JSON."""
    if isinstance(value, dict):
        return "object", {unicodedata.normalize("NFC", key): _meaning(member) for key, member in value.items()}
    if isinstance(value, list):
        return "array", [_meaning(member) for member in value]
    if isinstance(value, str):
        text = unicodedata.normalize("NFC", value)
        if len(text) in (4, 5) and text[0] == "#" and all(digit in "0123456789abcdefABCDEF" for digit in text[1:]):
            text = "#" + "".join(digit * 2 for digit in text[1:])
        if len(text) in (7, 9) and text[0] == "#" and all(digit in "0123456789abcdefABCDEF" for digit in text[1:]):
            text = text.lower()
        return "string", text
    return type(value is True or value is False), value is None, value


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        2**53,
        {1: "a"},
        object(),
        b"bytes",
        "\ud800",
        {"\ud800": 1},
        {"é": 1, "e\u0301": 2},
    ],
)
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    """NaN, infinities, huge integers, foreign keys and types and half surrogates are bad requests."""
    with pytest.raises(BadRequest):
        canonical({"tokens": value})


def test_a_deeply_nested_value_is_refused() -> None:
    """A value nested a million levels is a bad request, not a crash."""
    value: list[Any] = []
    for _ in range(1_000_000):
        value = [value]
    try:
        with pytest.raises(BadRequest, match="nested"):
            canonical(value)
    finally:
        while value:
            value = value.pop()


def _request(**changes: Any) -> GenerationRequest:
    fields: dict[str, Any] = {"component_type": "button", "figma_key": "f", "tokens": {"a": 1}, "requirements": {}}
    return GenerationRequest(**fields | changes)


@pytest.mark.parametrize(
    "change",
    [
        {"component_type": "card"},
        {"figma_key": "g"},
        {"content_hash": "2"},
        {"tokens": {"a": 2}},
        {"requirements": {"size": "4px"}},
        {"tenant": "other"},
        {"pattern_id": "p"},
        {"screenshot_hash": "s"},
    ],
)
def test_whatever_decides_the_answer_is_in_the_key(change: dict[str, Any]) -> None:
    """A request that differs in one deciding field has another key."""
    same = generation_key(_request(), pipeline="p", version="1")
    assert generation_key(_request(**change), pipeline="p", version="1") != same


def test_version_and_pipeline_are_in_the_key_and_who_asks_is_not() -> None:
    """Another user shares the answer; another pipeline version does not."""
    key = generation_key(_request(), pipeline="p", version="1")
    assert generation_key(_request(user_id="u", session_id="s", component_id="c"), pipeline="p", version="1") == key
    assert generation_key(_request(), pipeline="p", version="2") != key
    assert generation_key(_request(), pipeline="q", version="1") != key


def test_ids_are_version_7_and_sort_by_time() -> None:
    """Ids made in different milliseconds sort in the order they were made."""
    first = new_id()
    ids = [first]
    while ids[-1][:13] == first[:13]:
        ids.append(new_id())
    assert ids[-1] > first
    assert {UUID(one).version for one in ids} == {7}
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "a\x00b", "ä.tsx", "a" * 129, "x\n"])
def test_an_artifact_name_cannot_leave_its_folder(name: str) -> None:
    """Names with anything but plain letters, digits, dots, dashes and underscores are refused."""
    with pytest.raises(BadRequest):
        artifact_key("button", name)


def test_reports_lie_apart_from_components() -> None:
    """The layout is the one that the archive publishes."""
    assert artifact_key("btn", "component.tsx") == "components/btn/component.tsx"
    assert artifact_key("btn", "quality-report.html") == "reports/btn/quality-report.html"
