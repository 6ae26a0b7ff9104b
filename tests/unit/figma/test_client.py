"""The Figma client reads nodes and files through its cache."""

import asyncio
from typing import Any

import pytest
from tests.examples.samples import ATLAS
from tests.unit.figma.conftest import SILENT, FigmaSite

from forge_otel import Forge, Settings
from forge_otel.errors import ServiceUnavailable
from forge_otel.testing.faults.proxy import Silent

FILE = f"/v1/files/{ATLAS}"


async def test_a_hundred_generations_on_an_unchanged_file_fetch_it_once(site: FigmaSite) -> None:
    """One request for the file and none for a node, for any nodes and any concurrency."""
    client = await site.client()
    names = ["1:1", "1:29", "1:40", "2:1", "2:13", "2:44", "3:1", "3:26"]
    for _ in range(10):
        await asyncio.gather(*(client.node(ATLAS, names[number % len(names)]) for number in range(10)))
    assert dict(site.figma.requests) == {FILE: 1}


async def test_a_node_equals_the_response_of_the_nodes_endpoint(site: FigmaSite) -> None:
    """The content hash is the same, whether the node is read from the file or requested alone."""
    whole, alone = await site.client(), await site.client(max_response_bytes=40_000)
    assert (await whole.node(ATLAS, "1:40")).content_hash == (await alone.node(ATLAS, "1:40")).content_hash
    assert (site.calls(ATLAS), site.calls("/nodes")) == (2, 1)
    await alone.node(ATLAS, "1:1")
    assert (site.calls(ATLAS), site.calls("/nodes")) == (2, 2)


async def test_each_request_has_its_own_entry(site: FigmaSite) -> None:
    """Ids, depth, version, geometry and token are part of the cache key; the spelling of ids is not."""
    client, other = await site.client(), await site.client(token="another")
    arguments_of: list[dict[str, Any]] = [{}, {"ids": ["1:1"]}, {"depth": 1}, {"version": "17"}, {"geometry": "paths"}]
    for arguments in arguments_of:
        assert (await client.file(ATLAS, **arguments)).source == "miss"
        assert (await client.file(ATLAS, **arguments)).source == "hit"
    assert (await other.file(ATLAS)).source == "miss"
    assert (await client.nodes(ATLAS, ["1:1", "1:40"])).source == "miss"
    assert (await client.nodes(ATLAS, ["1-40", "1:1", "1:1"])).source == "hit"


async def test_tokens_do_not_share_entries(site: FigmaSite) -> None:
    """A rejected token gets nothing from the same store."""
    forge = Forge(Settings(**SILENT))
    allowed, rejected = await site.client(forge), await site.client(forge, token="wrong")
    await allowed.node(ATLAS, "1:1")
    with pytest.raises(ServiceUnavailable):
        await rejected.node(ATLAS, "1:1")


async def test_a_silent_figma_costs_its_deadline_and_no_more(site: FigmaSite) -> None:
    """Two seconds for version check, fetch and all attempts together, then the stale copy."""
    client = await site.client(wait_s=1.9)
    await client.node(ATLAS, "1:1")
    site.clock.now_s += 400
    loop = asyncio.get_running_loop()
    async with site.proxy.fault(Silent()):
        started_s = loop.time()
        assert (await client.node(ATLAS, "1:1")).is_stale
        # Not a measurement: without the deadline it would be the socket timeout several times over.
        assert loop.time() - started_s < 3.5
