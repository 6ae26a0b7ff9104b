"""The store and the leases in a real Redis Cluster."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.conftest import running
from tests.servers.redis_groups import RedisClusterServers, ask

from forge_otel._runtime.plugins import load
from forge_otel.leases.redis import RedisLeases
from forge_otel.stores.redis.cluster import ClusterStore
from forge_otel.testing.contracts.lease_contract import LeasesContract
from forge_otel.testing.contracts.store_contract import StoreContract
from forge_otel.types import Lease, LeaseHeld


@pytest.fixture(scope="module")
def servers() -> Iterator[RedisClusterServers]:
    """Three masters."""
    with running(RedisClusterServers) as started:
        yield started


@pytest.fixture
def cluster(servers: RedisClusterServers) -> RedisClusterServers:
    """The masters, empty."""
    for node in servers.nodes:
        node.flush()
    return servers


class TestClusterStore(StoreContract):
    """The contract of stores."""

    @pytest.fixture
    async def store(self, cluster: RedisClusterServers) -> AsyncIterator[ClusterStore]:
        """An empty store."""
        async with load("stores", cluster.url)(cluster.url, max_bytes=0) as opened:
            await opened.ping()
            yield opened


class TestClusterLeases(LeasesContract):
    """The contract of leases: scripts find their keys in one slot, and waiters are notified from any node."""

    @pytest.fixture
    async def leases(self, cluster: RedisClusterServers) -> AsyncIterator[RedisLeases]:
        """Leases on an empty cluster."""
        async with load("stores", cluster.url)(cluster.url, max_bytes=0) as store, store.leases() as opened:
            yield opened


async def test_a_first_burst_survives_redirections(cluster: RedisClusterServers) -> None:
    """Concurrent calls before the slot map is loaded are redirected, and none of them fails."""
    for _ in range(3):
        store = load("stores", cluster.url)(cluster.url, max_bytes=0)
        stored = await asyncio.gather(*(store.add(f"burst:{number}", b"x") for number in range(40)))
        await store.__aexit__()
        assert stored == [b"x"] * 40


async def test_processes_elect_one_holder(cluster: RedisClusterServers) -> None:
    """Of two clients one acquires the lease; the other is notified of the commit and reads the entry."""
    opened = load("stores", cluster.url)
    async with (
        opened(cluster.url, max_bytes=0) as one,
        opened(cluster.url, max_bytes=0) as other,
        one.leases() as ours,
        other.leases() as theirs,
    ):
        for number in range(12):
            key = f"forge:l1:{number}"
            lease = await ours.acquire(key, "ours", ttl_s=30, waited_s=0)
            assert isinstance(lease, Lease)
            assert isinstance(await theirs.acquire(key, "theirs", ttl_s=30, waited_s=0), LeaseHeld)
            with theirs.listen(key) as wait:
                async with asyncio.timeout(10):
                    waiting = asyncio.create_task(wait(60))
                    await asyncio.sleep(0)
                    assert await ours.commit(lease, b"answer", ttl_s=None)
                    await ours.release(lease)
                    await waiting
            assert await other.get([key]) == [b"answer"]


async def test_a_scan_walks_all_nodes(cluster: RedisClusterServers) -> None:
    """Keys are spread over the nodes, and each is returned once."""
    names = {f"forge:l1:{number}" for number in range(1500)}
    async with load("stores", cluster.url)(cluster.url, max_bytes=0) as store:
        for name in names:
            await store.set(name, b"x")
        cursor, found = await store.scan("forge:l1:", "")
        while cursor:
            cursor, keys = await store.scan("forge:l1:", cursor)
            found += keys
    assert sorted(found) == sorted(names)
    sizes = [int(ask(node, "DBSIZE")[1:]) for node in cluster.nodes]
    assert sum(sizes) == 1500
    assert min(sizes) > 300


async def test_a_key_of_another_type_is_missing_and_replaceable(cluster: RedisClusterServers) -> None:
    """A foreign list under our key does not disable the cache."""
    async with load("stores", cluster.url)(cluster.url, max_bytes=0) as store:
        await store._client.lpush("version", "x")
        assert await store.get(["version"]) == [None]
        assert await store.add("version", b"v") == b"v"
        assert await store.get(["version"]) == [b"v"]
