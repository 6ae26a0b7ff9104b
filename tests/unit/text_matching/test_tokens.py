"""The reader finds words, numbers and quotations, in time that grows with the text and not faster."""

import time

import pytest

from forge_otel.text_matching.tokens import sentences_of

GROWING = {
    "opening quotes": "'a ",
    "double quotes": '"a ',
    "backquotes": "`a ",
    "figures": "1,",
    "dots": "1.",
    "words": "word ",
    "hyphens": "a-",
    "signs": "-+",
    "sentences": "A. ",
    "lines": "a\n",
    "semicolons": "show a; ",
}


def kinds(text: str) -> list[tuple[str, str]]:
    return [(token.kind, token.spelt) for sentence in sentences_of(text) for token in sentence.tokens]


def test_a_quotation_is_one_literal() -> None:
    """With its marks, whatever stands in it."""
    assert kinds('Label "Save. now"') == [("word", "Label"), ("literal", '"Save. now"')]


def test_a_name_is_a_literal() -> None:
    """A capital inside a sentence, in a word, or a digit makes a name."""
    assert [kind for kind, _ in kinds("Show Save and onClick in h1")] == [
        "word",
        "literal",
        "word",
        "literal",
        "word",
        "literal",
    ]


def test_a_number_has_its_unit() -> None:
    """Beside it or behind one space; a longer figure is one literal."""
    (sentence,) = sentences_of("16px 1.5 rem 10% 1,500")
    assert [(token.kind, token.unit) for token in sentence.tokens] == [
        ("number", "px"),
        ("number", "rem"),
        ("number", "%"),
        ("literal", ""),
    ]


def test_an_abbreviation_ends_no_sentence() -> None:
    """Its full stop is a sign."""
    assert len(sentences_of("Use a verb, e.g. Save. Then stop.")) == 2


@pytest.mark.parametrize("name", GROWING)
def test_the_reader_is_linear(name: str) -> None:
    """Eight times the text takes far less than 64 times as long, which a quadratic reader would take."""

    def cpu_s(repeated: int) -> float:
        text = GROWING[name] * repeated
        times = []
        for _ in range(3):
            begun = time.process_time()
            sentences_of(text)
            times.append(time.process_time() - begun)
        return min(times)

    assert cpu_s(8_000) < 24 * max(cpu_s(1_000), 1e-4)
