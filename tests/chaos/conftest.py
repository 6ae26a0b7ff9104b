"""A running service for the tests that let its helpers fail."""

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
from tests.chaos.rows import ROWS
from tests.chaos.site import Nursery, Site, StandIns, free_ports, running_site
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def undisturbed() -> Iterator[None]:
    """Keep the collector away from what is there already: it would stop load and proxies for a quarter second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def nursery(undisturbed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Forks services."""
    with Nursery(tmp_path_factory.mktemp("nursery")) as nursery:
        yield nursery


@pytest.fixture(scope="module")
def stand_ins(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    """Figma and the model; they end with the nursery."""
    with free_ports(2) as (figma_port, openai_port):
        pass
    log = tmp_path_factory.mktemp("stand_ins") / "log"
    nursery.fork("stand_ins", log=str(log), figma_port=figma_port, openai_port=openai_port)
    return StandIns(figma_port, openai_port)


@pytest.fixture
async def site(
    request: pytest.FixtureRequest, nursery: Nursery, stand_ins: StandIns, redis_server: RedisServer
) -> AsyncIterator[Site]:
    """A running service of the test's own."""
    needs_clock = "clock" in request.node.name
    if needs_clock and nursery.clock is None:
        pytest.skip("no C compiler to build the wrong clock with")
    cell = getattr(getattr(request.node, "callspec", None), "params", {}).get("cell")
    async with AsyncExitStack() as stack:
        row = await stack.enter_async_context(ROWS[cell.service](request)) if cell and cell.service in ROWS else None
        site = await stack.enter_async_context(
            running_site(nursery, stand_ins, redis_server, row=row, with_clock=needs_clock)
        )
        # What the row has loaded too.
        gc.collect()
        gc.freeze()
        yield site
