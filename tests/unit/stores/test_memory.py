"""The memory store keeps the contract, its bound and its clock."""

import pytest

from forge_otel.stores.memory import MemoryStore
from forge_otel.testing.contracts import StoreContract


class TestMemoryStore(StoreContract):
    """The contract of all stores."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        """An empty store."""
        return MemoryStore()


async def test_the_least_recently_used_is_evicted_first() -> None:
    """A store that is full forgets what was not asked for the longest."""
    store = MemoryStore(max_bytes=3 * (256 + 1 + 100))
    for key in "abc":
        await store.set(key, b"x" * 100)
    await store.get(["a"])
    await store.set("d", b"x" * 100)
    assert await store.get(list("abcd")) == [b"x" * 100, None, b"x" * 100, b"x" * 100]


async def test_the_bound_holds_whatever_is_written() -> None:
    """Size never passes the bound, and an entry larger than the bound is not kept."""
    store = MemoryStore(max_bytes=10_000)
    for number in range(1_000):
        await store.set(f"k{number % 37}", b"x" * (number * 97 % 12_000))
        assert store.size_bytes <= 10_000
    await store.delete([f"k{number}" for number in range(37)])
    assert (store.size_bytes, len(store)) == (0, 0)


async def test_life_is_counted_by_the_monotonic_clock() -> None:
    """An entry lives exactly as long as the clock says."""
    now = [100.0]
    store = MemoryStore(clock=lambda: now[0])
    await store.set("a", b"1", ttl_s=10)
    now[0] = 109.9
    assert await store.get(["a"]) == [b"1"]
    now[0] = 110.0
    assert await store.get(["a"]) == [None]
