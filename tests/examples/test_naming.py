"""Identifiers derived from design names."""

import pytest

from componentforge.naming import camel, component_identifier, is_valid_prop_name, slug, unique


@pytest.mark.parametrize(
    ("design", "name"),
    [
        ("Card/Pricing", "PricingCard"),
        ("Input/Text field", "TextFieldInput"),
        ("Button", "Button"),
        ("🔥", "Button"),
        ("3D/Button", "Button3D"),
        ("24h", "Button24H"),
        ("part", "PartComponent"),
    ],
)
def test_component_identifier(design: str, name: str) -> None:
    """Design names become PascalCase identifiers that differ from those of the generated code."""
    assert component_identifier(design, component_type="button") == name


@pytest.mark.parametrize(("text", "name"), [("Show icon", "showIcon"), ("class", "classValue"), ("é", "text")])
def test_prop_names(text: str, name: str) -> None:
    """Reserved words get a suffix, and names without ASCII letters a fallback."""
    assert camel(text, fallback="text") == name
    assert is_valid_prop_name(name)


def test_long_names_are_truncated_and_taken_names_numbered() -> None:
    """A name has at most 40 characters before its number."""
    taken: set[str] = set()
    assert len(slug("word " * 1000, fallback="x").replace("-", "")) <= 40
    assert [unique("label", taken) for _ in range(3)] == ["label", "label2", "label3"]
