"""The canonical writer gives equal values equal bytes, and refuses values that it cannot write in linear time."""

from typing import Any

import pytest

from forge_otel._internal.canonical_json import CanonicalWriter, quoted_text
from forge_otel.errors import BadRequest


def canonical(value: Any) -> bytes:
    return CanonicalWriter(quoted_text).bytes_of(value)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"b": 1, "a": [True, None]}, b'{"a":[true,null],"b":1}'),
        ({"\u20ac": 1, "\r": 2, "1": 3}, b'{"\\r":2,"1":3,"\xe2\x82\xac":1}'),
        ([1.0, 1e21, 1e-7, -0.0], b"[1,1e+21,1e-7,0]"),
        ("Cafe\u0301", '"Caf\u00e9"'.encode()),
        ({"b", "a"}, b'["a","b"]'),
    ],
)
def test_a_value_has_one_form(value: Any, written: bytes) -> None:
    """Ordering and numbers of RFC 8785, strings in NFC, sets in the order of their members."""
    assert canonical(value) == written


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, "\ud800", object(), {1: 2}])
def test_a_value_without_a_form_is_refused(value: Any) -> None:
    """The error is about the request."""
    with pytest.raises(BadRequest):
        canonical(value)


def test_a_value_that_shares_its_members_is_refused() -> None:
    """30 lists of two references to the one before would take a gigabyte."""
    value: Any = ["x"]
    for _ in range(30):
        value = [value, value]
    with pytest.raises(BadRequest):
        canonical(value)


def test_depth_is_limited() -> None:
    """500 layers of a design pass, 1,100 levels do not."""
    value: Any = 1
    for _ in range(1000):
        value = [value]
    assert canonical(value).startswith(b"[[[")
    for _ in range(100):
        value = [value]
    with pytest.raises(BadRequest):
        canonical(value)
