"""The Redis store on a real server, and behind Sentinels that fail over."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis
from tests.conftest import running
from tests.servers.redis_groups import RedisSentinelServers, ask

from forge_otel._runtime.plugins import load
from forge_otel.errors import ConfigurationError
from forge_otel.stores.redis.store import RedisStore
from forge_otel.testing.contracts.store_contract import StoreContract


@pytest.fixture
async def store(fresh_redis: str) -> AsyncIterator[RedisStore]:
    """A store on an empty server, opened by its URL."""
    async with load("stores", fresh_redis)(fresh_redis, max_bytes=0) as opened:
        yield opened


@pytest.fixture
def sentinel() -> Iterator[RedisSentinelServers]:
    """A master, its replica and Sentinels for one test."""
    with running(RedisSentinelServers) as servers:
        yield servers


@pytest.fixture(scope="module")
def shared_sentinel() -> Iterator[RedisSentinelServers]:
    """A group that no test breaks."""
    with running(RedisSentinelServers) as servers:
        yield servers


class TestRedisStore(StoreContract):
    """The contract of stores."""


class TestSentinelStore(StoreContract):
    """The contract of stores."""

    @pytest.fixture
    async def store(self, shared_sentinel: RedisSentinelServers) -> AsyncIterator[RedisStore]:
        """An empty store."""
        shared_sentinel.master.flush()
        async with load("stores", shared_sentinel.url)(shared_sentinel.url, max_bytes=0) as opened:
            await opened.ping()
            yield opened


async def test_one_get_is_one_command(store: RedisStore, fresh_redis: str) -> None:
    """The server sees one MGET for any number of keys."""
    async with Redis.from_url(fresh_redis) as client:
        await store.get(["warm"])
        before = (await client.info("commandstats")).get("cmdstat_mget", {"calls": 0})["calls"]
        await store.get(["a", "b", "c"])
        after = (await client.info("commandstats"))["cmdstat_mget"]["calls"]
    assert after - before == 1


async def test_a_scan_returns_every_key_once(store: RedisStore) -> None:
    """In pages, and only keys with the prefix."""
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


async def test_several_keys_are_added_in_one_round_trip(store: RedisStore, fresh_redis: str) -> None:
    """An existing value is kept, one of another type is replaced, a missing one is stored."""
    async with Redis.from_url(fresh_redis) as client:
        await client.set("existing", b"theirs")
        await client.lpush("list", b"member")
    added = await store.add_all({"existing": b"ours", "list": b"ours", "new": b"ours"})
    assert added == [b"theirs", b"ours", b"ours"]
    assert await store.get(["existing", "list", "new"]) == added


async def test_the_store_follows_a_failover(sentinel: RedisSentinelServers) -> None:
    """After the master was killed, the same store reads from the replica and writes to it."""
    async with load("stores", sentinel.url)(sentinel.url, max_bytes=0) as store:
        await store.set("a", b"1")
        async with asyncio.timeout(10):
            while not (await asyncio.to_thread(ask, sentinel.replica, "GET a")).startswith(b"$1"):
                await asyncio.sleep(0.02)
        await asyncio.to_thread(sentinel.master.kill)
        async with asyncio.timeout(30):
            while not await _is_writable(store):
                await asyncio.sleep(0.05)
        assert await store.get(["a", "b"]) == [b"1", b"2"]
    assert b"2" in await asyncio.to_thread(ask, sentinel.replica, "GET b")


async def _is_writable(store: RedisStore) -> bool:
    try:
        await store.set("b", b"2")
    except Exception:
        return False
    return True


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://host:1", "redis+sentinel://host:1/name/x", "redis+ring://host", "redis+cluster://a,,b"],
)
def test_an_incomplete_url_is_rejected(url: str) -> None:
    """When the runtime is built, before anything is connected."""
    with pytest.raises(ConfigurationError):
        load("stores", url)(url, max_bytes=0)
