"""Fixtures: a running service whose dependencies can fail."""

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
from tests.chaos.rows import ROWS
from tests.chaos.site import ForkServer, Site, StandIns, free_ports, running_site
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def undisturbed() -> Iterator[None]:
    """Exclude existing objects from garbage collection, which would stop load and proxies for 0.25 s."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def fork_server(undisturbed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """A process that forks services."""
    with ForkServer(tmp_path_factory.mktemp("fork_server")) as fork_server:
        yield fork_server


@pytest.fixture(scope="module")
def stand_ins(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    """Stand-ins for Figma and the model; they exit with the fork server."""
    with free_ports(2) as (figma_port, openai_port):
        pass
    log = tmp_path_factory.mktemp("stand_ins") / "log"
    fork_server.fork("stand_ins", log=str(log), figma_port=figma_port, openai_port=openai_port)
    return StandIns(figma_port, openai_port)


@pytest.fixture
async def site(
    request: pytest.FixtureRequest, fork_server: ForkServer, stand_ins: StandIns, redis_server: RedisServer
) -> AsyncIterator[Site]:
    """A running service for one test."""
    needs_clock = "clock" in request.node.name
    if needs_clock and fork_server.clock is None:
        pytest.skip("no C compiler to build the wrong clock")
    cell = getattr(getattr(request.node, "callspec", None), "params", {}).get("cell")
    async with AsyncExitStack() as stack:
        row = None
        if cell and cell.dependency in ROWS:
            row = await stack.enter_async_context(ROWS[cell.dependency](request))
        site = await stack.enter_async_context(
            running_site(fork_server, stand_ins, redis_server, row=row, with_clock=needs_clock)
        )
        # Includes the modules that the row has loaded.
        gc.collect()
        gc.freeze()
        yield site
