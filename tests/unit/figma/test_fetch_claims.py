"""A claim tells the other workers that a fetch is running, and ends with it."""

import pytest

from forge_otel.figma.cache_storage import FigmaCacheStorage
from forge_otel.figma.fetch_claims import FetchClaims
from forge_otel.stores.memory import MemoryStore

SECRET = b"0123456789abcdef"


def storage(store: MemoryStore, *, is_shared: bool = True) -> FigmaCacheStorage:
    return FigmaCacheStorage(store, secret=SECRET, local_bytes=2**20 if is_shared else 0)


async def test_a_peer_sees_a_claim_until_the_fetch_ends() -> None:
    """The worker itself does not: its own fetch does not hold it up."""
    store = MemoryStore()
    one, other = FetchClaims(storage(store)), FetchClaims(storage(store))
    assert not await other.is_held_by_peer("file")
    async with one.hold("file"):
        assert await other.is_held_by_peer("file")
        assert not await one.is_held_by_peer("file")
        assert not await other.is_held_by_peer("another file")
    assert not await other.is_held_by_peer("file")


async def test_a_claim_ends_with_a_failed_fetch() -> None:
    """The next worker may fetch at once."""
    store = MemoryStore()
    one, other = FetchClaims(storage(store)), FetchClaims(storage(store))
    with pytest.raises(ValueError, match="refused"):
        async with one.hold("file"):
            raise ValueError("refused")
    assert not await other.is_held_by_peer("file")


async def test_without_a_shared_store_there_are_no_claims() -> None:
    """Nothing is written to a store of this process."""
    store = MemoryStore()
    one, other = (FetchClaims(storage(store, is_shared=False)) for _ in range(2))
    async with one.hold("file"):
        assert not await other.is_held_by_peer("file")
    assert len(store) == 0
