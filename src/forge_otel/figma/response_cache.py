"""L0: the cache of Figma responses, shared by all workers and revalidated by file version.

A response is served as it is for `fresh_s` after the last check of its file's version. After that the version is
requested, which is a cheap call, and the response is fetched again only if the file has changed. If Figma is
unavailable, rate-limits the token or exceeds the deadline, the cached response is served with its age. After one
timeout, requests with a cached copy are served stale at once until Figma responds again.

Two epochs of a file invalidate its entries: after `touch` the version is checked before the next response, after `drop`
everything is fetched again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson

from forge_otel.context import record_degraded
from forge_otel.errors import BadRequest, NotFound, ServiceTimeout, ServiceUnavailable
from forge_otel.figma.cache_storage import EPOCH_PREFIX, FigmaCacheStorage
from forge_otel.figma.outage import OutageDetector
from forge_otel.figma.request import FigmaRequest
from forge_otel.figma.response import MS, CachedState, FigmaOptions, FigmaRejected, FigmaResponse, FigmaThrottled
from forge_otel.figma.single_flight import SingleFlightGroup
from forge_otel.keys import digest
from forge_otel.resilience.fallback import Fallback, unavailable
from forge_otel.resilience.guard import Guard

__all__ = ["LAYER", "ResponseCache"]

LAYER: Final = "L0"
_STALE_LABEL: Final = "figma:stale"
# Figma's rate limits last for days: 4.6 days were observed.
_MAX_PAUSE_S: Final = 7 * 24 * 3600.0
# Replaces an entry that must not be served again: no epoch is empty.
_TOMBSTONE: Final = {"dropped": ""}

Fetch = Callable[[FigmaRequest], Awaitable[bytes]]
"""Requests a response from Figma; raises as `FigmaHttp.fetch`."""


class ResponseCache:
    """Serves requests from the cache, or from Figma.

    Args:
        storage: holds the responses.
        fetch: requests a response from Figma.
        guard: guards the requests.
        options: TTLs.
        clock_s: the wall clock, because entries are shared by processes.
    """

    def __init__(
        self,
        storage: FigmaCacheStorage,
        fetch: Fetch,
        guard: Guard,
        options: FigmaOptions,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._fetch = fetch
        self._guard = guard.using(fallbacks=[Fallback(_STALE_LABEL, self._serve_stale), unavailable("figma")])
        self._options = options
        self._clock_s = clock_s
        self._flights = SingleFlightGroup()
        self._outage = OutageDetector()

    async def get(self, request: FigmaRequest) -> FigmaResponse:
        """Return the response to `request`; concurrent equal requests share one call.

        Raises:
            NotFound: the file does not exist, or the token has no access to it.
            BadRequest: Figma does not accept the request.
            ServiceUnavailable: Figma is unavailable, and there is no cached copy.
        """
        state = await self._read_state(request)
        response = await self._read_entry(state, "hit") if state.is_fresh(request, self._options) else None
        if response is None:
            response = await self._refreshed(request, state)
        if response.source == "stale":
            record_degraded(_STALE_LABEL)
        return response

    async def touch(self, file_key: str) -> None:
        """Check the file's version before the next response, in all workers."""
        await self._storage.renew_epoch(_epoch_key("touched", file_key))

    async def drop(self, file_key: str) -> None:
        """Invalidate all responses of the file, in all workers."""
        await self._storage.renew_epoch(_epoch_key("dropped", file_key))

    async def _refreshed(self, request: FigmaRequest, state: CachedState) -> FigmaResponse:
        """Refresh the entry; in an outage the stale copy is served, and the refresh continues in the background."""
        refreshing = self._flights.start(state.flight_key(request.key), lambda: self._refresh(request))
        try:
            if state.entry is not None and not refreshing.done():
                await self._outage.wait(refreshing)
            if not refreshing.done() and (response := await self._read_entry(state, "stale")) is not None:
                return response
            return await asyncio.shield(refreshing)
        finally:
            # The traceback of the task's exception holds this frame; without `del` they form a reference cycle.
            del refreshing

    async def _refresh(self, request: FigmaRequest) -> FigmaResponse:
        # Read again: another worker may have fetched it since the first read.
        state = await self._read_state(request)
        if state.is_fresh(request, self._options) and (response := await self._read_entry(state, "hit")) is not None:
            return response
        if state.not_found is not None:
            raise NotFound(state.not_found)
        try:
            return await self._guard.call(self._revalidate_or_fetch, request, state)
        except NotFound as exc:
            negative_s = self._options.negative_s
            await self._storage.write_fact(_not_found_key(request), {"message": str(exc)}, ttl_s=negative_s)
            # After a loss of access the entry must not be served during an outage either.
            await self._storage.write_fact(_entry_key(request), _TOMBSTONE, ttl_s=negative_s)
            raise

    async def _revalidate_or_fetch(self, request: FigmaRequest, state: CachedState) -> FigmaResponse:
        version = state.checked_version(self._options)
        if version is None and self._needs_version(request, state):
            version = await self._current_version(request, state)
            if state.entry is not None and version is not None and state.entry["version"] == version:
                cached = await self._read_entry(state, "revalidated", age_s=0.0)
                if cached is not None:
                    return cached
        _check_pause(request, state)
        raw = await self._request(request)
        body = orjson.loads(raw)
        if not isinstance(body, dict):
            raise TypeError("Figma's response is not a JSON object")
        if isinstance(body.get("version"), str):
            version = body["version"]
        await self._write_entry(request, state, raw, version=version)
        return FigmaResponse(body=body, source="miss", reason=state.reason, size_bytes=len(raw))

    @staticmethod
    def _needs_version(request: FigmaRequest, state: CachedState) -> bool:
        if request.is_pinned or request.endpoint == "meta":
            return False
        is_checkable = state.entry is not None and state.entry["version"] is not None
        return is_checkable or not request.has_version

    async def _serve_stale(self, exc: Exception, _request: FigmaRequest, state: CachedState) -> FigmaResponse:
        if isinstance(exc, ServiceTimeout):
            self._outage.on_timeout()
        response = await self._read_entry(state, "stale")
        if response is None:
            raise ServiceUnavailable("there is no cached copy of this Figma file")
        return response

    async def _current_version(self, request: FigmaRequest, state: CachedState) -> str | None:
        """Request the version of the file; None if the token cannot read it, and the response is fetched instead."""
        meta = FigmaRequest(endpoint="meta", file_key=request.file_key, scope=request.scope)
        if state.pauses_s["meta"]:
            if state.entry is not None:
                _check_pause(meta, state)
            return None
        flight_key = state.flight_key(_version_key(request))
        version = await self._flights.call(flight_key, lambda: self._request_version(meta))
        if version is not None:
            await self._write_version(request, state, version)
        return version

    async def _request_version(self, meta: FigmaRequest) -> str | None:
        try:
            body = orjson.loads(await self._request(meta))
        except (NotFound, BadRequest, FigmaRejected):
            # A token may have access to a file but not to its metadata.
            return None
        version = body.get("version") if isinstance(body, dict) else None
        return version if isinstance(version, str) else None

    async def _request(self, request: FigmaRequest) -> bytes:
        try:
            raw = await self._fetch(request)
        except FigmaThrottled as exc:
            self._outage.on_response()
            await self._write_pause(request, min(exc.retry_after_s, _MAX_PAUSE_S))
            raise
        except FigmaRejected:
            self._outage.on_response()
            if request.endpoint != "meta":
                await self._write_pause(request, self._options.negative_s)
            raise
        self._outage.on_response()
        return raw

    async def _read_state(self, request: FigmaRequest) -> CachedState:
        epochs = _epoch_key("dropped", request.file_key), _epoch_key("touched", request.file_key)
        tiers = dict.fromkeys((request.tier, "meta"))
        keys = [_entry_key(request), _not_found_key(request), _version_key(request), *epochs]
        facts = await self._storage.read_facts([*keys, *(_pause_key(request.scope, tier) for tier in tiers)])
        entry, not_found, version_check, *rest = facts
        drop_epoch, touch_epoch = [
            str(fact["epoch"]) if fact is not None else await self._storage.epoch(key)
            for fact, key in zip(rest[:2], epochs, strict=True)
        ]
        now_ms = self._now_ms()
        reason = "cold" if entry is None else "version"
        if entry is not None and entry["dropped"] != drop_epoch:
            entry, reason = None, "epoch"
        return CachedState(
            entry=entry,
            version_check=version_check,
            drop_epoch=drop_epoch,
            touch_epoch=touch_epoch,
            not_found=None if not_found is None else str(not_found["message"]),
            pauses_s={tier: _remaining_pause_s(fact, now_ms) for tier, fact in zip(tiers, rest[2:], strict=True)},
            reason=reason,
            now_ms=now_ms,
        )

    async def _read_entry(self, state: CachedState, source: str, *, age_s: float | None = None) -> FigmaResponse | None:
        """Return the cached response, or None if there is none or its body is missing."""
        entry = state.entry
        raw = None if entry is None else await self._storage.read_body(entry["body"])
        if raw is None:
            return None
        age_s = state.age_s() if age_s is None else age_s
        return FigmaResponse(body=orjson.loads(raw), source=source, age_s=age_s, size_bytes=len(raw))

    async def _write_entry(self, request: FigmaRequest, state: CachedState, raw: bytes, *, version: str | None) -> None:
        keep_s = self._options.keep_s
        now_ms = self._now_ms()
        entry = {
            "at": now_ms,
            "version": version,
            # The epochs from before the request: an invalidation during it applies to this entry too.
            "dropped": state.drop_epoch,
            "touched": state.touch_epoch,
            "body": await self._storage.write_body(raw, ttl_s=keep_s),
        }
        await self._storage.write_fact(_entry_key(request), entry, ttl_s=keep_s)
        if version is not None and not request.is_pinned and request.has_version:
            await self._write_version(request, state, version)

    async def _write_version(self, request: FigmaRequest, state: CachedState, version: str) -> None:
        check = {"at": self._now_ms(), "version": version, "touched": state.touch_epoch}
        await self._storage.write_fact(_version_key(request), check, ttl_s=self._options.keep_s)

    async def _write_pause(self, request: FigmaRequest, pause_s: float) -> None:
        pause = {"until": self._now_ms() + round(pause_s * MS), "for_s": pause_s}
        await self._storage.write_fact(_pause_key(request.scope, request.tier), pause, ttl_s=max(pause_s, 1.0))

    def _now_ms(self) -> int:
        return round(self._clock_s() * MS)


def _check_pause(request: FigmaRequest, state: CachedState) -> None:
    pause_s = state.pauses_s[request.tier]
    if pause_s:
        raise ServiceUnavailable(f"Figma requested a pause of {pause_s:.0f} s more", retry_after_s=pause_s)


def _remaining_pause_s(pause: Mapping[str, Any] | None, now_ms: int) -> float:
    """Return the remaining seconds of a pause, at most its length: the wall clock may jump back."""
    return 0.0 if pause is None else min(max(0.0, (pause["until"] - now_ms) / MS), pause["for_s"])


def _entry_key(request: FigmaRequest) -> str:
    return f"forge:l0:entry:{request.key}"


def _not_found_key(request: FigmaRequest) -> str:
    return f"forge:l0:absent:{request.key}"


def _version_key(request: FigmaRequest) -> str:
    return f"forge:l0:version:{digest([request.scope, request.file_key])}"


def _pause_key(scope: str, tier: str) -> str:
    return f"forge:l0:pause:{digest([scope, tier])}"


def _epoch_key(kind: str, file_key: str) -> str:
    return f"{EPOCH_PREFIX}{digest([kind, file_key])}"
