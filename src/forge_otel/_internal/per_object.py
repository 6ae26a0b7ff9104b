"""Values attached to objects of other libraries."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["PerObject"]

K = TypeVar("K")
V = TypeVar("V")


class PerObject(Generic[K, V]):
    """One value for each owner, created on first use and released with the owner.

    For owners whose class is not ours, where the value cannot be an attribute.

    Args:
        create: called once for each owner; its value must not refer to the owner.
    """

    def __init__(self, create: Callable[[K], V]) -> None:
        self._create = create
        self._values: WeakKeyDictionary[K, V] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def get(self, owner: K) -> V:
        """Return the value of `owner`."""
        with self._lock:
            value = self._values.get(owner)
            if value is None:
                value = self._values[owner] = self._create(owner)
            return value
