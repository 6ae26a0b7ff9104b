"""Leases on a real Redis server."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ResponseError

from forge_otel.leases.redis import RedisLeases, _key
from forge_otel.stores.redis.store import open_url
from forge_otel.testing.contracts.lease_contract import LeasesContract
from forge_otel.types import Event, Lease


@pytest.fixture
async def leases(fresh_redis: str) -> AsyncIterator[RedisLeases]:
    """Leases on an empty server."""
    async with open_url(fresh_redis, max_bytes=0) as store, store.leases() as opened:
        yield opened


class TestRedisLeases(LeasesContract):
    """The contract of leases."""


@pytest.mark.parametrize("entry", ["forge:l1:a", "forge:{l1:a}:x", "a{b", "{x}{y}"])
def test_all_keys_are_in_the_hash_slot_of_the_entry(entry: str) -> None:
    """A Cluster runs a script only on keys of one slot."""
    kinds = ("lease", "fence", "failure", "events")
    assert {key_slot(_key(kind, entry).encode()) for kind in kinds} == {key_slot(entry.encode())}
    assert len({_key(kind, entry) for kind in kinds}) == len(kinds)


async def test_the_store_reads_a_committed_entry(leases: RedisLeases, fresh_redis: str) -> None:
    """The entry has its TTL, and so has every key of the lease."""
    lease = await leases.acquire("forge:l1:a", "t", ttl_s=9, waited_s=0)
    assert isinstance(lease, Lease)
    assert await leases.commit(lease, b"\x00\xff", ttl_s=100)
    await leases.append("forge:l1:a", [Event(lease.fence, 1, b"e")])
    await leases.release(lease, failure=b"why")
    async with Redis.from_url(fresh_redis) as client:
        assert await client.get("forge:l1:a") == b"\x00\xff"
        ttls_ms = {key: await client.pttl(key) for key in await client.keys()}
    assert all(0 < ttl_ms <= 24 * 3600 * 1000 for ttl_ms in ttls_ms.values()), ttls_ms


async def test_a_late_write_after_an_evicted_fence_overwrites_nothing(leases: RedisLeases, fresh_redis: str) -> None:
    """Without the fence, a commit may only fill a gap."""
    lease = await leases.acquire("a", "t", ttl_s=9, waited_s=0)
    assert isinstance(lease, Lease)
    async with Redis.from_url(fresh_redis) as client:
        await client.flushall()
        assert await leases.commit(lease, b"first", ttl_s=None)
        assert not await leases.commit(lease, b"second", ttl_s=None)
        assert await client.get("a") == b"first"


@pytest.mark.parametrize("poison", ["no number", "9" * 30], ids=["text", "huge"])
async def test_a_foreign_fence_never_grants_two_leases(leases: RedisLeases, fresh_redis: str, poison: str) -> None:
    """A foreign value under the key is an error at worst."""
    async with Redis.from_url(fresh_redis) as client:
        await client.set(_key("fence", "a"), poison)
        await client.set(_key("lease", "a"), "never expires")
        try:
            acquired = await leases.acquire("a", "t", ttl_s=9, waited_s=0)
        except (ResponseError, ValueError):
            return
        assert isinstance(acquired, Lease)
        assert await leases.commit(acquired, b"x", ttl_s=None)
