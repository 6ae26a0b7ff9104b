"""Synonyms and inflections have one canonical word, and no word has two."""

import pytest

from forge_otel.text_matching.lexicon import SYNONYMS, canonical_word


@pytest.mark.parametrize(
    ("word", "canonical"),
    [
        ("displays", "show"),
        ("rendering", "show"),
        ("utilised", "utilised"),
        ("colour", "color"),
        ("submitting", "submit"),
        ("notifies", "notify"),
        ("focuses", "focuses"),
        ("large", "large"),
    ],
)
def test_a_word_has_a_canonical_form(word: str, canonical: str) -> None:
    """Names of states and sizes are not normalised, nor are past forms."""
    assert canonical_word(word) == canonical


def test_no_word_is_in_two_groups() -> None:
    """Otherwise two texts with different facts could be equal."""
    words = [word for group in SYNONYMS for word in group]
    assert len(words) == len(set(words))
