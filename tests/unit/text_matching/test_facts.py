"""The value gate: which texts share a canonical form, and which must not."""

import itertools

import pytest
from tests.unit.text_matching.adversarial import ATTACKS, pairs
from tests.unit.text_matching.corpus import mutations, paraphrases

from forge_otel.text_matching import facts

EQUAL = {
    "case": ("Show the icon.", "show the icon."),
    "white space": ("Show  the\ticon.", "Show the icon."),
    "full stop": ("Show the icon!", "Show the icon"),
    "Unicode form": ("Use the Cafe\u0301 menu", "Use the Café menu"),
    "please": ("Please show the icon.", "Show the icon."),
    "could you please": ("Could you please show the icon?", "Show the icon."),
    "make sure that you": ("Make sure that you hide the icon.", "Hide the icon."),
    "please behind a semicolon": ("The menu is long; please hide it.", "The menu is long; hide it."),
    "do not": ("Don't hide the icon.", "Do not hide the icon."),
    "cannot": ("The user can't close it.", "The user cannot close it."),
    "it is": ("Show that it's loading.", "Show that it is loading."),
    "colour": ("Use a grey background colour.", "Use a gray background color."),
    "customise": ("Customise the border.", "Customize the border."),
    "two": ("Show two columns.", "Show 2 columns."),
    "two pixels": ("Use two pixels around it.", "Use 2px around it."),
    "over two seconds": ("Fade the icon in over two seconds.", "Fade the icon in over 2 seconds."),
    "every three rows": ("Show a line every three rows.", "Show a line every 3 rows."),
    "into four parts": ("Divide the bar into four parts.", "Divide the bar into 4 parts."),
    "pixels": ("Use 16 pixels of padding.", "Use 16px of padding."),
    "value with a unit": ("Use 1.50 rem.", "Use 1.5rem."),
    "display": ("Display the icon.", "Show the icon."),
    "do not display": ("Don't display the icon.", "Do not show the icon."),
    "condition": ("When the list is empty, show a hint.", "Show a hint when the list is empty."),
    "condition and verb": ("If the upload fails, display a red dot.", "Show a red dot if the upload fails."),
    "semicolon": ("The action is slow; show a spinner.", "The action is slow. Show a spinner."),
}
DIFFERENT = (
    ("The list has icons with borders.", "The list with icons has borders."),
    ("Show a button on an icon and a bar.", "Show a button on a bar and an icon."),
    ("The columns are a status, an amount and a date.", "The columns are an amount, a status and a date."),
    ("Open the panel. When the user clicks, load the data.", "When the user clicks, load the data. Open the panel."),
    ("The field must be empty, hide the button.", "Should the field be empty, hide the button."),
    ("Show the price for guests.", "Show the price also for guests."),
    ("Show A when X, show B when Y", "Show A when Y, show B when X"),
    ("It must not show", "It need not show"),
    ("label conceal", "label hide"),
    ("options show, hide", "options show, conceal"),
    ("Show icons", "Show an icon"),
    ("Fade over two seconds", "Fade within two seconds"),
    ("Show a line every two rows", "Show a line every row"),
    ("Show every one of them", "Show every 1 of them"),
    ("Move it across the two", "Move it across the 2"),
    ("Use 1,5 rem", "Use 1.5 rem"),
    ("Label it `save`", 'Label it "save"'),
    ("show it", "show it?"),
    ("Show the total with no tax", "Show no total with tax"),
    ("zero\u200bwidth", "zerowidth"),
    ("Show the time when the shop opens.", "When the shop opens, show the time."),
)


@pytest.mark.parametrize("name", EQUAL)
def test_a_safe_rewrite_keeps_the_form(name: str) -> None:
    """Both texts ask for the same component."""
    one, other = EQUAL[name]
    assert facts(one) == facts(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_texts_that_only_look_alike_differ(one: str, other: str) -> None:
    """The texts ask for different components, in either direction."""
    assert facts(one) != facts(other)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_attack_passes_the_gate(attack: object, seed: int) -> None:
    """Each generator yields pairs of different meaning; none of them shares a form."""
    found = list(pairs(attack, 200, seed=seed))  # type: ignore[arg-type]
    assert found
    assert [pair for pair in found if facts(pair[0]) == facts(pair[1])] == []


def test_no_mutation_passes_the_gate() -> None:
    """Of 10,000 pairs that differ in one fact none shares a form, and every kind of fact is among them."""
    found = list(mutations(10_000))
    assert [pair for pair in found if facts(pair[1]) == facts(pair[2])] == []
    assert {kind for kind, _, _ in found} >= {"color", "size", "count", "unit", "not", "prop", "type", "label"}


def test_half_of_the_paraphrases_share_a_form() -> None:
    """The corpus has rewordings that no rule can tell to be safe, such as the passive voice."""
    found = list(paraphrases(1_000))
    assert sum(facts(one) == facts(other) for _, one, other in found) >= 0.5 * len(found)


def test_two_safe_rewrites_combine() -> None:
    """Any two sentences keep their form side by side, in their order."""
    for (one, other), (third, fourth) in itertools.permutations(EQUAL.values(), 2):
        left, right = (f"{text.rstrip('.!')}{'' if text.endswith('?') else '.'}" for text in (one, other))
        assert facts(f"{left} {third}") == facts(f"{right} {fourth}")


STRANGE = ["", " \n ", "''", '"', "((((", "\U0001d518 \U0001f3a8", "a" * 8000, "- " * 4000, "1" * 5000, "'a" * 3000]


@pytest.mark.parametrize("text", STRANGE)
def test_any_text_has_a_form(text: str) -> None:
    """Nothing raises, and the form is the same each time."""
    assert facts(text) == facts(text)
