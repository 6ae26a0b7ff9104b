"""A store in this process: the default, for one worker and for tests.

It is bounded, and what it evicts first is what is worth least for its size: GreedyDual-Size-Frequency (Cherkasova,
HP Labs 1998). Each value has a *priority*: what it was worth when it was stored, times how often it was asked for, per
byte, plus the priority of what was evicted last before it was asked for. So an answer for $0.42 outlives many cheap
ones of its size, and still leaves if nobody asks for it while others come and go. How often an answer was asked for is
remembered for a while after it was evicted: one that comes back need not prove itself again.

Values of no worth of their own (epochs, notes, counters) count like the usual one of their size; but what is stored as
needed by an answer, or read together with it, stays at least as long as the answer, which would be lost with it.

A hit only raises a number. The heap by which the least is found has each value at the priority that it had when it was
put there; one that has risen since is put back when it comes up, so that eviction costs O(log n) and a hit O(1).
"""

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

__all__ = ["MemoryStore", "open_url"]

# What a value costs beside its bytes: key, slot, places in dict and heap, and what is remembered of evicted ones
# (measured on CPython 3.11 by benchmarks/bench_memory.py, rounded up).
_ENTRY_OVERHEAD_BYTES: Final = 512
_MAX_ENTRIES: Final = 1_000_000
# Slots that were replaced or deleted stay in the heap until they come up, or until there are as many as live ones.
_DEAD_SHARE, _LEAST_DEAD = 2, 100
# Evicted answers that are remembered, for each entry that is there.
_REMEMBERED_SHARE, _LEAST_REMEMBERED = 2, 100
# Of which the usual worth per byte is the moving average, and what it is before there are any.
_AVERAGED: Final = 64
_FIRST_WORTH: Final = 1e-5


class MemoryStore:
    """Keeps values in a bounded dict and evicts what is worth least for its size.

    Args:
        max_bytes: bound of keys and values together, overhead included.
        max_entries: bound of their number.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        max_bytes: int = 256 * 2**20,
        max_entries: int = _MAX_ENTRIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._clock = clock
        self._entries: dict[str, _MemorySlot] = {}
        self._heap: list[_MemorySlot] = []
        # How often evicted answers were asked for, by the hash of their keys.
        self._remembered: dict[int, int] = {}
        # The priority of what was evicted last: what comes now begins there.
        self._age = 0.0
        self._usual_worth = _FIRST_WORTH
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """What the entries take, overhead included."""
        return self._size_bytes

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys` in their order."""
        slots = [self._slot(key) for key in keys]
        if len(slots) > 1:
            self._hold_together(slots)
        return [None if slot is None else slot.value for slot in slots]

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Store `value`, for `ttl_s` seconds or until it is evicted."""
        self._set(key, value, ttl_s)

    async def set_with_cost(
        self, key: str, value: bytes, *, ttl_s: float | None = None, cost_usd: float, depends_on: Sequence[str] = ()
    ) -> None:
        """Store `value` with hints for eviction; see `forge_otel.types.capabilities.CostAware`."""
        self._set(key, value, ttl_s, cost_usd=cost_usd, depends_on=depends_on)

    async def add(self, key: str, value: bytes) -> bytes:
        """Store `value` if `key` is unset; return what is stored now."""
        stored = self._get(key)
        if stored is None:
            self._set(key, value, None)
            return value
        return stored

    async def increment(self, amounts: Mapping[str, int], *, ttl_s: float) -> list[int]:
        """Add to counters that live `ttl_s` seconds; return what they then are, in the order of `amounts`."""
        counts = [int(self._get(key) or 0) + amount for key, amount in amounts.items()]
        for key, count in zip(amounts, counts, strict=True):
            self._set(key, b"%d" % count, ttl_s)
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

    def _set(
        self,
        key: str,
        value: bytes,
        ttl_s: float | None,
        *,
        cost_usd: float | None = None,
        depends_on: Sequence[str] = (),
    ) -> None:
        self._discard(key)
        size_bytes = len(key) + len(value) + _ENTRY_OVERHEAD_BYTES
        if size_bytes > self._max_bytes:
            return
        worth = self._usual_worth if cost_usd is None else cost_usd / size_bytes
        slot = _MemorySlot(key, value, None if ttl_s is None else self._clock() + ttl_s, worth)
        if cost_usd is not None:
            self._usual_worth += (worth - self._usual_worth) / _AVERAGED
            slot.is_answer = True
            slot.hits += self._remembered.pop(hash(key), 0)
        slot.place = slot.priority = self._age + slot.hits * worth
        if slot.is_answer:
            self._hold_together([slot, *map(self._entries.get, depends_on)])
        self._entries[key] = slot
        self._size_bytes += size_bytes
        heapq.heappush(self._heap, slot)
        while self._size_bytes > self._max_bytes or len(self._entries) > self._max_entries:
            self._evict()

    def _get(self, key: str) -> bytes | None:
        slot = self._slot(key)
        return None if slot is None else slot.value

    def _slot(self, key: str) -> "_MemorySlot | None":
        slot = self._entries.get(key)
        if slot is None:
            return None
        if slot.ends_s is not None and slot.ends_s <= self._clock():
            self._discard(key)
            return None
        slot.hits += 1
        slot.priority = max(slot.priority, self._age + slot.hits * slot.worth)
        return slot

    @staticmethod
    def _hold_together(slots: Sequence["_MemorySlot | None"]) -> None:
        highest = max((slot.priority for slot in slots if slot is not None and slot.is_answer), default=0.0)
        for slot in slots:
            if slot is not None and not slot.is_answer and slot.priority < highest:
                slot.priority = highest

    def _evict(self) -> None:
        heap = self._heap
        while True:
            slot = heap[0]
            if self._entries.get(slot.key) is not slot:
                heapq.heappop(heap)
            elif slot.place < slot.priority:
                slot.place = slot.priority
                heapq.heapreplace(heap, slot)
            else:
                self._age = slot.priority
                if slot.is_answer:
                    self._remember(slot)
                self._discard(slot.key)
                return

    def _remember(self, slot: "_MemorySlot") -> None:
        remembered = self._remembered
        remembered[hash(slot.key)] = slot.hits
        if len(remembered) > _REMEMBERED_SHARE * len(self._entries) + _LEAST_REMEMBERED:
            # Dicts keep their order: the one that was evicted first.
            del remembered[next(iter(remembered))]

    def _discard(self, key: str) -> bool:
        slot = self._entries.pop(key, None)
        if slot is None:
            return False
        self._size_bytes -= len(key) + len(slot.value) + _ENTRY_OVERHEAD_BYTES
        # What it held is free at once, not when it comes up.
        slot.value = b""
        if len(self._heap) > _DEAD_SHARE * len(self._entries) + _LEAST_DEAD:
            self._heap = list(self._entries.values())
            for kept in self._heap:
                kept.place = kept.priority
            heapq.heapify(self._heap)
        return True


class _MemorySlot:
    """A value, and where in the order of eviction it is."""

    __slots__ = ("ends_s", "hits", "is_answer", "key", "place", "priority", "value", "worth")

    def __init__(self, key: str, value: bytes, ends_s: float | None, worth: float) -> None:
        self.key = key
        self.value = value
        self.ends_s = ends_s
        self.worth = worth
        self.hits = 1
        self.is_answer = False
        self.priority = self.place = 0.0

    def __lt__(self, other: "_MemorySlot") -> bool:
        return self.place < other.place


def open_url(url: str, *, max_bytes: int) -> MemoryStore:
    """Open `memory://`."""
    del url
    return MemoryStore(max_bytes=max_bytes)
