"""A store in this process: the default, for one worker and for tests."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

__all__ = ["MemoryStore", "open_url"]

# What an entry costs beside its value: key, tuple, link of the ordered dict (measured on CPython 3.11, rounded up).
_ENTRY_OVERHEAD_BYTES = 256


class MemoryStore:
    """Keeps values in a bounded dict and evicts the least recently used.

    Args:
        max_bytes: bound of keys and values together.
        clock: monotonic seconds.
    """

    def __init__(self, *, max_bytes: int = 256 * 2**20, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[str, tuple[bytes, float | None]] = OrderedDict()
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """What the entries take, overhead included."""
        return self._size_bytes

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys` in their order."""
        return [self._get(key) for key in keys]

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Store `value`, for `ttl_s` seconds or until it is evicted."""
        self._discard(key)
        size_bytes = self._cost(key, value)
        if size_bytes > self._max_bytes:
            return
        self._entries[key] = (value, None if ttl_s is None else self._clock() + ttl_s)
        self._size_bytes += size_bytes
        while self._size_bytes > self._max_bytes:
            self._discard(next(iter(self._entries)))

    async def add(self, key: str, value: bytes) -> bytes:
        """Store `value` if `key` is unset; return what is stored now."""
        stored = self._get(key)
        if stored is None:
            await self.set(key, value)
            return value
        return stored

    async def increase(self, amounts: Mapping[str, int], *, ttl_s: float) -> list[int]:
        """Add to counters that live `ttl_s` seconds; return what they then are, in the order of `amounts`."""
        counts = [int(self._get(key) or 0) + amount for key, amount in amounts.items()]
        for key, count in zip(amounts, counts, strict=True):
            await self.set(key, b"%d" % count, ttl_s=ttl_s)
        return counts

    async def delete(self, keys: Sequence[str], /) -> int:
        """Delete the keys; return how many there were."""
        return sum(self._discard(key) for key in keys)

    async def scan(self, prefix: str, cursor: str = "", /) -> tuple[str, list[str]]:
        """Return all keys that begin with `prefix`."""
        del cursor
        return "", [key for key in self._entries if key.startswith(prefix)]

    async def ping(self) -> None:
        """Do nothing: a dict is always there."""

    def _get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, expires_at = entry
        if expires_at is not None and expires_at <= self._clock():
            self._discard(key)
            return None
        self._entries.move_to_end(key)
        return value

    def _discard(self, key: str) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._size_bytes -= self._cost(key, entry[0])
        return True

    @staticmethod
    def _cost(key: str, value: bytes) -> int:
        return len(key) + len(value) + _ENTRY_OVERHEAD_BYTES


def open_url(url: str, *, max_bytes: int) -> MemoryStore:
    """Open ``memory://``."""
    del url
    return MemoryStore(max_bytes=max_bytes)
