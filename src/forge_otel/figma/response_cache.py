"""L0: the cache of Figma responses, shared by all workers and revalidated by file version.

A response is served as it is for `fresh_s` after the last check of its file's version. After that the version is
requested, which is a cheap call, and the response is fetched again only if the file has changed. If Figma is
unavailable, rate-limits the token or exceeds the deadline, the cached response is served with its age.

The wait of a caller and the fetch are two times, because large files take Figma up to a minute. After `wait_s` the
caller gets a stale copy, or `FetchInProgress` with the time after which to ask again; the fetch continues and its
response is kept. After one such wait, requests with a cached copy are served stale at once until Figma responds again.

Two epochs of a file invalidate its entries: after `touch` the version is checked before the next response, after `drop`
everything is fetched again.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from forge_otel._internal.bounded import BoundedMap
from forge_otel._internal.tasks import abandon
from forge_otel.context import record_degraded
from forge_otel.errors import BadRequest, FetchInProgress, ForgeError, NotFound, ServiceTimeout, ServiceUnavailable
from forge_otel.figma.cache_storage import EPOCH_PREFIX, FigmaCacheStorage
from forge_otel.figma.fetch_claims import FetchClaims
from forge_otel.figma.outage import OutageDetector
from forge_otel.figma.request import FigmaRequest
from forge_otel.figma.response import MS, CachedState, FigmaOptions, FigmaRejected, FigmaResponse, FigmaThrottled
from forge_otel.figma.single_flight import SingleFlightGroup
from forge_otel.keys import digest
from forge_otel.resilience.deadline import remaining_s
from forge_otel.resilience.fallback import Fallback, unavailable
from forge_otel.resilience.guard import Guard
from forge_otel.resilience.retry import Verdict, classify

__all__ = ["LAYER", "ResponseCache"]

LAYER: Final = "L0"
_STALE_LABEL: Final = "figma:stale"
# Figma's rate limits last for days: 4.6 days were observed.
_MAX_PAUSE_S: Final = 7 * 24 * 3600.0
# Replaces an entry that must not be served again: no epoch is empty.
_TOMBSTONE: Final = {"dropped": ""}

# Requests for a version are cheap, so one that is not answered is repeated: Figma may have recovered meanwhile.
_VERSION_REPEAT_S: Final = 3.0
_MAX_VERSION_REQUESTS: Final = 7
_PEER_POLL_S: Final = 0.3
_MAX_PEER_WAIT_S: Final = 120.0
_MIN_RETRY_S: Final = 1.0
_MAX_RETRY_S: Final = 10.0
# Time in which a caller that asks again gets the failure of its fetch.
_KEEP_FAILURE_S: Final = 30.0
_MAX_FAILURES: Final = 1000

Fetch = Callable[[FigmaRequest], Coroutine[Any, Any, bytes]]
"""Requests a response from Figma; raises as `FigmaHttp.fetch`."""


class ResponseCache:
    """Serves requests from the cache, or from Figma.

    Args:
        storage: holds the responses.
        fetch: requests a response from Figma.
        guard: guards the requests.
        options: TTLs, and the wait of a caller.
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
        fallbacks = [Fallback(_STALE_LABEL, self._serve_stale), unavailable("figma")]
        self._guard = guard.using(fallbacks=fallbacks, classify=_without_waiting)
        self._options = options
        self._clock_s = clock_s
        self._flights = SingleFlightGroup()
        self._claims = FetchClaims(storage)
        self._outage = OutageDetector()
        # Running fetches that a caller has left, and the time and error of those that failed.
        self._left: set[str] = set()
        self._failures: BoundedMap[str, tuple[float, ForgeError]] = BoundedMap(_MAX_FAILURES)

    async def get(self, request: FigmaRequest) -> FigmaResponse:
        """Return the response to `request`; concurrent equal requests share one call.

        Raises:
            NotFound: the file does not exist, or the token has no access to it.
            BadRequest: Figma does not accept the request.
            FetchInProgress: the fetch takes longer than `wait_s`, and there is no cached copy.
            ServiceUnavailable: Figma is unavailable, and there is no cached copy.
        """
        state = await self._read_state(request)
        response = await self._read_entry(state, "hit") if state.is_fresh(request, self._options) else None
        if response is None:
            response = await self._refreshed(request, state)
        if response.source == "stale":
            record_degraded(_STALE_LABEL)
        return response

    async def close(self) -> None:
        """Cancel the fetches that continue without a caller."""
        await self._flights.close()

    async def touch(self, file_key: str) -> None:
        """Check the file's version before the next response, in all workers."""
        await self._storage.renew_epoch(_epoch_key("touched", file_key))

    async def drop(self, file_key: str) -> None:
        """Invalidate all responses of the file, in all workers."""
        await self._storage.renew_epoch(_epoch_key("dropped", file_key))

    async def _refreshed(self, request: FigmaRequest, state: CachedState) -> FigmaResponse:
        """Refresh the entry; after `wait_s` and in an outage the stale copy is served while the refresh continues."""
        flight_key = state.flight_key(request.key)
        if (failure := _take_failure(self._failures, flight_key)) is not None:
            raise failure
        refreshing = self._flights.start(flight_key, lambda: self._refresh(request, flight_key))
        try:
            wait_s = max(0.0, min(self._options.wait_s, remaining_s()))
            if state.entry is not None:
                await self._outage.wait(refreshing, timeout_s=wait_s)
                if not refreshing.done() and (response := await self._read_entry(state, "stale")) is not None:
                    return response
            await asyncio.wait([refreshing], timeout=wait_s)
            if refreshing.done():
                # This caller gets a failure from the fetch itself, so it must not be reported a second time.
                _take_failure(self._failures, flight_key)
                return refreshing.result()
            self._left.add(flight_key)
            retry_after_s = min(max(_MIN_RETRY_S, self._flights.age_s(flight_key) / 2), _MAX_RETRY_S)
            raise FetchInProgress(
                f"Figma has not answered yet for the file {request.file_key!r}, and the fetch continues; "
                f"ask again in {retry_after_s:.0f} s",
                retry_after_s=retry_after_s,
            )
        finally:
            # The traceback of the task's exception holds this frame; without `del` they form a reference cycle.
            del refreshing

    async def _refresh(self, request: FigmaRequest, flight_key: str) -> FigmaResponse:
        try:
            return await self._refresh_in_one_worker(request, flight_key)
        except Exception as exc:
            if flight_key in self._left:
                self._failures[flight_key] = time.monotonic(), _without_traceback(exc)
            raise
        finally:
            self._left.discard(flight_key)

    async def _refresh_in_one_worker(self, request: FigmaRequest, flight_key: str) -> FigmaResponse:
        until_s = time.monotonic() + _MAX_PEER_WAIT_S
        while True:
            # Read again: another worker may have fetched it since the first read.
            state = await self._read_state(request)
            if state.is_fresh(request, self._options):
                response = await self._read_entry(state, "hit")
                if response is not None:
                    return response
            if state.not_found is not None:
                raise NotFound(state.not_found)
            if time.monotonic() >= until_s or not await self._claims.is_held_by_peer(flight_key):
                break
            await asyncio.sleep(_PEER_POLL_S)
        async with self._claims.hold(flight_key):
            return await self._call_figma(request, state)

    async def _call_figma(self, request: FigmaRequest, state: CachedState) -> FigmaResponse:
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
        if version is None and _needs_version(request, state):
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
            body = orjson.loads(await _until_answered(lambda: self._request(meta)))
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


