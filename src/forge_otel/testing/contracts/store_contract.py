"""Contract suite for stores: the behaviour that every implementation of `Store` must have.

::

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self): ...
"""

import asyncio

from forge_otel.types import Store

__all__ = ["StoreContract"]


class StoreContract:
    """The behaviour of a `Store`; subclasses provide a fixture `store` that is empty."""

    async def test_values_are_returned_in_the_order_of_the_keys(self, store: Store) -> None:
        """A missing key yields None."""
        await store.set("a", b"1")
        await store.set("b", b"2")
        assert await store.get(["b", "missing", "a"]) == [b"2", None, b"1"]

    async def test_values_are_opaque_bytes(self, store: Store) -> None:
        """An empty value, every byte and a megabyte are returned unchanged."""
        values = {"empty": b"", "every": bytes(range(256)), "large": b"x" * 2**20}
        for key, value in values.items():
            await store.set(key, value)
        assert await store.get(list(values)) == list(values.values())

    async def test_a_later_value_replaces_an_earlier_one(self, store: Store) -> None:
        """The last write wins."""
        await store.set("a", b"1")
        await store.set("a", b"2")
        assert await store.get(["a"]) == [b"2"]

    async def test_an_entry_expires_after_its_ttl(self, store: Store) -> None:
        """An entry without a TTL does not expire."""
        await store.set("short", b"1", ttl_s=0.05)
        await store.set("long", b"2")
        async with asyncio.timeout(5):
            while await store.get(["short"]) != [None]:
                await asyncio.sleep(0.01)
        assert await store.get(["long"]) == [b"2"]

    async def test_setting_again_without_a_ttl_removes_the_ttl(self, store: Store) -> None:
        """A TTL belongs to the value that it was set with."""
        await store.set("a", b"1", ttl_s=0.05)
        await store.set("a", b"2")
        # Expires later than the TTL that `a` must have lost: once it is gone, `a` would be gone too.
        await store.set("witness", b"", ttl_s=0.1)
        async with asyncio.timeout(5):
            while await store.get(["witness"]) != [None]:
                await asyncio.sleep(0.01)
        assert await store.get(["a"]) == [b"2"]

    async def test_the_first_add_wins(self, store: Store) -> None:
        """Concurrent calls of `add` store one value, and each returns it."""
        returned = await asyncio.gather(*(store.add("epoch", str(n).encode()) for n in range(20)))
        assert set(returned) == set(await store.get(["epoch"]))

    async def test_deleting_counts_existing_entries(self, store: Store) -> None:
        """Missing keys are not counted, and deleted entries are not returned any more."""
        await store.set("a", b"1")
        assert await store.delete(["a", "b"]) == 1
        assert await store.delete([]) == 0
        assert await store.get(["a"]) == [None]
