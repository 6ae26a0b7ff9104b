"""The client reads nodes and offers, and turns every failure into an error of the library."""

import httpx
import pytest
from tests.examples.conftest import FigmaSite
from tests.examples.samples import ATLAS, HARBOR

from componentforge.figma_client import FigmaClient
from forge_otel.errors import BadRequest, NotFound, ServiceUnavailable


async def test_a_node_comes_with_its_subtree(site: FigmaSite) -> None:
    """The node knows its file's version and the names of its styles."""
    node = await FigmaClient(site.http).node(ATLAS, "1:1")
    assert node.document["name"] == "Button/Action"
    assert node.version == "4290713355"
    assert "brand/600" in node.styles.values()


async def test_an_edit_changes_the_hash_of_its_node_only(site: FigmaSite) -> None:
    """The content hash follows the subtree, not the file."""
    client = FigmaClient(site.http)
    button, badge = await client.node(ATLAS, "1:1"), await client.node(ATLAS, "1:40")
    site.figma.edit(ATLAS, "1:1", text="Send")
    assert (await client.node(ATLAS, "1:1")).content_hash != button.content_hash
    assert (await client.node(ATLAS, "1:40")).content_hash == badge.content_hash


async def test_offers_are_sets_and_single_components(site: FigmaSite) -> None:
    """A variant is no offer of its own."""
    offers = await FigmaClient(site.http).offers(HARBOR)
    assert len(offers) == 8
    assert {offer.component_type for offer in offers} == {"button", "card", "input", "modal", "badge", "navbar"}


@pytest.mark.parametrize(
    ("file_key", "node_id", "error"),
    [
        ("unknown", "1:1", NotFound),
        ("../../etc", "1:1", NotFound),
        (ATLAS, "9:99", NotFound),
        (ATLAS, "", BadRequest),
        ("", "1:1", BadRequest),
        ("k" * 129, "1:1", BadRequest),
    ],
)
async def test_what_is_not_there_is_told(site: FigmaSite, file_key: str, node_id: str, error: type[Exception]) -> None:
    """An unknown file or node is NotFound, what cannot be one is BadRequest."""
    with pytest.raises(error):
        await FigmaClient(site.http).node(file_key, node_id)


async def test_a_refused_token_is_no_fault_of_the_caller(site: FigmaSite) -> None:
    """The service's own token is wrong: the caller is told to come back later."""
    async with httpx.AsyncClient(base_url=site.url, headers={"X-Figma-Token": "wrong"}) as http:
        with pytest.raises(ServiceUnavailable, match="not available; try again"):
            await FigmaClient(http).node(ATLAS, "1:1")


async def test_a_dead_server_is_unavailable(unused_tcp_port: int) -> None:
    """Nobody listens: the error says when to come back."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{unused_tcp_port}") as http:
        with pytest.raises(ServiceUnavailable, match="not available; try again"):
            await FigmaClient(http).node(ATLAS, "1:1")
