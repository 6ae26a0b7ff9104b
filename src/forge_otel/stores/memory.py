"""A bounded in-process store with cost-aware eviction: the default, for one worker and for tests.

Eviction is GreedyDual-Size-Frequency (Cherkasova, HP Labs 1998). The priority of an entry is its cost times its number
of reads, per byte, plus the priority of the last evicted entry at its last read (the *age*). An answer for $0.42
therefore outlives many cheap ones of its size, and is still evicted if it is not read while other entries come and go.
The read counts of evicted answers are kept for a while, so that a returning answer continues with its count.

Entries without a cost (tag versions, counters) have the average cost of their size. Entries on which an answer depends,
or that are read together with it, have at least the answer's priority, because the answer is useless without them.

A read only raises a number. The heap orders entries by the priority at which they were pushed; an entry whose priority
has risen since is pushed again when it reaches the top. Eviction costs O(log n), a read O(1).
"""

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

__all__ = ["MemoryStore", "open_url"]

# Memory of one entry beside its key and value: slot, entries of dict and heap, read counts of evicted answers (measured
# on CPython 3.11 by benchmarks/bench_memory.py, rounded up).
_ENTRY_OVERHEAD_BYTES: Final = 512
_MAX_ENTRIES: Final = 1_000_000
# Replaced and deleted slots stay in the heap until they reach its top, or until the heap has so many slots per entry.
_HEAP_SLOTS_PER_ENTRY: Final = 2
_MIN_DEAD_SLOTS: Final = 100
# Read counts of evicted answers that are kept, per entry.
_COUNTS_PER_ENTRY: Final = 2
_MIN_COUNTS: Final = 100
# Window of the moving average of cost per byte, and its value before the first answer, in USD.
_AVERAGED_ANSWERS: Final = 64
_FIRST_COST_PER_BYTE: Final = 1e-5


class MemoryStore:
    """Bounded dict that evicts the entries with the lowest cost per byte.

    Args:
        max_bytes: maximum size of keys and values, overhead included.
        max_entries: maximum number of entries.
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
        # Hash of the key to the number of reads, for evicted answers.
        self._evicted_reads: dict[int, int] = {}
        # Priority of the last evicted entry, from which new entries start.
        self._age = 0.0
        self._average_cost = _FIRST_COST_PER_BYTE
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Size of all entries, overhead included."""
        return self._size_bytes

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys`, in their order."""
        slots = [self._slot(key) for key in keys]
        if len(slots) > 1:
            self._raise_to_answer(slots)
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
        """Add to counters and renew their TTL of `ttl_s` seconds; return their values, in the order of `amounts`."""
        counts = [int(self._get(key) or 0) + amount for key, amount in amounts.items()]
        for key, count in zip(amounts, counts, strict=True):
            self._set(key, b"%d" % count, ttl_s)
        return counts

    async def delete(self, keys: Sequence[str], /) -> int:
        """Delete the keys and return how many existed."""
        return sum(self._discard(key) for key in keys)

    async def scan(self, prefix: str, cursor: str = "", /) -> tuple[str, list[str]]:
        """Return an empty cursor and all keys that begin with `prefix`."""
        del cursor
        return "", [key for key in self._entries if key.startswith(prefix)]

    async def ping(self) -> None:
        """Do nothing; a dict is always available."""

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
        cost_per_byte = self._average_cost if cost_usd is None else cost_usd / size_bytes
        slot = _MemorySlot(key, value, None if ttl_s is None else self._clock() + ttl_s, cost_per_byte)
        if cost_usd is not None:
            self._average_cost += (cost_per_byte - self._average_cost) / _AVERAGED_ANSWERS
            slot.is_answer = True
            slot.reads += self._evicted_reads.pop(hash(key), 0)
        slot.heap_priority = slot.priority = self._age + slot.reads * cost_per_byte
        if slot.is_answer:
            self._raise_to_answer([slot, *map(self._entries.get, depends_on)])
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
        if slot.expires_s is not None and slot.expires_s <= self._clock():
            self._discard(key)
            return None
        slot.reads += 1
        slot.priority = max(slot.priority, self._age + slot.reads * slot.cost_per_byte)
        return slot

    @staticmethod
    def _raise_to_answer(slots: Sequence["_MemorySlot | None"]) -> None:
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
            elif slot.heap_priority < slot.priority:
                slot.heap_priority = slot.priority
                heapq.heapreplace(heap, slot)
            else:
                self._age = slot.priority
                if slot.is_answer:
                    self._keep_reads(slot)
                self._discard(slot.key)
                return

    def _keep_reads(self, slot: "_MemorySlot") -> None:
        reads = self._evicted_reads
        reads[hash(slot.key)] = slot.reads
        if len(reads) > _COUNTS_PER_ENTRY * len(self._entries) + _MIN_COUNTS:
            # Dicts keep their order, so this is the answer that was evicted first.
            del reads[next(iter(reads))]

    def _discard(self, key: str) -> bool:
        slot = self._entries.pop(key, None)
        if slot is None:
            return False
        self._size_bytes -= len(key) + len(slot.value) + _ENTRY_OVERHEAD_BYTES
        # Frees the memory now; the slot itself may stay in the heap for a while.
        slot.value = b""
        if len(self._heap) > _HEAP_SLOTS_PER_ENTRY * len(self._entries) + _MIN_DEAD_SLOTS:
            self._heap = list(self._entries.values())
            for kept in self._heap:
                kept.heap_priority = kept.priority
            heapq.heapify(self._heap)
        return True


class _MemorySlot:
    """A value and its position in the order of eviction."""

    __slots__ = ("cost_per_byte", "expires_s", "heap_priority", "is_answer", "key", "priority", "reads", "value")

    def __init__(self, key: str, value: bytes, expires_s: float | None, cost_per_byte: float) -> None:
        self.key = key
        self.value = value
        self.expires_s = expires_s
        self.cost_per_byte = cost_per_byte
        self.reads = 1
        self.is_answer = False
        self.priority = self.heap_priority = 0.0

    def __lt__(self, other: "_MemorySlot") -> bool:
        return self.heap_priority < other.heap_priority


def open_url(url: str, *, max_bytes: int) -> MemoryStore:
    """Open `memory://`."""
    del url
    return MemoryStore(max_bytes=max_bytes)
