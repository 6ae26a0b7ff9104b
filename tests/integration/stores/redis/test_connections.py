"""Reads over pinned connections, on a real server."""

import asyncio
import random
from typing import Any

from tests.servers import RedisServer

from forge_otel.stores.redis.store import open_url


async def test_reads_survive_a_restart(redis_server: RedisServer) -> None:
    """Connections that the server has closed are replaced without an error."""
    store: Any = open_url(redis_server.url, max_bytes=0)
    async with store:
        await store.set("key", b"value")
        await asyncio.gather(*(store.get(["key"]) for _ in range(8)))
        for _ in range(2):
            await asyncio.to_thread(redis_server.kill)
            await asyncio.to_thread(redis_server.start)
            assert await asyncio.gather(*(store.get(["key"]) for _ in range(8))) == [[b"value"]] * 8


async def test_a_cancelled_read_leaves_no_response_behind(fresh_redis: str) -> None:
    """Its connection is dropped, so no later read gets the response."""
    store: Any = open_url(fresh_redis, max_bytes=0)
    async with store:
        keys = [f"key {number}" for number in range(200)]
        for key in keys:
            await store.set(key, key.encode())
        rng = random.Random(1)
        for key in keys:
            cancelled = asyncio.create_task(store.get(["another"]))
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            cancelled.cancel()
            assert await store.get([key]) == [key.encode()]
            await asyncio.gather(cancelled, return_exceptions=True)


async def test_any_key_and_any_number_of_keys_can_be_read(fresh_redis: str) -> None:
    """Lengths in the packed command are in bytes, not in characters."""
    store: Any = open_url(fresh_redis, max_bytes=0)
    async with store:
        keys = ["plain", "ä ö", "\r\n$4\r\nPING\r\n", "🎨", "", "x" * 10_000]
        for number, key in enumerate(keys):
            await store.set(key, b"%d" % number)
        assert await store.get([*keys, "none"]) == [*(b"%d" % number for number in range(len(keys))), None]
