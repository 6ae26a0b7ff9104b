"""L1, the exact cache: equal requests get the same answer until one of its tags is invalidated.

A hit takes one round trip: the entry and the versions of its tags are read together. An entry stores the tag versions
under which it was made; a new version of a tag invalidates every entry under it. An unavailable store and an entry that
is damaged, foreign or sealed with another secret are misses with a reason, never errors.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar

from opentelemetry import trace

from forge_otel._internal.bounded import BoundedMap
from forge_otel._internal.checks import require
from forge_otel._internal.frames import DamagedFrame
from forge_otel.context import record_degraded
from forge_otel.layers.exact import miss_reasons
from forge_otel.layers.exact.entry import CacheEntry, seal, unseal
from forge_otel.layers.exact.near_hits import NearHitCache
from forge_otel.layers.exact.purge import ENTRY_PREFIX, Purger
from forge_otel.layers.exact.read_coalescing import ReadCoalescer
from forge_otel.layers.exact.tag_versions import TagVersions, new_tag_version, tag_version_key, tags_of
from forge_otel.layers.exact.write_behind import WriteBehindQueue
from forge_otel.layers.metrics import record_duration, record_lookup
from forge_otel.layers.result_copies import ResultCopies
from forge_otel.names import Attr, Metric
from forge_otel.resilience.event_loop_lag import LoopLagMonitor
from forge_otel.resilience.guard import unguarded
from forge_otel.resilience.time_budget import TimeBudget, budgeted, current_time_budget
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Call, CallNext, Reply, Store
from forge_otel.types.capabilities import CostAware, SupportsBatchAdd, SupportsNearReads

__all__ = ["CacheMiss", "ExactCacheLayer", "ExactCacheOptions", "entry_key"]

_logger = logging.getLogger(__name__)

T = TypeVar("T")
Guarded = Callable[..., Awaitable[Any]]
Commit = Callable[[bytes, float | None], Awaitable[bool | None]]

# Hashing and inflating more than this blocks the event loop for more than a few milliseconds.
_THREAD_ABOVE_BYTES: Final = 512 * 1024
LAYER: Final = "L1"
_SKIPPED: Final = {
    "too_large": "they are larger than FORGE_CACHE_MAX_ENTRY_BYTES (too_large)",
    "not_serialisable": "their metadata or texts have no JSON form (not_serialisable)",
}
_MAX_REPORTED: Final = 256
_SAVED: Final = {Attr.CACHE_LAYER: LAYER}
COLLAPSED: Final = "collapsed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactCacheOptions:
    """Tunables of the exact cache.

    Args:
        secret: key that authenticates entries.
        ttl_s: TTL of an entry in seconds; None keeps it until it is evicted.
        max_entry_bytes: size above which an answer is not stored.
        pipeline_version: a tag of every entry, and part of the miss reasons.
        time_budget_s: seconds that one call may wait for the store in total; None limits each step only.

    Raises:
        ConfigurationError: an option is out of range.
    """

    secret: bytes = field(repr=False)
    ttl_s: float | None = None
    max_entry_bytes: int = 8 * 2**20
    pipeline_version: str = ""
    time_budget_s: float | None = None

    def __post_init__(self) -> None:
        require(
            (self.ttl_s is None or self.ttl_s > 0, "ttl_s must be positive"),
            (self.max_entry_bytes > 0, "max_entry_bytes must be positive"),
            (self.time_budget_s is None or self.time_budget_s > 0, "time_budget_s must be positive"),
        )


@dataclass(frozen=True, slots=True)
class CacheMiss:
    """A lookup without an entry.

    Args:
        reason: why there is none, for example `cold`, `epoch` or `backend_down`.
        tag_versions: versions of the call's tags; empty if the store is unavailable.
    """

    reason: str
    tag_versions: Mapping[str, str]


class ExactCacheLayer:
    """The L1 layer.

    Args:
        store: holds the entries.
        options: TTL, limits and secret.
        instruments: receive hits, misses and durations.
        guard: `await guard(function, *args, **kwargs)` calls the store within its deadline and breaker.
        degraded_label: recorded as `degraded` if the store is unavailable.
        loop_lag: measures stalls of the event loop, which are not charged to the time budget.
    """

    def __init__(
        self,
        store: Store,
        options: ExactCacheOptions,
        *,
        instruments: Instruments,
        guard: Guarded = unguarded,
        degraded_label: str = "cache:uncached",
        loop_lag: LoopLagMonitor | None = None,
    ) -> None:
        self._store = store
        self._options = options
        self._instruments = instruments
        self._guard = guard
        self._degraded_label = degraded_label
        self._loop_lag = loop_lag or LoopLagMonitor()
        self.purger = Purger(store, invalidate=self.invalidate, guard=guard, secret=options.secret)
        self.write_behind = WriteBehindQueue()
        self._reported: BoundedMap[tuple[str, str], None] = BoundedMap(_MAX_REPORTED)
        near = store if isinstance(store, SupportsNearReads) else None
        self._near = None if near is None else NearHitCache(near, instruments=instruments)
        get = partial(guard, store.get if near is None else near.fetch)
        # In a cluster the keys of several entries live on several servers, and a batched read would wait for all.
        self._get = budgeted(ReadCoalescer(get) if isinstance(store, SupportsBatchAdd) else get)
        self._cost_aware = store if isinstance(store, CostAware) else None
        self._create_tag_versions = budgeted(TagVersions(store, guard=guard).create_missing)

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer from the store, or store the answer of the inner layers."""
        if self._options.time_budget_s is None:
            return await self._answer(call, call_next)
        token = current_time_budget.set(TimeBudget(self._options.time_budget_s, self._loop_lag))
        try:
            return await self._answer(call, call_next)
        finally:
            current_time_budget.reset(token)

    async def _answer(self, call: Call, call_next: CallNext) -> Reply:
        started = time.perf_counter()
        found, history = await self._explain(call, await self.lookup(call))
        reason = None if isinstance(found, CacheEntry) else found.reason
        record_lookup(self._instruments, LAYER, time.perf_counter() - started, reason=reason)
        if isinstance(found, CacheEntry):
            return _reply(found)
        if reason == "backend_down":
            record_degraded(self._degraded_label)
        slot = _ExactSlot(self, call, found.tag_versions, history)
        reply = await call_next(replace(call, cache_slot=slot))
        # Single flight has stored the answer already, in this process or in another one.
        if slot.is_used or reply.source == COLLAPSED:
            return reply
        return replace(reply, is_stored=await slot.store(reply))

    async def invalidate(self, tag: str) -> None:
        """Invalidate every entry under a tag.

        Args:
            tag: one that `tags_of` returns, for example `figma:<key>`, `type:button` or `all`.

        Raises:
            ForgeError or the store's own error: the store is unavailable; nothing was invalidated.
        """
        await self._guard(self._store.set, tag_version_key(tag), new_tag_version())

    async def _explain(
        self, call: Call, found: CacheEntry | CacheMiss
    ) -> tuple[CacheEntry | CacheMiss, list[miss_reasons.Fingerprint]]:
        """Refine the reason of a cold miss by the history, which takes a second read."""
        if isinstance(found, CacheEntry) or found.reason != "cold":
            return found, []
        try:
            (blob,) = await self._get([miss_reasons.history_key(call)])
        except Exception:
            return found, []
        # A damaged history is empty: it can cost the reason, never the answer.
        history, options = miss_reasons.unpack(blob), self._options
        reason = miss_reasons.explain(
            history, call, version=options.pipeline_version, now_s=time.time(), ttl_s=options.ttl_s
        )
        return replace(found, reason=reason), history

    async def remember(self, call: Call, history: list[miss_reasons.Fingerprint], *, not_stored: str = "") -> None:
        """Add a call to its history, for the reasons of later misses."""
        version = self._options.pipeline_version
        history = miss_reasons.remember(history, call, version=version, now_s=time.time(), not_stored=not_stored)
        # Outlives the entries, so that it can tell an expired entry from one that never existed.
        ttl_s = None if self._options.ttl_s is None else 2 * self._options.ttl_s
        with suppress(Exception):
            await self._guard(self._store.set, miss_reasons.history_key(call), miss_reasons.pack(history), ttl_s=ttl_s)

    async def lookup(self, call: Call) -> CacheEntry | CacheMiss:
        """Look an entry up in this process, then in the store, without recording the lookup."""
        tags = tags_of(call, version=self._options.pipeline_version)
        keys = [entry_key(call.key), *map(tag_version_key, tags)]
        near = self._near and self._near.find(keys)
        return near or await self._lookup_in_store(call, keys, tags)

    async def _lookup_in_store(self, call: Call, keys: list[str], tags: list[str]) -> CacheEntry | CacheMiss:
        try:
            blob, *raw_versions = await self._get(keys)
            is_complete = None not in raw_versions
            if not is_complete:
                raw_versions = await self._complete(tags, raw_versions)
        except Exception:
            # Any error of the store is a miss: the pipeline can still answer.
            return CacheMiss("backend_down", {})
        versions = {tag: version.decode("ascii", "replace") for tag, version in zip(tags, raw_versions, strict=True)}
        if not is_complete:
            # A lost tag version may have been changed before it was lost, so the entry cannot be trusted.
            return CacheMiss("cold" if blob is None else "epoch", versions)
        if blob is None:
            return CacheMiss("cold", versions)
        try:
            entry = await self.unseal(call, blob)
        except DamagedFrame:
            return CacheMiss("corrupt", versions)
        if entry.tag_versions != versions:
            return CacheMiss("epoch", versions)
        self._instruments.add_later(Metric.CACHE_BYTES_SAVED, len(blob), _SAVED)
        if self._near is not None:
            self._near.keep(keys[0], blob, entry, raw_versions)
        return entry

    async def _complete(self, tags: list[str], found: list[bytes | None]) -> list[bytes]:
        missing = [tag for tag, version in zip(tags, found, strict=True) if version is None]
        created = dict(zip(missing, await self._create_tag_versions(missing), strict=True))
        return [created[tag] if version is None else version for tag, version in zip(tags, found, strict=True)]

    async def unseal(self, call: Call, blob: bytes) -> CacheEntry:
        """Verify and decode an entry of `call`.

        Raises:
            DamagedFrame: the entry is damaged, forged, or sealed for another key.
        """
        return await self._off_loop(len(blob), unseal, blob, key=call.key, secret=self._options.secret)

    async def store(self, call: Call, reply: Reply, tag_versions: Mapping[str, str], *, ttl_s: float) -> bool:
        """Store an answer and return whether it was written within the caller's time budget.

        Args:
            call: its key names the entry.
            reply: the answer.
            tag_versions: versions of the call's tags before the answer was made.
            ttl_s: TTL of the entry in seconds.
        """
        reply = replace(reply, result=ResultCopies(reply.result).copy())
        return await self.write_behind.write(partial(self.write, call, reply, tag_versions, ttl_s=ttl_s))

    async def write(
        self,
        call: Call,
        reply: Reply,
        tag_versions: Mapping[str, str],
        *,
        commit: Commit | None = None,
        ttl_s: float | None = None,
        on_skip: Callable[[str], None] | None = None,
    ) -> bool:
        """Seal and write an entry regardless of the caller's time budget; return whether it was written.

        Args:
            call, reply, tag_versions: as for `store`.
            commit: as for `forge_otel.types.CacheSlot.store`.
            ttl_s: TTL of the entry in seconds; None uses the option's.
            on_skip: receives the reason why the answer cannot be stored.
        """
        # Checked before sealing, so that a huge answer is not serialised for nothing.
        result, max_bytes = reply.result, self._options.max_entry_bytes
        size_bytes = sum(map(len, result.artifacts.values())) + len(result.code) + len(result.report_html or "")
        if size_bytes > max_bytes:
            self._report_skip(call, "too_large", on_skip)
            return False
        sealing = partial(seal, reply, key=call.key, tag_versions=tag_versions, secret=self._options.secret)
        created_ms = time.time_ns() // 1_000_000
        started = time.perf_counter()
        try:
            blob = await self._off_loop(size_bytes, sealing, created_ms=created_ms)
        except (TypeError, ValueError):
            self._report_skip(call, "not_serialisable", on_skip)
            return False
        if len(blob) > max_bytes:
            self._report_skip(call, "too_large", on_skip)
            return False
        try:
            # A lease holder writes through its lease, which refuses the entry after a takeover.
            ttl_s = self._options.ttl_s if ttl_s is None else ttl_s
            is_written = None if commit is None else await commit(blob, ttl_s)
            if is_written is not None:
                return is_written
            set_entry = self._setter(reply, tag_versions)
            await self._guard(set_entry, entry_key(call.key), blob, ttl_s=ttl_s)
        except Exception:
            record_degraded(self._degraded_label)
            return False
        finally:
            record_duration(self._instruments, LAYER, "set", time.perf_counter() - started)
        return True

    def _report_skip(self, call: Call, reason: str, on_skip: Callable[[str], None] | None) -> None:
        """Report why the answer is not stored, on the generation's span and once for each pipeline in the log."""
        span = trace.get_current_span()
        # A background write may outlive the span.
        if span.is_recording():
            span.set_attribute(Attr.CACHE_STORE_SKIPPED, reason)
        if on_skip is not None:
            on_skip(reason)
        if (call.pipeline, reason) not in self._reported:
            self._reported[call.pipeline, reason] = None
            _logger.warning(
                "answers of the pipeline %r are not cached, each request generates again: %s",
                call.pipeline,
                _SKIPPED[reason],
            )

    def _setter(self, reply: Reply, tag_versions: Iterable[str]) -> Callable[..., Awaitable[None]]:
        # An unknown cost is 0 here, which does not mean that the answer was cheap.
        if self._cost_aware is None or not reply.cost_usd:
            return self._store.set
        depends_on = [tag_version_key(tag) for tag in tag_versions]
        return partial(self._cost_aware.set_with_cost, cost_usd=float(reply.cost_usd), depends_on=depends_on)

    @staticmethod
    async def _off_loop(size_bytes: int, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        if size_bytes > _THREAD_ABOVE_BYTES:
            return await asyncio.to_thread(function, *args, **kwargs)
        return function(*args, **kwargs)


class _ExactSlot:
    """The cache slot of one call; see `forge_otel.types.CacheSlot`."""

    def __init__(
        self,
        exact: ExactCacheLayer,
        call: Call,
        tag_versions: Mapping[str, str],
        history: list[miss_reasons.Fingerprint],
    ) -> None:
        self._exact = exact
        self._call = call
        self._tag_versions = tag_versions
        self._history = history
        self._writing: asyncio.Task[bool] | None = None
        self.is_used = False
        """True once an inner layer has offered the answer."""

    @property
    def is_available(self) -> bool:
        return bool(self._tag_versions)

    async def lookup(self, value: bytes | None = None) -> Reply | None:
        found = await self._exact.lookup(self._call)
        if isinstance(found, CacheEntry):
            return _reply(found)
        if value is None:
            # Read before the pipeline starts, so that an invalidation during the run is not missed.
            self._tag_versions = found.tag_versions or self._tag_versions
            return None
        if not found.tag_versions or found.tag_versions != self._tag_versions:
            return None
        try:
            reply = _reply(await self._exact.unseal(self._call, value))
        except DamagedFrame:
            return None
        # Sealed under the tag versions of the other process's own cache; stored here under those of this one.
        await self.store(reply)
        return reply

    async def store(self, reply: Reply, *, commit: Commit | None = None) -> bool:
        self.is_used = True
        # An L2 hit is already stored, under the key of the earlier request.
        if not self.is_available or reply.source == "L2":
            return False
        if current_time_budget.get() is None:
            return await self._write(reply, commit)
        # The write may be queued until after the caller has the answer, and may change it.
        write = partial(self._write, replace(reply, result=ResultCopies(reply.result).copy()), commit)
        self._writing = self._exact.write_behind.start(write)
        return await self._exact.write_behind.wait(self._writing)

    async def wait_written(self) -> None:
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write(self, reply: Reply, commit: Commit | None) -> bool:
        skipped: list[str] = []
        write = partial(self._exact.write, commit=commit, on_skip=skipped.append)
        is_written = await write(self._call, reply, self._tag_versions)
        if is_written or skipped:
            await self._exact.remember(self._call, self._history, not_stored="".join(skipped))
        return is_written


def _reply(entry: CacheEntry) -> Reply:
    return Reply(
        result=entry.result,
        source=LAYER,
        cost_usd=entry.cost_usd,
        origin_id=entry.origin_id,
        age_s=max(0.0, time.time() - entry.created_ms / 1000),
    )


def entry_key(key: str) -> str:
    """Return the store's key of the entry for calls with `key`."""
    return ENTRY_PREFIX + key
