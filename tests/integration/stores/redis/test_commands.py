"""Writes to Redis that are the same on one server and in a Cluster."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from forge_otel.stores.redis.store import open_url


@pytest.fixture
async def store(fresh_redis: str) -> AsyncIterator[Any]:
    """A store on an empty server."""
    async with open_url(fresh_redis, max_bytes=0) as opened:
        yield opened


async def test_a_key_of_another_type_is_missing_and_replaceable(store: Any, fresh_redis: str) -> None:
    """A foreign list under our key does not disable the cache until it is deleted."""
    async with Redis.from_url(fresh_redis) as client:
        await client.lpush("version", "x")
    assert await store.get(["version"]) == [None]
    assert await store.add("version", b"v") == b"v"
    assert await store.get(["version"]) == [b"v"]


async def test_add_keeps_the_first_value(store: Any) -> None:
    """Two processes that create a tag version agree on one."""
    assert await store.add("version", b"first") == b"first"
    assert await store.add("version", b"second") == b"first"


async def test_counters_add_up_and_expire(store: Any, fresh_redis: str) -> None:
    """Every increment renews the TTL."""
    assert await store.increment({"a": 2, "b": 1}, ttl_s=60) == [2, 1]
    assert await store.increment({"a": -1}, ttl_s=60) == [1]
    async with Redis.from_url(fresh_redis) as client:
        assert 0 < await client.ttl("a") <= 60
