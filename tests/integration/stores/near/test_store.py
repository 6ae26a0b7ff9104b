"""The near cache on a real server: copies are served until they change."""

import os
import random
import time
import warnings

import pytest
from tests.integration.stores.near.support import ENTRY, TAG_VERSION, Act, until, until_near

from forge_otel.stores.near.store import NearStore
from forge_otel.stores.redis.store import open_url
from forge_otel.testing.contracts.store_contract import StoreContract
from forge_otel.types import Lease


class TestNearStore(StoreContract):
    """The contract of stores."""

    @pytest.fixture
    def store(self, near: NearStore) -> NearStore:
        """An empty store."""
        return near


@pytest.mark.parametrize("key", [ENTRY, TAG_VERSION])
async def test_a_copy_is_served_until_another_process_changes_it(near: NearStore, other: Act, key: str) -> None:
    """After an overwrite, a deletion and a flush the copy is gone, and a new fetch makes a new one."""
    for change in (["set", key, "2"], ["delete", key], ["flush"]):
        await other("set", key, "1")
        assert await near.synchronize()
        assert await near.fetch([key]) == [b"1"]
        assert near.peek([key]) == [b"1"]
        await other(*change)
        assert await near.synchronize()
        assert near.peek([key]) is None


async def test_keys_of_other_prefixes_are_not_copied(near: NearStore) -> None:
    """Counters change with every request and are not tracked."""
    await near.set("forge:budget:x", b"1")
    await near.fetch(["forge:budget:x"])
    assert near.peek(["forge:budget:x"]) is None


async def test_peek_returns_all_keys_or_none(near: NearStore) -> None:
    """An entry without its tag versions is useless."""
    await near.set(ENTRY, b"1")
    await until_near(near, ENTRY)
    assert near.peek([ENTRY, TAG_VERSION]) is None


async def test_a_missing_key_is_not_copied(near: NearStore) -> None:
    """It can be created at any moment."""
    assert await near.fetch([ENTRY]) == [None]
    assert near.peek([ENTRY]) is None


async def test_a_copy_expires_with_its_entry(near: NearStore, other: Act) -> None:
    """The server pushes an expiry late, so the copy has a TTL of its own."""
    await other("set", ENTRY, "1", 0.3)
    assert await near.synchronize()
    started_s = time.monotonic()
    while near.peek([ENTRY]) is None and time.monotonic() < started_s + 0.25:
        await near.fetch([ENTRY])
    await until(lambda: time.monotonic() >= started_s + 0.3)
    assert near.peek([ENTRY]) is None


async def test_own_writes_invalidate_at_once(near: NearStore) -> None:
    """After the write has returned no older copy is served, without waiting for a push."""
    for write in (
        lambda: near.set(ENTRY, b"2"),
        lambda: near.delete([ENTRY]),
        lambda: near.increment({ENTRY: 1}, ttl_s=9),
    ):
        await near.set(ENTRY, b"1")
        await until_near(near, ENTRY)
        await write()
        assert near.peek([ENTRY]) is None


async def test_a_committed_lease_invalidates_at_once(near: NearStore) -> None:
    """The script bypasses the store, and the next reader must not see the older entry."""
    leases = near.leases()
    await near.set(ENTRY, b"old")
    await until_near(near, ENTRY)
    lease = await leases.acquire(ENTRY, "t", ttl_s=9, waited_s=0)
    assert isinstance(lease, Lease)
    assert await leases.commit(lease, b"new", ttl_s=None)
    assert near.peek([ENTRY]) is None
    assert await near.fetch([ENTRY]) == [b"new"]


async def test_a_forked_process_serves_no_copies(near: NearStore) -> None:
    """It inherits the copies, but receives no invalidation messages."""
    await near.set(ENTRY, b"1")
    await until_near(near, ENTRY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        os._exit(0 if near.peek([ENTRY]) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert near.peek([ENTRY]) == [b"1"]


async def test_size_and_number_of_copies_are_bounded(fresh_redis: str) -> None:
    """The least recently used copies are evicted, and one large value does not evict all others."""
    async with NearStore(open_url(fresh_redis, max_bytes=0), max_bytes=200_000, max_entries=50) as near:
        generator = random.Random(1)
        for number in range(300):
            await near.set(f"forge:l1:{number}", b"x" * generator.randrange(20_000))
        # The push of an own write may arrive after the write has returned.
        assert await near.synchronize()
        for number in range(300):
            await near.fetch([f"forge:l1:{number}"])
            assert near.size_bytes <= 200_000
            assert len(near) <= 50
        assert len(near) > 5
        await near.set(ENTRY, b"1")
        await until_near(near, ENTRY)
        await near.set("forge:l1:giant", b"x" * 100_000)
        await near.fetch(["forge:l1:giant"])
        assert near.peek([ENTRY]) == [b"1"]
        assert near.peek(["forge:l1:giant"]) is None


async def test_two_processes_never_disagree(near: NearStore, other: Act) -> None:
    """In 10,000 random steps, no read after `synchronize` returns a value older than a completed write."""
    generator = random.Random(20)
    keys = [f"forge:l1:{number}" for number in range(6)] + [f"forge:epoch:{number}" for number in range(3)]
    expected: dict[str, bytes] = {}
    hits = 0
    for step in range(10_000):
        key, value = generator.choice(keys), f"v{step}"
        action = generator.random()
        if action < 0.08:
            await other("set", key, value)
            expected[key] = value.encode()
        elif action < 0.11:
            await other("delete", key)
            expected.pop(key, None)
        elif action < 0.15:
            await near.set(key, value.encode())
            expected[key] = value.encode()
        elif action < 0.152:
            await other("flush")
            expected.clear()
        elif action < 0.5:
            assert await near.fetch([key]) == [expected.get(key)], step
        if 0.11 <= action < 0.15:
            # Own writes invalidate without a push.
            assert near.peek([key]) is None
            continue
        if action < 0.152:
            assert await near.synchronize()
        sampled = generator.sample(keys, 2)
        found = near.peek(sampled)
        if found is not None:
            hits += 1
            assert found == [expected.get(name) for name in sampled], step
    assert hits > 500
