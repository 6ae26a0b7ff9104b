"""The near cache: a `RedisStore` with an in-process copy of what was read, valid until the server reports a change.

Guarantees:

* A value from the copy is the one that Redis held at some moment in the last `max_stale_s` seconds, also while the
  network, Redis or this process hangs. With a working connection that moment is the latency of a push ago (a fraction
  of a millisecond on one host).
* A value that this process writes through the store is never followed by an older one after the write has returned.
* After `await synchronize()` no value is older than a write that had completed before the call.
* No value is served from the copy while the connection is lost or has been silent for `max_stale_s`, and the copy is
  cleared when the connection is lost or the server is flushed. A dead Redis therefore means no near hits.

Only hits are served: a caller that gets None from `peek`, or cannot use the value, reads from Redis with `fetch`.
Deletion, expiry and eviction on the server are pushed like changes, and the TTL of an entry is read with it, so that
the copy expires in time. A value that was being read while a change was pushed is not kept: it may predate the change.

For one event loop and one server, also behind Sentinels: a demoted master closes its connections. In a Cluster every
node would have to be tracked, and a node that joined unnoticed would push nothing, so a near cache is refused there.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from forge_otel.errors import needs

with needs("redis"):
    from forge_otel.leases.redis import RedisLeases
    from forge_otel.stores.near.invalidation import Tracking
    from forge_otel.stores.redis.store import RedisStore

__all__ = ["NearStore"]

_ENTRIES: Final = "forge:l1:"
_TAG_VERSIONS: Final = "forge:epoch:"
# Memory of one copy beside its value: key, slot, link of the ordered dict (measured on CPython 3.11, rounded up).
_OVERHEAD_BYTES: Final = 320
# One value takes at most an eighth of the space, so that it cannot evict everything else.
_MAX_SHARE: Final = 8
_PINGS_PER_STALENESS: Final = 4
_MAX_CHANGED: Final = 10_000


class NearStore:
    """Wraps a `RedisStore`, which it opens and closes, with an in-process copy of entries and tag versions.

    Args:
        store: the shared store.
        max_bytes: maximum size of the copy.
        max_entries: maximum number of copied values, tag versions included.
        max_stale_s: maximum age of a served value in seconds.
    """

    def __init__(
        self, store: RedisStore, *, max_bytes: int, max_entries: int = 20_000, max_stale_s: float = 2.0
    ) -> None:
        self._store = store
        self._max_stale_s = max_stale_s
        self._table = _Table(max_bytes, max_entries)
        self._tracking = Tracking(
            store.connection,
            (_ENTRIES, _TAG_VERSIONS),
            on_changed=self._on_pushed,
            on_lost=self._flush,
            interval_s=max_stale_s / _PINGS_PER_STALENESS,
            give_up_s=max_stale_s,
        )
        # The copy is only as good as the server that reports the changes.
        store.connections.add_listener(self._tracking.reconnect)
        # Counts changes; a read compares it to find out which keys changed after it was sent.
        self._change = 0
        self._flushed_at = 0
        self._changed_at: dict[str, int] = {}
        self._reads_in_flight = 0
        self._pid = os.getpid()

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        await self._tracking.__aenter__()
        self._pid = os.getpid()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._tracking.__aexit__()
        finally:
            await self._store.__aexit__()

    def __len__(self) -> int:
        return len(self._table)

    @property
    def size_bytes(self) -> int:
        """Size of the copy, overhead included."""
        return self._table.size_bytes

    def peek(self, keys: Sequence[str], /) -> list[Any] | None:
        """Return the copies of `keys`, in their order; None unless all of them are present and current."""
        now_s = time.monotonic()
        # A forked child has the copy, but not the task that invalidates it.
        if now_s - self._tracking.current_until_s > self._max_stale_s or os.getpid() != self._pid:
            return None
        return self._table.get(keys, now_s)

    async def fetch(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys` from Redis, in one round trip, and copy the values that exist."""
        if not self._tracking.is_connected:
            return await self._store.get(keys)
        since, started_s = self._change, time.monotonic()
        self._reads_in_flight += 1
        try:
            expiring = [key for key in keys if key.startswith(_ENTRIES)]
            values, ttls_ms = await self._store.get_with_ttls(keys, expiring)
            if since >= self._flushed_at:
                ttl_ms = dict(zip(expiring, ttls_ms, strict=True))
                self._keep(zip(keys, values, strict=True), ttl_ms, since=since, started_s=started_s)
            return values
        finally:
            self._reads_in_flight -= 1
            if not self._reads_in_flight:
                self._changed_at.clear()

    def replace(self, key: str, value: bytes, decoded: object, size_bytes: int) -> None:
        """Keep `decoded` in place of the copy of `value`, unless `key` has changed since.

        Args:
            key: of the entry.
            value: the object that `fetch` returned.
            decoded: returned by `peek` from now on, shared by all callers.
            size_bytes: size of `decoded`.
        """
        self._table.replace(key, value, decoded, size_bytes)

    async def synchronize(self) -> bool:
        """Wait until every change before this call is respected; return False if the copy is not used at all."""
        return await self._tracking.synchronize()

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys` from Redis, in one round trip, without copying them."""
        return await self._store.get(keys)

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Store `value`, for `ttl_s` seconds or until it is evicted."""
        try:
            await self._store.set(key, value, ttl_s=ttl_s)
        finally:
            self._changed(key)

    async def add(self, key: str, value: bytes) -> bytes:
        """Store `value` if `key` is unset; return the value that is stored now."""
        try:
            return await self._store.add(key, value)
        finally:
            self._changed(key)

    async def add_all(self, values: Mapping[str, bytes]) -> list[bytes]:
        """Store each value whose key is unset, in one round trip; return the values that are stored now, in order."""
        try:
            return await self._store.add_all(values)
        finally:
            for key in values:
                self._changed(key)

    async def increment(self, amounts: Mapping[str, int], *, ttl_s: float) -> list[int]:
        """Add to counters and renew their TTL of `ttl_s` seconds; return their values, in the order of `amounts`."""
        try:
            return await self._store.increment(amounts, ttl_s=ttl_s)
        finally:
            for key in amounts:
                self._changed(key)

    async def delete(self, keys: Sequence[str], /) -> int:
        """Delete the keys without blocking the server (UNLINK); return how many existed."""
        try:
            return await self._store.delete(keys)
        finally:
            for key in keys:
                self._changed(key)

    async def scan(self, prefix: str, cursor: str = "", /) -> tuple[str, list[str]]:
        """Return the next cursor, empty at the end, and some keys that begin with `prefix`."""
        return await self._store.scan(prefix, cursor)

    async def ping(self) -> None:
        """Raise unless the server responds."""
        await self._store.ping()

    def leases(self) -> RedisLeases:
        """Return the leases on this store's entries; open and close them while the store is open."""
        return self._store.leases(on_commit=self._changed)

    def _keep(self, found: Any, ttls_ms: Mapping[str, int], *, since: int, started_s: float) -> None:
        for key, value in found:
            ttl_ms = ttls_ms.get(key, -1)
            # PTTL: -2 if the key expired between the two commands, -1 for a key without expiry.
            if value is None or ttl_ms == -2 or self._changed_at.get(key, 0) > since:
                continue
            if key.startswith((_ENTRIES, _TAG_VERSIONS)):
                expires_s = float("inf") if ttl_ms < 0 else started_s + ttl_ms / 1000
                self._table.put(key, value, expires_s)

    def _changed(self, key: str) -> None:
        self._table.discard(key)
        if self._reads_in_flight:
            self._change += 1
            self._changed_at[key] = self._change
            if len(self._changed_at) > _MAX_CHANGED:
                # Too many to remember: reads in flight are treated as if everything had changed.
                self._changed_at.clear()
                self._flushed_at = self._change

    def _on_pushed(self, names: Sequence[bytes]) -> None:
        for name in names:
            self._changed(name.decode("utf-8", "replace"))

    def _flush(self) -> None:
        self._table.clear()
        self._change += 1
        self._flushed_at = self._change


class _NearSlot:
    """The copy of one key."""

    __slots__ = ("expires_s", "size_bytes", "value")

    def __init__(self, value: object, size_bytes: int, expires_s: float) -> None:
        self.value = value
        self.size_bytes = size_bytes
        self.expires_s = expires_s


class _Table:
    """Least recently used copies, bounded in bytes and in number."""

    def __init__(self, max_bytes: int, max_entries: int) -> None:
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._slots: OrderedDict[str, _NearSlot] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._slots)

    def get(self, keys: Sequence[str], now_s: float) -> list[Any] | None:
        slots = self._slots
        found = []
        for key in keys:
            slot = slots.get(key)
            if slot is None:
                return None
            if slot.expires_s <= now_s:
                self.discard(key)
                return None
            found.append(slot.value)
        for key in keys:
            slots.move_to_end(key)
        return found

    def put(self, key: str, value: bytes, expires_s: float) -> None:
        self._put(key, _NearSlot(value, _OVERHEAD_BYTES + len(key) + len(value), expires_s))

    def replace(self, key: str, value: bytes, decoded: object, size_bytes: int) -> None:
        slot = self._slots.get(key)
        if slot is not None and slot.value is value:
            self._put(key, _NearSlot(decoded, _OVERHEAD_BYTES + len(key) + size_bytes, slot.expires_s))

    def _put(self, key: str, slot: _NearSlot) -> None:
        self.discard(key)
        if slot.size_bytes > self._max_bytes // _MAX_SHARE:
            return
        self._slots[key] = slot
        self.size_bytes += slot.size_bytes
        while self.size_bytes > self._max_bytes or len(self._slots) > self._max_entries:
            self.discard(next(iter(self._slots)))

    def discard(self, key: str) -> None:
        slot = self._slots.pop(key, None)
        if slot is not None:
            self.size_bytes -= slot.size_bytes

    def clear(self) -> None:
        self._slots.clear()
        self.size_bytes = 0
