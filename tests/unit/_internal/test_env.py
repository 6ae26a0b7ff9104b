"""Values of environment variables."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

import pytest

from forge_otel._internal.env import choices, mask_url, misspelt, parse


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (bool, "on", True),
        (bool, "", False),
        (int, "7", 7),
        (float | None, "", None),
        (str | None, "x", "x"),
        (Decimal, "0.50", Decimal("0.50")),
        (tuple[str, ...], " a, b ,", ("a", "b")),
        (Mapping[str, float], "button=0.95, card=0.9", {"button": 0.95, "card": 0.9}),
        (Literal["a", "b"], "a", "a"),
    ],
)
def test_each_type_is_parsed(annotation: Any, text: str, value: Any) -> None:
    """An empty string disables what is optional."""
    assert parse(annotation, text) == value


def test_an_unreadable_value_is_an_error() -> None:
    """It never becomes a default."""
    with pytest.raises(ValueError, match="1 or 0"):
        parse(bool, "maybe")
    with pytest.raises(ValueError, match="abc"):
        parse(int, "abc")


def test_a_parser_can_be_added_for_a_type() -> None:
    """Types that are not built in have their own function."""
    assert parse(complex, "1j", {complex: complex}) == 1j


def test_choices_are_those_of_a_literal() -> None:
    """Other types have none."""
    assert choices(Literal["a", "b"]) == ("a", "b")
    assert choices(str) == ()


def test_a_misspelt_name_gets_a_suggestion() -> None:
    """A name that resembles no setting is not an error, because it may belong to the application."""
    assert "did you mean FORGE_CACHE_URL?" in misspelt("FORGE_CACHE_URI", ["FORGE_CACHE_URL"])
    assert misspelt("FORGE_WORKSPACE", ["FORGE_CACHE_URL"]) == ""


def test_passwords_and_queries_are_masked() -> None:
    """Also where the password has an @ in it."""
    assert mask_url("postgresql://u:p@w@h/db?sslpassword=x") == "postgresql://***@h/db?***"
    assert mask_url("no url") == "***"
    assert mask_url(None) is None
