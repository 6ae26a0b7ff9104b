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
    """The behaviour of a `Store`; subclass it and give a fixture named `store` that is empty."""

    async def test_what_was_set_is_got_in_the_order_asked(self, store: Store) -> None:
        """Values come back in the order of the keys, None for those that are not there."""
        await store.set("a", b"1")
        await store.set("b", b"2")
        assert await store.get(["b", "missing", "a"]) == [b"2", None, b"1"]

    async def test_any_bytes_survive(self, store: Store) -> None:
        """Values are opaque: nothing, every byte and a megabyte come back as they were."""
        values = {"empty": b"", "every": bytes(range(256)), "large": b"x" * 2**20}
        for key, value in values.items():
            await store.set(key, value)
        assert await store.get(list(values)) == list(values.values())

    async def test_a_later_value_replaces_an_earlier_one(self, store: Store) -> None:
        """The last writer wins."""
        await store.set("a", b"1")
        await store.set("a", b"2")
        assert await store.get(["a"]) == [b"2"]

    async def test_an_entry_ends_with_its_life(self, store: Store) -> None:
        """An entry with a life is gone afterwards, one without stays."""
        await store.set("short", b"1", ttl_s=0.05)
        await store.set("long", b"2")
        async with asyncio.timeout(5):
            while await store.get(["short"]) != [None]:
                await asyncio.sleep(0.01)
        assert await store.get(["long"]) == [b"2"]

    async def test_setting_again_without_a_life_keeps_it(self, store: Store) -> None:
        """A life belongs to the value that it was set with."""
        await store.set("a", b"1", ttl_s=0.05)
        await store.set("a", b"2")
        await store.set("witness", b"", ttl_s=0.1)
        async with asyncio.timeout(5):
            while await store.get(["witness"]) != [None]:
                await asyncio.sleep(0.01)
        assert await store.get(["a"]) == [b"2"]

    async def test_the_first_to_add_wins(self, store: Store) -> None:
        """Of many who add at once one value is stored, and all are told which."""
        told = await asyncio.gather(*(store.add("epoch", str(n).encode()) for n in range(20)))
        assert set(told) == set(await store.get(["epoch"]))

    async def test_deleting_counts_what_was_there(self, store: Store) -> None:
        """Only what was there counts, and afterwards it is not."""
        await store.set("a", b"1")
        assert await store.delete(["a", "b"]) == 1
        assert await store.delete([]) == 0
        assert await store.get(["a"]) == [None]
