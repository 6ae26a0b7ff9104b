"""Invalidation messages from a real server, also over connections that break or fall silent."""

import asyncio
import time
from typing import Any

import pytest
from tests.conftest import running
from tests.integration.stores.near.support import ENTRY, Act, open_near, until, until_near
from tests.servers.redis import RedisServer
from tests.servers.redis_groups import RedisSentinelServers

from forge_otel.stores.near.store import NearStore
from forge_otel.stores.redis.store import RedisStore, open_url
from forge_otel.testing.faults.proxy import FaultProxy, Silent


async def test_changes_are_pushed(near: NearStore, other: Act) -> None:
    """Without `synchronize`, the copy of a changed entry disappears."""
    await near.set(ENTRY, b"1")
    await until_near(near, ENTRY)
    await other("set", ENTRY, "2")
    await until(lambda: near.peek([ENTRY]) is None)


class HeldStore(RedisStore):
    """A store that holds its responses back until the test releases them."""

    def __init__(self, store: RedisStore) -> None:
        super().__init__(store._client)
        self.is_read = asyncio.Event()
        self.may_respond = asyncio.Event()

    async def get_with_ttls(self, keys: Any, expiring: Any, /) -> Any:
        """Read now, respond later."""
        response = await super().get_with_ttls(keys, expiring)
        self.is_read.set()
        await self.may_respond.wait()
        return response


@pytest.mark.parametrize("change", [["set", ENTRY, "2"], ["flush"], ["kill"]], ids=lambda change: change[0])
async def test_an_overtaken_read_is_not_copied(fresh_redis: str, other: Act, change: list[str]) -> None:
    """A change is pushed while the response to an earlier read is still in flight."""
    await other("set", ENTRY, "1")
    store = HeldStore(open_url(fresh_redis, max_bytes=0))
    async with NearStore(store, max_bytes=10**6) as near:
        reading = asyncio.create_task(near.fetch([ENTRY]))
        await store.is_read.wait()
        await other(*change)
        if change == ["kill"]:
            await until(lambda: not near._tracking.is_connected)
        async with asyncio.timeout(10):
            while not await near.synchronize():
                await asyncio.sleep(0.01)
        store.may_respond.set()
        await asyncio.gather(reading, return_exceptions=True)
        assert near.peek([ENTRY]) is None


async def test_a_lost_connection_clears_the_copy(near: NearStore, other: Act) -> None:
    """After CLIENT KILL no copy is served until tracking works again, and none from before."""
    await near.set(ENTRY, b"1")
    await until_near(near, ENTRY)
    await other("kill")
    await until(lambda: len(near) == 0)
    await other("set", ENTRY, "2")
    await until_near(near, ENTRY)
    assert near.peek([ENTRY]) == [b"2"]


async def test_near_hits_stop_while_the_server_restarts(redis_server: RedisServer) -> None:
    """They come back with the connection."""
    async with open_near(redis_server.url) as near:
        await near.set(ENTRY, b"1")
        await until_near(near, ENTRY)
        await asyncio.to_thread(redis_server.kill)
        await until(lambda: near.peek([ENTRY]) is None)
        assert len(near) == 0
        assert not await near.synchronize()
        await asyncio.to_thread(redis_server.start)
        await until_near(near, ENTRY)


async def test_a_silent_connection_is_stale_for_a_bounded_time(shared_redis: RedisServer) -> None:
    """Changes are not received, so after `max_stale_s` no copy is served, and never again an older one."""
    shared_redis.flush()
    async with (
        FaultProxy("127.0.0.1", shared_redis.port) as proxy,
        open_url(shared_redis.url, max_bytes=0) as direct,
        open_near(proxy.url_for(shared_redis.url), max_stale_s=0.5) as near,
    ):
        await direct.set(ENTRY, b"1")
        await until_near(near, ENTRY)
        async with proxy.fault(Silent()):
            await direct.set(ENTRY, b"2")
            changed_s = time.monotonic()
            ages_s = []
            while True:
                read_s = time.monotonic()
                if near.peek([ENTRY]) is None:
                    break
                ages_s.append(read_s - changed_s)
                await asyncio.sleep(0.005)
            # The last reply to a PING came before the change, so no older copy may be served longer than this.
            assert max(ages_s, default=0.0) <= 0.5
            await until(lambda: len(near) == 0)
        await until_near(near, ENTRY)
        assert near.peek([ENTRY]) == [b"2"]


async def test_a_server_that_refuses_tracking_is_used_without_copies(
    fresh_redis: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has one line about it, and every read goes to the server."""
    async with open_url(fresh_redis, max_bytes=0) as admin:
        await admin._client.execute_command("ACL", "SETUSER", "plain", "on", ">pw", "~*", "+@all", "-client")
    try:
        async with open_near(fresh_redis.replace("redis://", "redis://plain:pw@")) as near:
            await near.set(ENTRY, b"1")
            assert await near.fetch([ENTRY]) == [b"1"]
            assert near.peek([ENTRY]) is None
        assert caplog.text.count("near cache disabled") == 1
    finally:
        async with open_url(fresh_redis, max_bytes=0) as admin:
            await admin._client.execute_command("ACL", "DELUSER", "plain")


async def test_near_hits_survive_a_failover() -> None:
    """After the master was killed, near hits stop and come back with the new master."""
    with running(RedisSentinelServers) as servers:
        async with open_near(servers.url) as near:
            await near.set(ENTRY, b"1")
            await until_near(near, ENTRY)
            await asyncio.to_thread(servers.master.kill)
            await until(lambda: near.peek([ENTRY]) is None)
            async with asyncio.timeout(40):
                # The replica may not have received the entry yet.
                while not await is_written(near, ENTRY):
                    await asyncio.sleep(0.05)
            await until_near(near, ENTRY)


async def is_written(near: NearStore, key: str) -> bool:
    try:
        await near.set(key, b"2")
    except Exception:
        return False
    return True
