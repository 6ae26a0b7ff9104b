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


async def test_a_value_of_another_type_is_none_and_can_be_replaced(store: RedisStore, fresh_redis: str) -> None:
    """What somebody else left under our key does not keep the cache off until it is deleted."""
    async with Redis.from_url(fresh_redis) as client:
        await client.lpush("epoch", "x")
    assert await store.get(["epoch"]) == [None]
    assert await store.add("epoch", b"e") == b"e"
    assert await store.get(["epoch"]) == [b"e"]


async def test_a_scan_meets_every_key_once(store: RedisStore) -> None:
    """Page by page, and only those with the prefix."""
    names = {f"forge:l1:{number}" for number in range(1500)}
    for name in (*names, "forge:epoch:1"):
        await store.set(name, b"x")
    cursor, found = await store.scan("forge:l1:")
    pages = 1
    while cursor:
        cursor, keys = await store.scan("forge:l1:", cursor)
        found, pages = found + keys, pages + 1
    assert sorted(found) == sorted(names)
    assert pages > 1
