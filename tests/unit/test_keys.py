"""Equal values have equal keys; values without a JSON form are rejected."""

import copy
import hashlib
import json
import math
import re
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge_otel.errors import BadRequest
from forge_otel.keys import artifact_key, canonical, digest, generation_key
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
    """The canonical form is RFC 8785 with two additions."""
    assert canonical(value).decode() == expected


VECTORS = json.loads((Path(__file__).parent / "key_vectors.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS["values"], ids=lambda vector: ascii(vector["value"])[:40])
def test_the_published_file_of_values(vector: dict[str, Any]) -> None:
    """The vectors of docs/keys.md match the code."""
    assert canonical(vector["value"]).decode() == vector["canonical"]
    assert digest(vector["value"]) == vector["sha256"]


@pytest.mark.parametrize("vector", VECTORS["requests"])
def test_the_published_file_of_keys(vector: dict[str, Any]) -> None:
    """A key is stable within `forge:key:v2`."""
    request = GenerationRequest(**vector["request"])
    assert generation_key(request, pipeline=vector["pipeline"], version=vector["version"]) == vector["key"]


DESIGN = st.one_of(
    st.from_regex(r"#[0-9a-fA-F]{3,8}", fullmatch=True),
    st.from_regex(r"rgba?\( ?[0-9]{1,3}, ?[0-9]{1,3}, ?[0-9]{1,3}(, ?[01](\.[0-9])?)?\)", fullmatch=True),
    st.from_regex(r"[+-]?[0-9]{0,3}(\.[0-9]{1,3})? ?(px|PX|rem|em|%|s|ms)?", fullmatch=True),
)


@given(DESIGN, DESIGN)
def test_design_values_have_one_spelling(one: str, other: str) -> None:
    """Two values share it only if they are equal."""
    assert (canonical(one) == canonical(other)) == (_design(one) == _design(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("16 px", "16px"),
        ("0px", "0"),
        ("1rem", "16px"),
        ("rgba(0,0,0,0.5)", "#00000080"),
        ("#ffffffff", "#ffffff"),
        ("red", "#ff0000"),
        (4, "4"),
        ([1, 2], [2, 1]),
        ({"a": None}, {}),
        ({"#FFF": 1}, {"#ffffff": 1}),
        ("a #FFF b", "a #fff b"),
        (True, 1),
    ],
)
def test_doubtful_values_stay_different(one: Any, other: Any) -> None:
    """A wrong equality is worse than a missed one."""
    assert digest(one) != digest(other)


def test_a_set_has_no_order() -> None:
    """Equal members count once."""
    assert digest({"#FFF", "#ffffff", "1.0px", "1px"}) == digest(["#ffffff", "1px"])


@given(st.lists(JSON, min_size=1, max_size=3), st.randoms())
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_the_memo_returns_the_digest_of_the_canonical_form(values: list[Any], rng: Any) -> None:
    """For large values and their copies."""
    large = {"pad": "x" * 1100, "values": values}
    try:
        expected = hashlib.sha256(canonical(large)).hexdigest()
    except BadRequest:
        return
    changed = copy.deepcopy(large) | {"more": rng.random()}
    assert digest(large) == digest(copy.deepcopy(large)) == expected
    assert digest(changed) == hashlib.sha256(canonical(changed)).hexdigest() != expected


def test_the_memo_does_not_accept_nan_for_null() -> None:
    """NaN is rejected after an equal value with null."""
    digest({"pad": "x" * 2000, "n": None})
    with pytest.raises(BadRequest):
        digest({"pad": "x" * 2000, "n": math.nan})


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), JSON, max_size=6))
def test_key_order_does_not_matter(value: dict[str, Any]) -> None:
    """A reversed object has the same digest."""
    try:
        expected = digest(value)
    except BadRequest:
        return  # two keys that are one letter in two Unicode forms
    assert digest(dict(reversed(value.items()))) == expected


@given(JSON, JSON)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_different_values_have_different_bytes(one: Any, other: Any) -> None:
    """Bytes are equal exactly if the values are."""
    try:
        same_bytes = canonical(one) == canonical(other)
    except BadRequest:
        return
    assert same_bytes == (_meaning(one) == _meaning(other))


def _design(text: str) -> Any:
    """Bring a design value to numbers: another way to the same end than the code's."""
    if re.fullmatch("#[0-9a-fA-F]+", text, re.ASCII) and len(text) in {4, 5, 7, 9}:
        digits = [text[1:]] if len(text) > 5 else ["".join(2 * digit for digit in text[1:])]
        return tuple(bytes.fromhex(digits[0]))
    found = re.fullmatch(r"rgba?\(([0-9, .]+)\)", text, re.ASCII | re.IGNORECASE)
    if found:
        fields = [field.strip() for field in found[1].split(",")]
        is_opaque = len(fields) == 3 or (len(fields) == 4 and fields[3] in {"1", "1.0"})
        if is_opaque and all(re.fullmatch("[0-9]{1,3}", field) and int(field) < 256 for field in fields[:3]):
            return tuple(map(int, fields[:3]))
    found = re.fullmatch(r"([+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+))(px|rem|em|ms|s)", text, re.ASCII | re.IGNORECASE)
    return (Decimal(found[1]), found[2].lower()) if found else text


def _meaning(value: Any) -> Any:
    """Bring a value to a Python object that is equal exactly when the meaning is; an oracle that writes no JSON."""
    if isinstance(value, dict):
        return "object", {unicodedata.normalize("NFC", key): _meaning(member) for key, member in value.items()}
    if isinstance(value, list):
        return "array", [_meaning(member) for member in value]
    if isinstance(value, str):
        return "string", _design(unicodedata.normalize("NFC", value))
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
def test_values_without_a_json_form_are_rejected(value: Any) -> None:
    """NaN, infinities, large integers, other keys and types, lone surrogates."""
    with pytest.raises(BadRequest):
        canonical({"tokens": value})


def test_a_deeply_nested_value_is_rejected() -> None:
    """A million levels do not crash."""
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
def test_every_field_that_determines_the_answer_is_in_the_key(change: dict[str, Any]) -> None:
    """A change of one gives another key."""
    same = generation_key(_request(), pipeline="p", version="1")
    assert generation_key(_request(**change), pipeline="p", version="1") != same


def test_version_and_pipeline_are_in_the_key_but_the_user_is_not() -> None:
    """Users share answers; pipeline versions do not."""
    key = generation_key(_request(), pipeline="p", version="1")
    assert generation_key(_request(user_id="u", session_id="s", component_id="c"), pipeline="p", version="1") == key
    assert generation_key(_request(), pipeline="p", version="2") != key
    assert generation_key(_request(), pipeline="q", version="1") != key


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "a\x00b", "ä.tsx", "a" * 129, "x\n"])
def test_an_artifact_name_cannot_leave_its_folder(name: str) -> None:
    """Only letters, digits, dots, dashes and underscores are accepted."""
    with pytest.raises(BadRequest):
        artifact_key("button", name)


def test_reports_and_components_have_separate_folders() -> None:
    """This is the published layout."""
    assert artifact_key("btn", "component.tsx") == "components/btn/component.tsx"
    assert artifact_key("btn", "quality-report.html") == "reports/btn/quality-report.html"
