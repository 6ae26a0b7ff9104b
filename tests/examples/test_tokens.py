"""Design tokens as CSS custom properties, and the caller's overrides."""

from typing import Any

import pytest

from componentforge.tokens import css_variables, merge, pixels
from forge_otel.errors import BadRequest

DESIGN: dict[str, Any] = {
    "color": {"background": {"$type": "color", "$value": "#2563eb"}},
    "border": {
        "outline": {"$type": "border", "$value": {"color": "{color.background}", "width": "1px", "style": "solid"}}
    },
}


def test_composite_tokens_become_shorthands() -> None:
    """A border is one custom property that refers to its colour."""
    assert css_variables(DESIGN) == {
        "--color-background": "#2563eb",
        "--border-outline": "1px solid var(--color-background)",
    }


def test_an_override_keeps_the_type() -> None:
    """A bare value replaces only the value of a token."""
    merged = merge(DESIGN, {"color": {"background": "#000000"}})
    assert merged["color"]["background"] == {
        "$type": "color",
        "$value": "#000000",
        "$description": "set by the caller",
    }
    assert DESIGN["color"]["background"]["$value"] == "#2563eb"


def test_an_override_may_change_one_part() -> None:
    """An override of one part of a composite value keeps the other parts."""
    merged = merge(DESIGN, {"border": {"outline": {"$value": {"width": "3px"}}}})
    assert css_variables(merged)["--border-outline"] == "3px solid var(--color-background)"


def test_new_tokens_are_added() -> None:
    """The type of a new token is inferred from its value."""
    merged = merge(DESIGN, {"brand": {"accent": "#ff8800", "gap": "4px", "ratio": 1.5}})
    assert {name: token["$type"] for name, token in merged["brand"].items()} == {
        "accent": "color",
        "gap": "dimension",
        "ratio": "number",
    }


def nested(levels: int) -> dict[str, Any]:
    """Return a token nested in `levels` groups."""
    tree: dict[str, Any] = {"token": "#000000"}
    for _ in range(levels):
        tree = {"group": tree}
    return tree


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"color": {"background": "blue-ish"}}, "must be a colour"),
        ({"color": {"background": 3}}, "must be a colour"),
        ({"color": "#000000"}, "is a group"),
        ({"color": {"background": {"deeper": "#000000"}}}, "cannot become a group"),
        ({"x": None}, "needs a string, a number or an object"),
        ({"x": True}, "needs a string, a number or an object"),
        ({"x": float("nan")}, "finite"),
        (nested(9), "at most 8 levels"),
    ],
)
def test_invalid_tokens_are_rejected(overrides: dict[str, Any], message: str) -> None:
    """The error names the token and the expected value."""
    with pytest.raises(BadRequest, match=message):
        merge(DESIGN, overrides)


@pytest.mark.parametrize("value", [{"color": "#000"}, "thin", 3, [1], {"color": {}, "width": "1px", "style": "x"}])
def test_a_value_that_does_not_fit_its_type_is_rejected(value: object) -> None:
    """A border without its parts cannot become CSS."""
    with pytest.raises(BadRequest, match=r"border\.mine"):
        css_variables(merge({}, {"border": {"mine": {"$type": "border", "$value": value}}}))


@pytest.mark.parametrize(("number", "text"), [(16, "16px"), (0.4, "0.4px"), (0, "0px"), (-0.25, "-0.25px")])
def test_pixels(number: float, text: str) -> None:
    """Lengths have no trailing zeros."""
    assert pixels(number) == text
