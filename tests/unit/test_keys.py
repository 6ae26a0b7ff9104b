"""Equal values have equal keys; values without a JSON form are rejected."""

import copy
import hashlib
import json
import math
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge_otel.errors import BadRequest
from forge_otel.figma.nodes import FigmaNode
from forge_otel.keys import (
    artifact_key,
    canonical,
    digest,
    generation_key,
    generation_key_off_loop,
    is_large,
    requirements_digest_of,
    tokens_digest,
    tokens_digest_of,
)
from forge_otel.types import Call, DigestMemo, GenerationRequest, GenerationResult

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
        ("#FFF", '"#FFF"'),
        ("55.0in", '"55.0in"'),
        ({3, 1, 2}, "[1,2,3]"),
        ((1, None, True), "[1,null,true]"),
    ],
)
def test_published_vectors(value: Any, expected: str) -> None:
    """The canonical form is RFC 8785; text keeps its spelling."""
    assert canonical(value).decode() == expected


VECTORS = json.loads((Path(__file__).parent / "key_vectors.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS["values"], ids=lambda vector: ascii(vector["value"])[:40])
def test_the_published_file_of_values(vector: dict[str, Any]) -> None:
    """The vectors of docs/keys.md match the code."""
    assert canonical(vector["value"]).decode() == vector["canonical"]
    assert digest(vector["value"]) == vector["sha256"]


@pytest.mark.parametrize("vector", VECTORS["tokens"], ids=lambda vector: ascii(vector["value"])[:40])
def test_the_published_file_of_tokens(vector: dict[str, Any]) -> None:
    """The vectors of docs/keys.md match the code."""
    assert tokens_digest(vector["value"]) == vector["sha256"]
    assert hashlib.sha256(vector["canonical"].encode()).hexdigest() == vector["sha256"]


@pytest.mark.parametrize("vector", VECTORS["requests"])
def test_the_published_file_of_keys(vector: dict[str, Any]) -> None:
    """A key is stable within `forge:key:v3`."""
    request = GenerationRequest(**vector["request"])
    assert generation_key(request, pipeline=vector["pipeline"], version=vector["version"]) == vector["key"]


DESIGN = st.one_of(
    st.from_regex(r"#[0-9a-fA-F]{3,8}", fullmatch=True),
    st.from_regex(r"rgba?\( ?[0-9]{1,3}, ?[0-9]{1,3}, ?[0-9]{1,3}(, ?[01](\.[0-9])?)?\)", fullmatch=True),
    st.from_regex(r"[+-]?[0-9]{0,3}(\.[0-9]{1,3})? ?(px|PX|rem|em|%|s|ms)?", fullmatch=True),
)


@given(DESIGN, DESIGN)
def test_design_values_of_tokens_have_one_spelling(one: str, other: str) -> None:
    """Two values share it only if they are equal."""
    assert (tokens_digest({"a": one}) == tokens_digest({"a": other})) == (_design(one) == _design(other))


@given(DESIGN, DESIGN)
def test_texts_that_look_like_design_values_stay_different(one: str, other: str) -> None:
    """A label is not a design value, wherever it stands."""
    assert (digest({"label": one}) == digest({"label": other})) == (one == other)


TEXTS = [("55.0in", "55in"), ("30S", "30s"), ("#FFF", "#ffffff"), ("rgb(1, 2, 3)", "rgb(1,2,3)"), (".5px", "0.5px")]


@pytest.mark.parametrize(("one", "other"), TEXTS)
@pytest.mark.parametrize(
    "place", ["requirements", "content_hash", "figma_key", "tenant", "pattern_id", "component_type", "screenshot_hash"]
)
def test_a_request_with_another_text_has_another_key(place: str, one: str, other: str) -> None:
    """Only values of `tokens` are normalised, never a text."""

    def key(text: str) -> str:
        value: Any = {"props": [{"label": text}]} if place == "requirements" else text
        return generation_key(_request(**{place: value}), pipeline="p", version="1")

    assert key(one) != key(other)
    assert key(one) == key(one)


@pytest.mark.parametrize(("one", "other"), TEXTS)
def test_a_design_with_another_text_has_another_content_hash(one: str, other: str) -> None:
    """The characters of a text node are part of the design."""
    first, second = (
        FigmaNode(file_key="f", node_id="1:2", version="1", document={"id": "1:2", "characters": text})
        for text in (one, other)
    )
    assert first.content_hash != second.content_hash


@pytest.mark.parametrize(("one", "other"), TEXTS)
def test_equal_tokens_have_one_key(one: str, other: str) -> None:
    """In tokens the two spellings are the same value."""
    keys = {
        generation_key(_request(tokens={"deep": [{"a": text}]}), pipeline="p", version="1") for text in (one, other)
    }
    assert len(keys) == 1


def test_one_mapping_as_tokens_and_requirements_has_two_digests() -> None:
    """The digest kept for the tokens is not used for the requirements."""

    def key(text: str) -> str:
        shared = {"label": text}
        return generation_key(_request(tokens=shared, requirements=shared), pipeline="p", version="1")

    assert key("30S") != key("30s")


class Size(int, Enum):
    """Members are integers."""

    SMALL = 1


class Tone(str, Enum):  # noqa: UP042 - the base of StrEnum before Python 3.11, still in use
    """Members are strings."""

    LOUD = "loud"


class Scale(float, Enum):
    """Members are floats."""

    HALF = 0.5


class Plain(Enum):
    """Members have a value only."""

    LOUD = "loud"


class Shouted(str):
    """A string with another text."""

    def __str__(self) -> str:
        return self.upper()


@pytest.mark.parametrize(
    ("member", "value"),
    [(Size.SMALL, 1), (Tone.LOUD, "loud"), (Scale.HALF, 0.5), (Plain.LOUD, "loud"), (Shouted("loud"), "loud")],
)
@pytest.mark.parametrize("pad", ["", "x" * 2000])
def test_members_of_enumerations_key_by_value(member: Any, value: Any, pad: str) -> None:
    """Small and large values do, whichever form is seen first."""
    assert canonical([member, pad]) == canonical([value, pad])
    assert digest({"a": member, "pad": pad}) == digest({"a": value, "pad": pad})
    assert tokens_digest({"a": [value, member], "pad": pad}) == tokens_digest({"a": [member, value], "pad": pad})


def test_members_of_enumerations_are_keys_by_value() -> None:
    """The name of a member is not in the key."""
    assert canonical({Tone.LOUD: 1}) == b'{"loud":1}'


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
    assert tokens_digest({"a": one}) != tokens_digest({"a": other})


def test_a_set_has_no_order() -> None:
    """Equal members count once."""
    colors: Any = {"a": {"#FFF", "#ffffff", "1.0px", "1px"}}
    assert tokens_digest(colors) == tokens_digest({"a": ["#ffffff", "1px"]})
    assert digest({1, "b", frozenset({2, 3})}) == digest({frozenset({3, 2}), "b", 1})


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
        return "string", unicodedata.normalize("NFC", value)
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


def _nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_a_deeply_nested_value_is_rejected() -> None:
    """A million levels do not crash."""
    value = _nested(1_000_000)
    try:
        with pytest.raises(BadRequest, match="nested"):
            canonical(value)
    finally:
        while value:
            value = value.pop()


def test_a_value_that_contains_itself_is_rejected() -> None:
    """It has no end."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(BadRequest, match="nested"):
        digest(value)


@pytest.mark.parametrize("layers", [31, 100, 500])
def test_designs_of_many_layers_have_a_content_hash(layers: int) -> None:
    """A layer is an object in a list, and so two levels."""
    document: dict[str, Any] = {"id": "0", "type": "TEXT", "characters": "30S"}
    for number in range(layers - 1):
        document = {"id": str(number), "children": [document]}
    node = FigmaNode(file_key="f", node_id="1:2", version="1", document=document)
    assert re.fullmatch("[0-9a-f]{64}", node.content_hash)


def test_the_limit_of_levels_is_exact() -> None:
    """1024 levels have a key."""
    assert canonical(_nested(1024)) == b"[" * 1024 + b"]" * 1024
    with pytest.raises(BadRequest, match="1024 levels"):
        canonical(_nested(1025))


def test_sets_nested_too_deep_are_rejected() -> None:
    """Each level copies the text of the inner one."""
    value: frozenset[Any] = frozenset()
    for _ in range(100_000):
        value = frozenset({value})
    with pytest.raises(BadRequest, match="sets are nested"):
        canonical([value])


def test_shared_members_count_each_time() -> None:
    """A value of 40 lists would be written with 2^40 members."""
    value: list[Any] = []
    for _ in range(40):
        value = [value, value]
    assert is_large(value)
    with pytest.raises(BadRequest, match="more than 1000000 members"):
        generation_key(_request(requirements={"a": value}), pipeline="p", version="1")


def test_too_many_characters_are_rejected() -> None:
    """A long text may be shared by many members."""
    with pytest.raises(BadRequest, match="characters"):
        generation_key(_request(tokens={"a": ["x" * 2**20] * 1000}), pipeline="p", version="1")


def test_too_many_combining_marks_are_rejected() -> None:
    """CPython normalises a run of them in quadratic time."""
    with pytest.raises(BadRequest, match="combining marks"):
        canonical("a" + "\u0300\u0323" * 50_000)
    assert canonical("a\u0300" * 50_000).decode() == f'"{"à" * 50_000}"'


SHAPES: dict[str, Callable[[int], Any]] = {
    "keys": lambda size: {f"key-{number}": number for number in range(size)},
    "keys of other scripts": lambda size: {f"clé-{number}": "e\u0301" for number in range(size)},
    "list": lambda size: [f"{number}px" for number in range(size)],
    "set": lambda size: set(range(size)),
    "objects": lambda size: [{"value": "#FFF", "n": number / 7} for number in range(size // 4)],
    "levels": lambda size: [_nested(100) for _ in range(size // 100)],
    "sets in sets": lambda size: [frozenset({frozenset({number})}) for number in range(size // 4)],
    "text": lambda size: "a\u0301b" * size,
    "marks": lambda size: ("a" + "\u0300\u0323" * 100) * (size // 100),
    "quotes": lambda size: '"' * size,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_time_is_linear_in_the_size_of_the_value(shape: str) -> None:
    """Sixteen times the size takes about sixteen times as long; a quadratic writer would take 256 times."""

    def seconds(size: int) -> float:
        value, taken = SHAPES[shape](size), []
        for _ in range(3):
            started_s = time.process_time()
            tokens_digest({"value": value})
            taken.append(time.process_time() - started_s)
        return min(taken)

    small, large = seconds(2_000), seconds(32_000)
    assert large < 64 * max(small, 1e-3)


async def test_a_large_request_is_hashed_in_a_thread() -> None:
    """200,000 keys do not hold the event loop."""
    request = _request(requirements={f"key-{number}": number for number in range(200_000)})
    threads: list[str] = []

    class Watched(dict[str, Any]):
        def __iter__(self) -> Iterator[str]:
            threads.append(threading.current_thread().name)
            return super().__iter__()

    watched = _request(requirements=Watched(request.requirements))
    key = await generation_key_off_loop(watched, pipeline="p", version="1")
    assert key == generation_key(request, pipeline="p", version="1")
    assert threading.main_thread().name not in threads[:1]
    assert not is_large(_request(tokens={"a": ["x" * 50_000]}).tokens)


@pytest.mark.parametrize(
    "value",
    [
        ["x" * 100_001],
        {"k" * 100_001: 1},
        [1] * 7000,
        {"a": {str(n): n for n in range(6500)}},
        {"a": Tone.LOUD, "b": ["x"] * 7000},
    ],
)
def test_large_values_are_told_by_keys_members_and_texts(value: Any) -> None:
    """Whichever of them makes the value large."""
    assert is_large(value)


def test_the_digests_of_a_call_are_computed_once() -> None:
    """Tags, miss reasons and patterns use those of the key."""
    digests = DigestMemo()
    tokens: dict[str, Any] = {"a": "#FFF"}
    request = _request(tokens=tokens)
    key = generation_key(request, pipeline="p", version="1", digests=digests)
    call = Call(request=request, pipeline="p", key=key, component_id="c", run=_never, digests=digests)
    before = tokens_digest_of(call), requirements_digest_of(call)
    tokens["a"] = "changed by the pipeline"
    assert (tokens_digest_of(call), requirements_digest_of(call)) == before
    other = replace(call, request=_request(tokens={"a": "#000"}))
    assert tokens_digest_of(other) == tokens_digest({"a": "#000"}) != before[0]


async def _never() -> GenerationResult:
    raise AssertionError


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
