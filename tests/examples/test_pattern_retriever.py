"""The pattern retriever selects the expected pattern for every sample."""

import pytest
from tests.examples.samples import sample

from componentforge.agents.pattern_retriever import library, rank_patterns, retrieve_pattern
from componentforge.agents.token_extractor import extract
from componentforge.schemas import COMPONENT_TYPES
from forge_otel.errors import NotFound

EXPECTED = {
    "Button/Action": "button-action",
    "Button/Upload": "button-upload",
    "Button/Checkout": "button-checkout",
    "Card/Article": "card-article",
    "Card/Pricing": "card-pricing",
    "Card/Product": "card-product",
    "Card/Review": "card-review",
    "Input/Text field": "input-text",
    "Input/Search": "input-search",
    "Modal/Confirm": "modal-confirm",
    "Modal/Cart": "modal-sheet",
    "Badge/Status": "badge-status",
    "Badge/Discount": "badge-offer",
    "Badge/Stock": "badge-status",
    "Navbar/Main": "navbar-app",
    "Navbar/Store": "navbar-store",
}


def test_the_library_covers_every_type() -> None:
    """Each type has a pattern, common types have several, and ids are unique."""
    types = [pattern.component_type for pattern in library()]
    assert set(types) == set(COMPONENT_TYPES)
    assert types.count("button") > 1
    assert types.count("card") > 1
    assert len({pattern.id for pattern in library()}) == len(library())


@pytest.mark.parametrize(("name", "pattern_id"), EXPECTED.items())
async def test_a_sample_finds_its_pattern(name: str, pattern_id: str) -> None:
    """The words of a design select its pattern."""
    found = sample(name)
    match = await retrieve_pattern(found.component_type, extract(found.node).blueprint, {})
    assert match.pattern.id == pattern_id
    assert match.score is not None
    assert match.score > 0


async def test_the_callers_words_count_too() -> None:
    """Requirements can change the selection."""
    blueprint = extract(sample("Badge/Stock").node).blueprint
    match = await retrieve_pattern("badge", blueprint, {"notes": "a discount offer for a sale, new member price"})
    assert match.pattern.id == "badge-offer"


def test_without_a_known_word_the_order_is_stable() -> None:
    """With all scores zero, patterns are ordered by id."""
    matches = rank_patterns("zzz", component_type="card")
    assert [match.score for match in matches] == [0, 0, 0, 0]
    assert [match.pattern.id for match in matches] == sorted(match.pattern.id for match in matches)


async def test_a_chosen_pattern_is_used() -> None:
    """A pattern chosen by the caller has no score."""
    blueprint = extract(sample("Badge/Stock").node).blueprint
    match = await retrieve_pattern("badge", blueprint, {}, pattern_id="badge-offer")
    assert (match.pattern.id, match.score) == ("badge-offer", None)


async def test_an_unknown_pattern_is_not_found() -> None:
    """An unknown pattern id is a NotFound."""
    with pytest.raises(NotFound, match="nothing-like-it"):
        await retrieve_pattern("badge", extract(sample("Badge/Stock").node).blueprint, {}, pattern_id="nothing-like-it")