def _needs_version(request: FigmaRequest, state: CachedState) -> bool:
    if request.is_pinned or request.endpoint == "meta":
        return False
    is_checkable = state.entry is not None and state.entry["version"] is not None
    return is_checkable or not request.has_version


async def _until_answered(send: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
    """Send a cheap request, and again while none is answered; return the first response."""
    running: set[asyncio.Task[bytes]] = set()
    try:
        for _ in range(_MAX_VERSION_REQUESTS):
            running.add(asyncio.create_task(send()))
            done, _ = await asyncio.wait(running, timeout=_VERSION_REPEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return done.pop().result()
        limit_s = _MAX_VERSION_REQUESTS * _VERSION_REPEAT_S
        raise ServiceTimeout(f"Figma has not answered a request for the version of a file for {limit_s:.0f} s")
    finally:
        for task in running:
            abandon(task)


def _take_failure(failures: "BoundedMap[str, tuple[float, ForgeError]]", flight_key: str) -> ForgeError | None:
    """Return the error of a fetch that its callers have left, to be raised instead of starting another fetch."""
    failed_s, exc = failures.get(flight_key, (0.0, None))
    if exc is None:
        return None
    is_expired = time.monotonic() - failed_s > _KEEP_FAILURE_S
    # An outage is reported once, because it may be over; a response above the size limit stays one.
    if is_expired or not isinstance(exc, BadRequest):
        del failures[flight_key]
    return None if is_expired else _without_traceback(exc)


def _without_waiting(exc: Exception) -> Verdict:
    """Return the default verdict, but no retry after a requested pause: it is shared, and the stale copy is served."""
    verdict = classify(exc)
    return verdict if verdict.retry_after_s is None else replace(verdict, is_transient=False)


def _without_traceback(exc: Exception) -> ForgeError:
    """Return a new exception that says the same; the frames of the original hold the response."""
    if isinstance(exc, BadRequest):
        return NotFound(str(exc)) if isinstance(exc, NotFound) else BadRequest(str(exc))
    if isinstance(exc, ForgeError):
        return ServiceUnavailable(str(exc), retry_after_s=exc.retry_after_s)
    return ServiceUnavailable(f"the fetch of this Figma file failed ({type(exc).__name__})")


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
