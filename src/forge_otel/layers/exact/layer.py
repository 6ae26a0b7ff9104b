"""L1, the exact cache: the same request in the same state of the world has the same answer.

One round trip on the hit path: the entry and the epochs of its tags are read together. An entry remembers the epochs
that it was made under; changing a tag's epoch makes every entry under it a miss at once, however many there are. A
store that is down, an entry that is damaged, foreign or made with another secret is a miss with a reason, never an
error and never a wrong answer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from opentelemetry import trace

from forge_otel._internal.frames import DamagedFrame
from forge_otel.context import record_degraded
from forge_otel.layers.cache_metrics import record_duration, record_lookup
from forge_otel.layers.exact import miss_reasons
from forge_otel.layers.exact.entry import CacheEntry, seal, unseal
from forge_otel.layers.exact.near_cache import NearHitCache
from forge_otel.layers.exact.purge import ENTRY_PREFIX, Purger
from forge_otel.layers.exact.read_coalescing import ReadCoalescer
from forge_otel.layers.exact.tag_versions import TagVersions, epoch_key, new_epoch, tags_of
from forge_otel.layers.exact.write_behind import WriteBehindQueue
from forge_otel.names import Attr, Metric
from forge_otel.resilience.time_budget import TimeBudget, budgeted, current_patience
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Call, CallNext, Reply, Store
from forge_otel.types.capabilities import CostAware, SingleServer, SupportsNearReads

__all__ = ["ExactCacheLayer", "entry_key", "tags_of", "unguarded"]

T = TypeVar("T")
Guarded = Callable[..., Awaitable[Any]]
Commit = Callable[[bytes, float | None], Awaitable[bool | None]]

# Hashing and inflating more than this would hold the event loop for more than a few milliseconds.
_THREAD_ABOVE_BYTES: Final = 512 * 1024
LAYER: Final = "L1"
# Points are recorded when metrics are collected, so that a hit does not wait for them.
_SAVED: Final = {Attr.CACHE_LAYER: LAYER}
COLLAPSED: Final = "collapsed"


@dataclass(frozen=True, slots=True)
class _Miss:
    reason: str
    epochs: Mapping[str, str]


async def unguarded(call: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
    """Call a store that is in this process."""
    return await call(*args, **kwargs)


class ExactCacheLayer:
    """The L1 layer.

    Args:
        store: where entries live.
        instruments: where hits, misses and durations are counted.
        secret: authenticates entries.
        ttl_s: life of an entry in seconds, or None.
        max_entry_bytes: a larger answer is not stored.
        guard: `await guard(function, *args, **kwargs)` calls the store within its deadline and breaker.
        without_it: what `degraded` says where the store could not be asked.
        pipeline_version: a tag of every entry, and part of what a miss is explained by.
        patience_s: how long a call waits for the store in all; None: for as long as each step takes.
    """

    def __init__(
        self,
        store: Store,
        *,
        instruments: Instruments,
        secret: bytes,
        ttl_s: float | None = None,
        max_entry_bytes: int = 8 * 2**20,
        guard: Guarded = unguarded,
        without_it: str = "cache:uncached",
        pipeline_version: str = "",
        patience_s: float | None = None,
    ) -> None:
        self._store = store
        self._instruments = instruments
        self._secret = secret
        self._ttl_s = ttl_s
        self._max_entry_bytes = max_entry_bytes
        self._guard = guard
        self._without_it = without_it
        self._version = pipeline_version
        self.purger = Purger(store, invalidate=self.invalidate, guard=guard, secret=secret)
        self._patience_s = patience_s
        self.writes = WriteBehindQueue()
        near = store if isinstance(store, SupportsNearReads) else None
        self._near = None if near is None else NearHitCache(near, instruments=instruments)
        get = partial(guard, store.get if near is None else near.fetch)
        # In a cluster the keys of several answers are on several servers.
        self._get = budgeted(ReadCoalescer(get) if isinstance(store, SingleServer) and store.is_one_server else get)
        self._cost_aware = store if isinstance(store, CostAware) else None
        self._make_epochs = budgeted(TagVersions(store, guard=guard).make)

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer from the store, or store what the inner layers answer."""
        if self._patience_s is None:
            return await self._answer(call, call_next)
        token = current_patience.set(TimeBudget(self._patience_s))
        try:
            return await self._answer(call, call_next)
        finally:
            current_patience.reset(token)

    async def _answer(self, call: Call, call_next: CallNext) -> Reply:
        started = time.perf_counter()
        found, notes = await self._explained(call, await self.look_up(call))
        reason = None if isinstance(found, CacheEntry) else found.reason
        record_lookup(self._instruments, LAYER, time.perf_counter() - started, reason=reason)
        if isinstance(found, CacheEntry):
            return _reply(found)
        if reason == "backend_down":
            record_degraded(self._without_it)
        cache_slot = _ExactSlot(self, call, found.epochs, notes)
        reply = await call_next(replace(call, cache_slot=cache_slot))
        if cache_slot.is_settled or reply.source == COLLAPSED:
            return reply
        return replace(reply, is_stored=await cache_slot.put(reply))

    async def invalidate(self, tag: str) -> None:
        """Make every entry under `tag` a miss from now on.

        Args:
            tag: one of `tags_of`, for example `figma:<key>`, `type:button` or `all`.

        Raises:
            ForgeError or the store's own error: the store could not be asked, nothing was invalidated.
        """
        await self._guard(self._store.set, epoch_key(tag), new_epoch())

    async def _explained(
        self, call: Call, found: CacheEntry | _Miss
    ) -> tuple[CacheEntry | _Miss, list[miss_reasons.Note]]:
        """Say what differs from the nearest earlier request; a second look that only a cold miss takes."""
        if isinstance(found, CacheEntry) or found.reason != "cold":
            return found, []
        try:
            (blob,) = await self._get([miss_reasons.hint_key(call)])
        except Exception:
            return found, []
        notes = miss_reasons.unpack(blob)
        reason = miss_reasons.reason_of(notes, call, version=self._version, now_s=time.time(), ttl_s=self._ttl_s)
        return replace(found, reason=reason), notes

    async def leave_note(self, call: Call, notes: list[miss_reasons.Note]) -> None:
        """Remember what was stored, for the reasons of later misses."""
        notes = miss_reasons.remember(notes, call, version=self._version, now_s=time.time())
        with suppress(Exception):
            # Longer than the entries, so that it can say that one has expired.
            ttl_s = None if self._ttl_s is None else 2 * self._ttl_s
            await self._guard(self._store.set, miss_reasons.hint_key(call), miss_reasons.pack(notes), ttl_s=ttl_s)

    async def look_up(self, call: Call) -> CacheEntry | _Miss:
        """Ask near by, then the store, and count no look-up."""
        tags = tags_of(call.request, version=self._version)
        keys = [entry_key(call.key), *map(epoch_key, tags)]
        near = self._near and self._near.find(keys)
        return near or await self._ask(call, keys, tags)

    async def _ask(self, call: Call, keys: list[str], tags: list[str]) -> CacheEntry | _Miss:
        try:
            blob, *raw_epochs = await self._get(keys)
            is_complete = None not in raw_epochs
            if not is_complete:
                raw_epochs = await self._completed(tags, raw_epochs)
        except Exception:
            return _Miss("backend_down", {})
        epochs = {tag: epoch.decode("ascii", "replace") for tag, epoch in zip(tags, raw_epochs, strict=True)}
        if not is_complete:
            # An epoch that is gone reads as unknown, never as equal.
            return _Miss("cold" if blob is None else "epoch", epochs)
        if blob is None:
            return _Miss("cold", epochs)
        try:
            entry = await self.open(call, blob)
        except DamagedFrame:
            return _Miss("corrupt", epochs)
        if entry.epochs != epochs:
            return _Miss("epoch", epochs)
        self._instruments.add_later(Metric.CACHE_BYTES_SAVED, len(blob), _SAVED)
        if self._near is not None:
            self._near.keep(keys[0], blob, entry, raw_epochs)
        return entry

    async def _completed(self, tags: list[str], found: list[bytes | None]) -> list[bytes]:
        missing = [tag for tag, epoch in zip(tags, found, strict=True) if epoch is None]
        made = dict(zip(missing, await self._make_epochs(missing), strict=True))
        return [made[tag] if epoch is None else epoch for tag, epoch in zip(tags, found, strict=True)]

    async def open(self, call: Call, blob: bytes) -> CacheEntry:
        """Read an entry that did not come from the store.

        Raises:
            DamagedFrame: it is none of this key and secret.
        """
        return await self._off_loop(len(blob), unseal, blob, key=call.key, secret=self._secret)

    async def keep(self, call: Call, reply: Reply, epochs: Mapping[str, str], *, ttl_s: float) -> bool:
        """Store the answer and say whether it is known to be; one that cannot be stored was still answered.

        Args:
            call: what was asked.
            reply: the answer.
            epochs: that it was made under.
            ttl_s: life of the entry in seconds.
        """
        return await self.writes.run(partial(self.write, call, reply, epochs, ttl_s=ttl_s))

    async def write(
        self,
        call: Call,
        reply: Reply,
        epochs: Mapping[str, str],
        *,
        commit: Commit | None = None,
        ttl_s: float | None = None,
    ) -> bool:
        """Do what `keep` does, for as long as it takes.

        Args:
            call, reply, epochs: as of `keep`.
            commit: as of `forge_otel.types.CacheSlot.put`.
            ttl_s: life of the entry in seconds; that of the cache where it is left out.
        """
        result = reply.result
        size_bytes = sum(map(len, result.artifacts.values())) + len(result.code) + len(result.report_html or "")
        if size_bytes > self._max_entry_bytes:
            _skipped("too_large")
            return False
        created_ms = time.time_ns() // 1_000_000
        started = time.perf_counter()
        try:
            blob = await self._off_loop(
                size_bytes, seal, reply, key=call.key, epochs=epochs, created_ms=created_ms, secret=self._secret
            )
        except (TypeError, ValueError):
            _skipped("not_serialisable")
            return False
        if len(blob) > self._max_entry_bytes:
            _skipped("too_large")
            return False
        try:
            is_written = None if commit is None else await commit(blob, self._ttl_s)
            if is_written is not None:
                return is_written
            await self._guard(self._setter(reply, epochs), entry_key(call.key), blob, ttl_s=ttl_s or self._ttl_s)
        except Exception:
            record_degraded(self._without_it)
            return False
        finally:
            record_duration(self._instruments, LAYER, "set", time.perf_counter() - started)
        return True

    def _setter(self, reply: Reply, epochs: Iterable[str]) -> Callable[..., Awaitable[None]]:
        # An unknown cost is 0 here, which does not mean that the answer was cheap.
        if self._cost_aware is None or not reply.cost_usd:
            return self._store.set
        depends_on = [epoch_key(tag) for tag in epochs]
        return partial(self._cost_aware.set_with_cost, cost_usd=float(reply.cost_usd), depends_on=depends_on)

    @staticmethod
    async def _off_loop(size_bytes: int, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        if size_bytes > _THREAD_ABOVE_BYTES:
            return await asyncio.to_thread(function, *args, **kwargs)
        return function(*args, **kwargs)


class _ExactSlot:
    """The place of one call's answer; see `forge_otel.types.CacheSlot`."""

    def __init__(
        self, exact: ExactCacheLayer, call: Call, epochs: Mapping[str, str], notes: list[miss_reasons.Note]
    ) -> None:
        self._exact = exact
        self._call = call
        self._epochs = epochs
        self._notes = notes
        self._writing: asyncio.Task[bool] | None = None
        self.is_settled = False

    @property
    def is_known(self) -> bool:
        return bool(self._epochs)

    async def find(self, value: bytes | None = None) -> Reply | None:
        found = await self._exact.look_up(self._call)
        if isinstance(found, CacheEntry):
            return _reply(found)
        if value is None:
            # Read before the answer is begun, so that no invalidation from now on is missed.
            self._epochs = found.epochs or self._epochs
            return None
        if not found.epochs or found.epochs != self._epochs:
            return None
        try:
            reply = _reply(await self._exact.open(self._call, value))
        except DamagedFrame:
            return None
        # It was made under the epochs of another process's cache; from here on it stands under ours.
        await self.put(reply)
        return reply

    async def put(self, reply: Reply, *, commit: Commit | None = None) -> bool:
        self.is_settled = True
        # What L2 found is kept already, under the key of the question that was asked first.
        if not self.is_known or reply.source == "L2":
            return False
        write = partial(self._write, reply, commit)
        if current_patience.get() is None:
            return await write()
        self._writing = self._exact.writes.begin(write)
        return await self._exact.writes.wait(self._writing)

    async def settled(self) -> None:
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write(self, reply: Reply, commit: Commit | None) -> bool:
        is_kept = await self._exact.write(self._call, reply, self._epochs, commit=commit)
        if is_kept:
            await self._exact.leave_note(self._call, self._notes)
        return is_kept


def _reply(entry: CacheEntry) -> Reply:
    return Reply(
        result=entry.result,
        source=LAYER,
        cost_usd=entry.cost_usd,
        origin_id=entry.origin_id,
        age_s=max(0.0, time.time() - entry.created_ms / 1000),
    )


def _skipped(reason: str) -> None:
    """Say on the generation's span why its answer was not kept; the reason of the miss stays what it was."""
    span = trace.get_current_span()
    if span.is_recording():
        # It has ended where the answer is written behind its caller.
        span.set_attribute(Attr.CACHE_STORE_SKIPPED, reason)


def entry_key(key: str) -> str:
    """Return the store's key of the answer to calls of `key`."""
    return ENTRY_PREFIX + key
