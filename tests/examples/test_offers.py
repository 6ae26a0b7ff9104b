"""The components that can be generated."""

from tests.examples.samples import HARBOR
from tests.unit.figma.conftest import a_desk

from componentforge.offers import offers


async def test_offers_are_sets_and_single_components() -> None:
    """A variant is no offer of its own."""
    async with a_desk() as desk:
        found = await offers(await desk.client(), HARBOR)
    assert len(found) == 8
    assert {offer.component_type for offer in found} == {"button", "card", "input", "modal", "badge", "navbar"}
