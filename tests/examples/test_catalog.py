"""The list of components that can be generated."""

from tests.examples.samples import HARBOR
from tests.unit.figma.conftest import figma_site

from componentforge.catalog import list_components


async def test_lists_sets_and_single_components() -> None:
    """A component set is one entry; its variants are not listed on their own."""
    async with figma_site() as site:
        found = await list_components(await site.client(), HARBOR)
    assert len(found) == 8
    assert {entry.component_type for entry in found} == {"button", "card", "input", "modal", "badge", "navbar"}
