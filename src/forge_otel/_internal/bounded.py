"""A mapping with a maximum size that evicts its least recently used entry."""

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["BoundedMap"]

K = TypeVar("K")
V = TypeVar("V")


class BoundedMap(OrderedDict[K, V], Generic[K, V]):
    """A dict of at most `max_entries` entries; setting one more evicts the entry that was set or touched longest ago.

    Args:
        max_entries: at least 1.
    """

    def __init__(self, max_entries: int) -> None:
        super().__init__()
        self._max_entries = max_entries

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self._max_entries:
            self.popitem(last=False)

    def touch(self, key: K) -> V | None:
        """Return the value of `key` and mark it as used last; None where there is none."""
        value = self.get(key)
        if value is not None:
            self.move_to_end(key)
        return value
