"""The contract suite of stores accepts a correct store and catches broken ones."""

from collections.abc import Sequence

import pytest

from forge_otel.stores.memory import MemoryStore
from forge_otel.testing.contracts.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    """A correct store passes."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        """An empty store."""
        return MemoryStore()


class Unordered(MemoryStore):
    """Returns values in the order of their keys' names."""

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the wrong order."""
        return await super().get(sorted(keys))


class Overwriting(MemoryStore):
    """Lets the last `add` win."""

    async def add(self, key: str, value: bytes) -> bytes:
        """Replace the value of an earlier `add`."""
        await self.set(key, value)
        return value


async def test_a_store_that_reorders_values_fails() -> None:
    """Values must be in the order of the requested keys."""
    with pytest.raises(AssertionError):
        await StoreContract().test_values_are_returned_in_the_order_of_the_keys(Unordered())


async def test_a_store_whose_last_add_wins_fails() -> None:
    """All concurrent calls of `add` must return the same value."""
    with pytest.raises(AssertionError):
        await StoreContract().test_the_first_add_wins(Overwriting())
