"""The Redis store keeps the contract on a real server."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from tests.servers import RedisServer

from forge_otel._runtime.plugins import load
from forge_otel.stores.redis.store import RedisStore
from forge_otel.testing.contracts.store_contract import StoreContract


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


async def test_reads_survive_a_restart(redis_server: RedisServer) -> None:
    """Kept connections that the server has closed are replaced, and nobody sees it."""
    async with load("stores", redis_server.url)(redis_server.url, max_bytes=0) as opened:
        await opened.set("key", b"value")
        await asyncio.gather(*(opened.get(["key"]) for _ in range(8)))
        for _ in range(2):
            await asyncio.to_thread(redis_server.kill)
            await asyncio.to_thread(redis_server.start)
            assert await asyncio.gather(*(opened.get(["key"]) for _ in range(8))) == [[b"value"]] * 8


async def test_a_read_that_was_cancelled_leaves_its_answer_to_nobody(fresh_redis: str) -> None:
    """Whenever it is cancelled: its connection is not used again, so that no answer is taken for another one's."""
    async with load("stores", fresh_redis)(fresh_redis, max_bytes=0) as opened:
        keys = [f"key {number}" for number in range(200)]
        for key in keys:
            await opened.set(key, key.encode())
        rng = random.Random(1)
        for key in keys:
            cancelled = asyncio.create_task(opened.get(["another"]))
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            cancelled.cancel()
            assert await opened.get([key]) == [key.encode()]
            await asyncio.gather(cancelled, return_exceptions=True)


async def test_any_key_and_any_number_of_keys_can_be_read(store: RedisStore) -> None:
    """The command is packed by us: by bytes, not by letters."""
    keys = ["plain", "ä ö", "\r\n$4\r\nPING\r\n", "🎨", "", "x" * 10_000]
    for number, key in enumerate(keys):
        await store.set(key, b"%d" % number)
    assert await store.get([*keys, "none"]) == [*(b"%d" % number for number in range(len(keys))), None]


async def test_many_are_added_in_one_step(store: RedisStore, fresh_redis: str) -> None:
    """What is there stays, what is of another type is replaced, all else is new."""
    async with Redis.from_url(fresh_redis) as client:
        await client.set("there", b"theirs")
        await client.lpush("list", b"member")
    added = await store.add_all({"there": b"ours", "list": b"ours", "new": b"ours"})
    assert added == [b"theirs", b"ours", b"ours"]
    assert await store.get(["there", "list", "new"]) == added
