"""A near cache: what was read from Redis a short while ago, in this process, for as long as nobody changes it.

What it promises:

* What it gives is what Redis held at some moment of the last `max_stale_s` seconds, whatever happens to the network, to
  Redis or to this process. While the connection is well, that moment is as long ago as a push takes (a fraction of a
  millisecond on one host).
* Of what this process writes through the store it gives nothing older from when the write has returned.
* After `await caught_up()` it gives nothing older than what anybody had been told was written before.
* When the connection is lost, when the server flushes, or when it is silent for `max_stale_s`, nothing is given, and
  what was kept over a lost connection is thrown away. So a dead Redis means no near hits, after `max_stale_s` at most.

It only ever answers *hits*: whoever gets None from `peek`, or cannot use what it gives, asks Redis by `fetch`.
Deletion, expiry and eviction on the server are pushed like changes; the life of an entry is read with it, so that it
ends here in time. A read that was on its way while a change was pushed is not kept: it may have been answered before.

For one event loop, and one server (also behind Sentinel: a master that is demoted closes its connections). A Cluster
would need a connection to every node, and one that joined unseen would push nothing; so it is refused there.
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
_EPOCHS: Final = "forge:epoch:"
# What an entry costs beside its value: key, slot, link of the ordered dict (measured on CPython 3.11, rounded up).
_OVERHEAD_BYTES: Final = 320
# One answer may not push out everything else.
_MAX_SHARE: Final = 8
_PINGS_PER_STALENESS: Final = 4
_MAX_TOUCHED: Final = 10_000


class NearStore:
    """Stands before a `RedisStore`, which it opens and closes.

    Args:
        store: where everything is.
        max_bytes: bound of what is kept.
        max_entries: likewise, epochs of tags counted.
        max_stale_s: how old what it gives may be, in seconds, whatever happens.
    """

    is_one_server = True
    """Whether one `get` may ask for any keys."""

    def __init__(
        self, store: RedisStore, *, max_bytes: int, max_entries: int = 20_000, max_stale_s: float = 2.0
    ) -> None:
        self._store = store
        self._max_stale_s = max_stale_s
        self._table = _Table(max_bytes, max_entries)
        self._tracking = Tracking(
            store.connection,
            (_ENTRIES, _EPOCHS),
            on_changed=self._changed_there,
            on_lost=self._flush,
            interval_s=max_stale_s / _PINGS_PER_STALENESS,
            give_up_s=max_stale_s,
        )
        # A number for each change that was heard of; a read knows by it what changed since it was sent.
        self._moment = 0
        self._flushed_at = 0
        self._touched: dict[str, int] = {}
        self._reading = 0
        self._process = os.getpid()

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        await self._tracking.__aenter__()
        self._process = os.getpid()
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
        """What is kept takes, overhead included."""
        return self._table.size_bytes

    def peek(self, keys: Sequence[str], /) -> list[Any] | None:
        """Return what is kept under `keys`, in their order; None unless all of it is there and can be trusted."""
        now_s = time.monotonic()
        if now_s - self._tracking.heard_until_s > self._max_stale_s or os.getpid() != self._process:
            return None
        return self._table.get(keys, now_s)

    async def fetch(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys` from Redis in one round trip, and keep those that are there."""
        if not self._tracking.is_on:
            return await self._store.get(keys)
        since, started_s = self._moment, time.monotonic()
        self._reading += 1
        try:
            lasting = [key for key in keys if key.startswith(_ENTRIES)]
            values, lives_ms = await self._store.get_with_lives(keys, lasting)
            if since >= self._flushed_at:
                lives = dict(zip(lasting, lives_ms, strict=True))
                self._keep(zip(keys, values, strict=True), lives, since=since, started_s=started_s)
            return values
        finally:
            self._reading -= 1
            if not self._reading:
                self._touched.clear()

    def replace(self, key: str, value: bytes, decoded: object, size_bytes: int) -> None:
        """Keep what `value` of `key` was read as instead, unless it has changed meanwhile.

        Args:
            decoded: what `peek` gives from now on; shared by all who get it.
            size_bytes: what it takes.
        """
        self._table.replace(key, value, decoded, size_bytes)

    async def caught_up(self) -> bool:
        """Wait until nothing is given any more that was changed before this was called; False if nothing is given."""
        return await self._tracking.caught_up()

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys` from Redis, in one round trip; nothing is kept."""
        return await self._store.get(keys)

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Store `value`, for `ttl_s` seconds or until it is evicted."""
        try:
            await self._store.set(key, value, ttl_s=ttl_s)
        finally:
            self._changed(key)

    async def add(self, key: str, value: bytes) -> bytes:
        """Store `value` if `key` is unset; return what is stored now."""
        try:
            return await self._store.add(key, value)
        finally:
            self._changed(key)

    async def add_all(self, values: Mapping[str, bytes]) -> list[bytes]:
        """Do what `add` does for several keys, in one round trip; return what is stored, in their order."""
        try:
            return await self._store.add_all(values)
        finally:
            for key in values:
                self._changed(key)

    async def increment(self, amounts: Mapping[str, int], *, ttl_s: float) -> list[int]:
        """Add to counters that live `ttl_s` seconds; return what they then are, in the order of `amounts`."""
        try:
            return await self._store.increment(amounts, ttl_s=ttl_s)
        finally:
            for key in amounts:
                self._changed(key)

    async def delete(self, keys: Sequence[str], /) -> int:
        """Delete the keys without blocking the server; return how many there were."""
        try:
            return await self._store.delete(keys)
        finally:
            for key in keys:
                self._changed(key)

    async def scan(self, prefix: str, cursor: str = "", /) -> tuple[str, list[str]]:
        """Return the next cursor, empty at the end, and some keys that begin with `prefix`."""
        return await self._store.scan(prefix, cursor)

    async def ping(self) -> None:
        """Raise if the server does not answer."""
        await self._store.ping()

    def leases(self) -> RedisLeases:
        """Return the leases on this store's entries; open and close them inside the store's own life."""
        return self._store.leases(on_commit=self._changed)

    def _keep(self, found: Any, lives_ms: Mapping[str, int], *, since: int, started_s: float) -> None:
        for key, value in found:
            life_ms = lives_ms.get(key, -1)
            # -2: gone between the two commands, -1: for ever.
            if value is None or life_ms == -2 or self._touched.get(key, 0) > since:
                continue
            if key.startswith((_ENTRIES, _EPOCHS)):
                ends_s = float("inf") if life_ms < 0 else started_s + life_ms / 1000
                self._table.put(key, value, ends_s)

    def _changed(self, key: str) -> None:
        self._table.discard(key)
        if self._reading:
            self._moment += 1
            self._touched[key] = self._moment
            if len(self._touched) > _MAX_TOUCHED:
                self._touched.clear()
                self._flushed_at = self._moment

    def _changed_there(self, names: Sequence[bytes]) -> None:
        for name in names:
            self._changed(name.decode("utf-8", "replace"))

    def _flush(self) -> None:
        self._table.clear()
        self._moment += 1
        self._flushed_at = self._moment


class _NearSlot:
    """What is kept under one key."""

    __slots__ = ("ends_s", "size_bytes", "value")

    def __init__(self, value: object, size_bytes: int, ends_s: float) -> None:
        self.value = value
        self.size_bytes = size_bytes
        self.ends_s = ends_s


class _Table:
    """Keeps what was used last, within a bound of bytes and one of entries."""

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
            if slot.ends_s <= now_s:
                self.discard(key)
                return None
            found.append(slot.value)
        for key in keys:
            slots.move_to_end(key)
        return found

    def put(self, key: str, value: bytes, ends_s: float) -> None:
        self._put(key, _NearSlot(value, _OVERHEAD_BYTES + len(key) + len(value), ends_s))

    def replace(self, key: str, value: bytes, by: object, size_bytes: int) -> None:
        slot = self._slots.get(key)
        if slot is not None and slot.value is value:
            self._put(key, _NearSlot(by, _OVERHEAD_BYTES + len(key) + size_bytes, slot.ends_s))

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
