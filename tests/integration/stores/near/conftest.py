"""Fixtures of the near cache."""

from collections.abc import AsyncIterator

import pytest
from tests.integration.stores.near.support import Act, OtherProcess, open_near

from forge_otel.stores.near.store import NearStore


@pytest.fixture
async def near(fresh_redis: str) -> AsyncIterator[NearStore]:
    """A near cache on an empty server."""
    async with open_near(fresh_redis) as opened:
        yield opened


@pytest.fixture
async def other(fresh_redis: str) -> AsyncIterator[Act]:
    """Another client of the server, in another process."""
    async with OtherProcess(fresh_redis) as act:
        yield act
