"""The Redis store keeps the contract on a real server."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from forge_otel._loading import load
from forge_otel.stores.redis import RedisStore
from forge_otel.testing.contracts import StoreContract


@pytest.fixture
async def store(fresh_redis: str) -> AsyncIterator[RedisStore]:
    """A store on an empty server, opened by its URL."""
    async with load("stores", fresh_redis)(fresh_redis, max_bytes=0) as opened:
        yield opened


class TestRedisStore(StoreContract):
    """The contract of all stores."""


async def test_one_get_is_one_command(store: RedisStore, fresh_redis: str) -> None:
    """However many keys are asked for, the server sees one command."""
    async with Redis.from_url(fresh_redis) as client:
        await store.get(["warm"])
        before = (await client.info("commandstats")).get("cmdstat_mget", {"calls": 0})["calls"]
        await store.get(["a", "b", "c"])
        after = (await client.info("commandstats"))["cmdstat_mget"]["calls"]
    assert after - before == 1
