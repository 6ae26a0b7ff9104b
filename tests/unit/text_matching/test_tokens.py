"""Text is split into normalised words, verbatim names and values."""

import pytest

from forge_otel.text_matching import tokenize


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("displays", [("show", "word")]),
        ("16 Pixels", [("16px", "value")]),
        ("1.50rem", [("1.5rem", "value")]),
        ("two", [("2", "value")]),
        ("#FFF", [("#fff", "value")]),
        ("\u201cSave\u201d", [('"Save', "value")]),
        ("can't", [("can", "word"), ("not", "word")]),
        ("isLoading", [("isLoading", "name")]),
        ("called hide", [("called", "word"), ("hide", "name")]),
        ("the display prop", [("the", "word"), ("display", "name"), ("prop", "word")]),
        ("hide?", [("hide", "word"), ("?", "symbol"), ("", "end")]),
    ],
)
def test_tokens_are_normalised(text: str, expected: list[tuple[str, str]]) -> None:
    """Known synonyms, units, numbers and contractions; names and quotations are verbatim."""
    found = [(token.text, token.kind) for token in tokenize(text)]
    assert [(one.rstrip('"') if one.startswith('"') else one, kind) for one, kind in found] == expected


def test_composed_and_decomposed_letters_are_equal() -> None:
    """Text is normalised to NFC first."""
    assert tokenize("cafe\u0301") == tokenize("caf\u00e9")
