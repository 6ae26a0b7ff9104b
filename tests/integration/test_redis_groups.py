"""The cache in a real Redis Cluster, and behind a real Sentinel that fails over."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.conftest import running
from tests.servers.redis_groups import RedisClusterServers, RedisSentinelServers, ask

from forge_otel._runtime.plugins import load
from forge_otel.errors import ConfigurationError
from forge_otel.leases.redis import RedisLeases
from forge_otel.stores.redis.cluster import ClusterStore
from forge_otel.stores.redis.store import RedisStore
from forge_otel.testing.contracts.lease_contract import LeasesContract
from forge_otel.testing.contracts.store_contract import StoreContract
from forge_otel.types import Lease, LeaseHeld


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisClusterServers]:
    """Three masters."""
    with running(RedisClusterServers) as servers:
        yield servers


@pytest.fixture
def sentinel() -> Iterator[RedisSentinelServers]:
    """A group of the test's own."""
    with running(RedisSentinelServers) as servers:
        yield servers


@pytest.fixture(scope="module")
def shared_sentinel() -> Iterator[RedisSentinelServers]:
    """A group that no test breaks."""
    with running(RedisSentinelServers) as servers:
        yield servers


class TestClusterStore(StoreContract):
    """The contract of all stores."""

    @pytest.fixture
    async def store(self, cluster: RedisClusterServers) -> AsyncIterator[ClusterStore]:
        """An empty store."""
        for node in cluster.nodes:
            node.flush()
        async with load("stores", cluster.url)(cluster.url, max_bytes=0) as opened:
            await opened.ping()
            yield opened


class TestSentinelStore(StoreContract):
    """The contract of all stores."""

    @pytest.fixture
    async def store(self, shared_sentinel: RedisSentinelServers) -> AsyncIterator[RedisStore]:
        """An empty store."""
        shared_sentinel.master.flush()
        async with load("stores", shared_sentinel.url)(shared_sentinel.url, max_bytes=0) as opened:
            await opened.ping()
            yield opened


class TestClusterLeases(LeasesContract):
    """The contract of all leases: the scripts find their keys in one slot, and who waits is woken from any node."""

    @pytest.fixture
    async def leases(self, cluster: RedisClusterServers) -> AsyncIterator[RedisLeases]:
        """On an empty cluster."""
        for node in cluster.nodes:
            node.flush()
        async with load("stores", cluster.url)(cluster.url, max_bytes=0) as store, store.leases() as opened:
            yield opened


async def test_the_first_burst_finds_its_nodes(cluster: RedisClusterServers) -> None:
    """Many callers before anything is known of the cluster: none fails because others are redirected."""
    for _ in range(3):
        store = load("stores", cluster.url)(cluster.url, max_bytes=0)
        told = await asyncio.gather(*(store.add(f"burst:{number}", b"x") for number in range(40)))
        await store.__aexit__()
        assert told == [b"x"] * 40


async def test_processes_agree_by_the_cluster(cluster: RedisClusterServers) -> None:
    """Of two clients one holds the lease, whichever node it is on, and the other one is woken and reads the entry."""
    for node in cluster.nodes:
        node.flush()
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


async def test_keys_are_spread_over_the_cluster_and_all_are_walked_through(cluster: RedisClusterServers) -> None:
    """No node has everything, and a scan meets every key once."""
    for node in cluster.nodes:
        node.flush()
    names = {f"forge:l1:{number}" for number in range(1500)}
    async with load("stores", cluster.url)(cluster.url, max_bytes=0) as store:
        for name in names:
            await store.set(name, b"x")
        found: list[str] = []
        cursor, is_first = "", True
        while cursor or is_first:
            cursor, keys = await store.scan("forge:l1:", cursor)
            found += keys
            is_first = False
    assert sorted(found) == sorted(names)
    sizes = [int(ask(node, "DBSIZE")[1:]) for node in cluster.nodes]
    assert sum(sizes) == 1500
    assert min(sizes) > 300


async def test_a_value_of_another_type_is_none_and_can_be_replaced(cluster: RedisClusterServers) -> None:
    """What somebody else left under our key does not keep the cache off."""
    async with load("stores", cluster.url)(cluster.url, max_bytes=0) as store:
        await store._client.lpush("epoch-of-another-type", "x")
        assert await store.get(["epoch-of-another-type"]) == [None]
        assert await store.add("epoch-of-another-type", b"e") == b"e"
        assert await store.get(["epoch-of-another-type"]) == [b"e"]


async def test_the_store_follows_a_failover(sentinel: RedisSentinelServers) -> None:
    """After its master was killed, the same store reads what the replica has and writes to it."""
    async with load("stores", sentinel.url)(sentinel.url, max_bytes=0) as store:
        await store.set("a", b"1")
        async with asyncio.timeout(10):
            while not (await asyncio.to_thread(ask, sentinel.replica, "GET a")).startswith(b"$1"):
                await asyncio.sleep(0.02)
        await asyncio.to_thread(sentinel.master.kill)
        async with asyncio.timeout(30):
            while not await _writes(store):
                await asyncio.sleep(0.05)
        assert await store.get(["a", "b"]) == [b"1", b"2"]
    assert b"2" in await asyncio.to_thread(ask, sentinel.replica, "GET b")


async def _writes(store: RedisStore) -> bool:
    try:
        await store.set("b", b"2")
    except Exception:
        return False
    return True


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://host:1", "redis+sentinel://host:1/name/x", "redis+ring://host", "redis+cluster://a,,b"],
)
def test_a_url_that_lacks_something_is_refused(url: str) -> None:
    """At start, with a sentence."""
    with pytest.raises(ConfigurationError):
        load("stores", url)(url, max_bytes=0)
