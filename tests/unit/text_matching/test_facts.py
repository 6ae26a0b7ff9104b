"""Paraphrases have equal facts, and texts that only look alike do not."""

import pytest
from tests.unit.text_matching.corpus import mutations, paraphrases

from forge_otel.text_matching import facts


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Show a spinner when loading.", "When loading, display the spinner"),
        ("Please use 16 px padding", "Apply 16px padding"),
        ("The card has a title and an icon", "The card has an icon and a title"),
        ("Don't show the icon", "Do not display the icon."),
        ("Show the icon. Use two columns.", "Use 2 columns; display the icon"),
        ("A card with a red icon, a title and a label.", "a card having a label, a red icon, and a title"),
        ("Use 1.50 rem", "use 1.5rem"),
        ("Cafe\u0301 menu", "Café menu"),
    ],
)
def test_paraphrases_have_equal_facts(one: str, other: str) -> None:
    """Synonyms, contractions, units, lists, conditions and sentence order."""
    assert facts(one) == facts(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Show A when X, show B when Y", "Show A when Y, show B when X"),
        ("Label it close", "Label it dismiss"),
        ("It must not show", "It need not show"),
        ("Button. Red. Card. Blue.", "Button. Blue. Card. Red."),
        ("Primary: red, secondary: blue", "Primary: blue, secondary: red"),
        ("label conceal", "label hide"),
        ("the display prop", "the show prop"),
        ("options show, hide", "options show, conceal"),
        ("margin -4px", "margin 4px"),
        ("labelled the show", "labelled the display"),
        ("red icon and label", "label and red icon"),
        ("Show icons", "Show an icon"),
        ("Use 1.5rem", "Use 15rem"),
        ("Use 1,5 rem", "Use 1.5 rem"),
        ('Label it "Save"', 'Label it "save"'),
        ("Label it `save`", 'Label it "save"'),
        ("show it", "show it?"),
        ("A > B", "A < B"),
        ("Add a button and a card in red", "Add a card in red and a button"),
        ("Card has a border. The button is red. It is large", "The button is red. Card has a border. It is large"),
        ("the card opens the modal", "the modal opens the card"),
        ("Show the total with no tax", "Show no total with tax"),
        ("zero\u200bwidth", "zerowidth"),
    ],
)
def test_similar_texts_have_other_facts(one: str, other: str) -> None:
    """Each pair differs in one fact."""
    assert facts(one) != facts(other)


def test_no_mutation_passes() -> None:
    """10,000 pairs that differ in one fact, of every kind."""
    pairs = list(mutations(10_000))
    assert [pair for pair in pairs if facts(pair[1]) == facts(pair[2])] == []
    assert {kind for kind, _, _ in pairs} >= {"color", "size", "count", "unit", "not", "prop", "type", "label"}


def test_most_paraphrases_pass() -> None:
    """The rules that do not pass are listed in corpus.py."""
    pairs = list(paraphrases(1_000))
    assert sum(facts(one) == facts(other) for _, one, other in pairs) >= 0.7 * len(pairs)


STRANGE = ["", " \n ", "''", '"', "((((", "\U0001d518 \U0001f3a8", "a" * 8000, "- " * 4000, "1" * 5000, "'a" * 3000]


@pytest.mark.parametrize("text", STRANGE)
def test_any_text_has_facts(text: str) -> None:
    """Nothing raises."""
    assert facts(text) == facts(text)
