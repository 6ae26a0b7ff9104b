"""L0: answers of Figma are kept, checked by version instead of fetched again, and shared by all workers.

An answer is taken as it is for `fresh_s` after its file's version was last seen. After that the version is asked for,
which is a cheap call, and the answer fetched again only where the file has changed. What Figma cannot be asked for
(it is down, it asked to be left alone, the time is over) is answered from what is kept, with its age. Once it has let a
call wait in vain, nobody waits for whom something is kept, until it has answered again.

Two epochs a file end what is kept: after `touch` the version is asked for at once, after `drop` everything is
fetched anew.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from forge_otel.context import record_degraded
from forge_otel.errors import BadRequest, NotFound, ServiceTimeout, ServiceUnavailable
from forge_otel.figma.cache_storage import EPOCH, FigmaCacheStorage
from forge_otel.figma.outage import OutageDetector
from forge_otel.figma.request import FigmaRequest
from forge_otel.figma.response import MS, FigmaOptions, FigmaRejected, FigmaResponse, Known, Throttled
from forge_otel.figma.single_flight import SharedCalls
from forge_otel.keys import digest
from forge_otel.resilience.fallback import Fallback, unavailable
from forge_otel.resilience.guard import Guard

__all__ = ["LAYER", "ResponseCache"]

LAYER: Final = "L0"
STALE: Final = "figma:stale"
"""What ``degraded`` says of an answer that could not be checked."""

# A real server asked for 4.6 days once.
_MAX_PAUSE_S: Final = 7 * 24 * 3600.0


Fetch = Callable[[FigmaRequest], Awaitable[bytes]]
"""Asks Figma; raises `NotFound`, `BadRequest`, `Throttled`, `FigmaRejected`, or whatever the transport does."""

# Stands where an entry was that may not be used again.
_GONE: Final = {"dropped": ""}


@dataclass(slots=True)
class ResponseCache:
    """The cache.

    Args:
        shelf: where answers are kept.
        fetch: asks Figma.
        guard: stands around every call.
        options: how long answers live.
        clock_s: the wall clock, because entries are shared by processes.
    """

    shelf: FigmaCacheStorage
    fetch: Fetch
    guard: Guard
    options: FigmaOptions
    clock_s: Callable[[], float] = time.time
    _flights: SharedCalls = field(default_factory=SharedCalls)
    _silence: OutageDetector = field(default_factory=OutageDetector)
    _guarded: Guard = field(init=False)

    def __post_init__(self) -> None:
        self._guarded = self.guard.using(fallbacks=[Fallback(STALE, self._stale), unavailable("figma")])

    async def get(self, asked: FigmaRequest) -> FigmaResponse:
        """Answer from what is kept, or ask Figma; callers who ask the same at once share one call.

        Raises:
            NotFound: there is no such file, or the token may not see it.
            BadRequest: Figma does not understand the request.
            ServiceUnavailable: Figma cannot be asked, and nothing is kept.
        """
        known = await self._look(asked)
        answer = await self._kept(known, "hit") if known.is_fresh(asked, self.options) else None
        if answer is None:
            answer = await self._renewed(asked, known)
        if answer.source == "stale":
            record_degraded(STALE)
        return answer

    async def _renewed(self, asked: FigmaRequest, known: Known) -> FigmaResponse:
        """Wait for what Figma says, unless it is silent and something is kept: then nobody waits, but it is asked."""
        renewing = self._flights.begin(known.flight(asked.key), lambda: self._renew(asked))
        try:
            if known.entry is not None and not renewing.done():
                await self._silence.wait_beside(renewing)
            if not renewing.done() and (answer := await self._kept(known, "stale")) is not None:
                return answer
            return await asyncio.shield(renewing)
        finally:
            # The traceback of its exception holds this frame, which must not hold the exception.
            del renewing

    async def touch(self, file_key: str) -> None:
        """Ask for the file's version before the next answer, in all workers."""
        await self.shelf.renew_epoch(_epoch_key("touched", file_key))

    async def drop(self, file_key: str) -> None:
        """Fetch everything of the file anew, in all workers."""
        await self.shelf.renew_epoch(_epoch_key("dropped", file_key))

    async def _look(self, asked: FigmaRequest) -> Known:
        epochs = _epoch_key("dropped", asked.file_key), _epoch_key("touched", asked.file_key)
        tiers = dict.fromkeys((asked.tier, "meta"))
        keys = [_entry_key(asked), _absent_key(asked), _check_key(asked), *epochs]
        facts = await self.shelf.facts([*keys, *(_pause_key(asked.scope, tier) for tier in tiers)])
        entry, absent, check, *rest = facts
        dropped, touched = [
            str(fact["epoch"]) if fact is not None else await self.shelf.epoch(key)
            for fact, key in zip(rest[:2], epochs, strict=True)
        ]
        now_ms = round(self.clock_s() * MS)
        reason = "cold" if entry is None else "version"
        if entry is not None and entry["dropped"] != dropped:
            entry, reason = None, "epoch"
        return Known(
            entry=entry,
            check=check,
            dropped=dropped,
            touched=touched,
            absent=None if absent is None else str(absent["message"]),
            pauses_s={tier: _rest_s(fact, now_ms) for tier, fact in zip(tiers, rest[2:], strict=True)},
            reason=reason,
            now_ms=now_ms,
        )

    async def _kept(self, known: Known, source: str) -> FigmaResponse | None:
        """Return what is kept; None where nothing is, or no longer."""
        entry = known.entry
        raw = None if entry is None else await self.shelf.body(entry["body"])
        if raw is None:
            return None
        return FigmaResponse(body=orjson.loads(raw), source=source, age_s=known.age_s(), size_bytes=len(raw))

    async def _renew(self, asked: FigmaRequest) -> FigmaResponse:
        # Looked at once more: somebody may have fetched it between the first look and now.
        known = await self._look(asked)
        if known.is_fresh(asked, self.options) and (answer := await self._kept(known, "hit")) is not None:
            return answer
        if known.absent is not None:
            raise NotFound(known.absent)
        try:
            return await self._guarded.call(self._ask, asked, known)
        except NotFound as exc:
            await self.shelf.note(_absent_key(asked), {"message": str(exc)}, ttl_s=self.options.negative_s)
            # What may not be seen any more is not shown when Figma is down either.
            await self.shelf.note(_entry_key(asked), _GONE, ttl_s=self.options.negative_s)
            raise

    async def _stale(self, exc: Exception, _asked: FigmaRequest, known: Known) -> FigmaResponse:
        if isinstance(exc, ServiceTimeout):
            self._silence.begin()
        answer = await self._kept(known, "stale")
        if answer is None:
            raise ServiceUnavailable("nothing is kept of this Figma file")
        return answer

    async def _ask(self, asked: FigmaRequest, known: Known) -> FigmaResponse:
        version = known.seen(self.options)
        is_checkable = known.entry is not None and known.entry["version"] is not None
        if (
            version is None
            and not asked.is_pinned
            and asked.what != "meta"
            and (is_checkable or not asked.tells_version)
        ):
            version = await self._version(asked, known)
            if known.entry is not None and version is not None and known.entry["version"] == version:
                kept = await self._kept(known, "revalidated")
                if kept is not None:
                    return _now(kept)
        self._refuse_in_pause(asked, known)
        raw = await self._fetch(asked)
        body = orjson.loads(raw)
        if not isinstance(body, dict):
            raise TypeError("Figma answered with something that is no JSON object")
        if isinstance(body.get("version"), str):
            version = body["version"]
        await self._keep(asked, known, raw, version=version)
        return FigmaResponse(body=body, source="miss", reason=known.reason, size_bytes=len(raw))

    async def _keep(self, asked: FigmaRequest, known: Known, raw: bytes, *, version: str | None) -> None:
        kept_s = self.options.keep_s
        now_ms = round(self.clock_s() * MS)
        # Under the epochs from before it was asked for: what was ended meanwhile stays ended.
        entry = {
            "at": now_ms,
            "version": version,
            "dropped": known.dropped,
            "touched": known.touched,
            "body": await self.shelf.keep_body(raw, ttl_s=kept_s),
        }
        await self.shelf.note(_entry_key(asked), entry, ttl_s=kept_s)
        if version is not None and not asked.is_pinned and asked.tells_version:
            await self._note_version(asked, known, version)

    async def _note_version(self, asked: FigmaRequest, known: Known, version: str) -> None:
        check = {"at": round(self.clock_s() * MS), "version": version, "touched": known.touched}
        await self.shelf.note(_check_key(asked), check, ttl_s=self.options.keep_s)

    async def _version(self, asked: FigmaRequest, known: Known) -> str | None:
        """Ask for the version of the file; None where it cannot be told, and so everything is fetched again."""
        meta = FigmaRequest(what="meta", file_key=asked.file_key, scope=asked.scope)
        if known.pauses_s["meta"]:
            if known.entry is not None:
                self._refuse_in_pause(meta, known)
            return None
        version = await self._flights.join(known.flight(_check_key(asked)), lambda: self._ask_version(meta))
        if version is not None:
            await self._note_version(asked, known, version)
        return version

    async def _ask_version(self, meta: FigmaRequest) -> str | None:
        try:
            body = orjson.loads(await self._fetch(meta))
        except (NotFound, BadRequest, FigmaRejected):
            # A token may see a file and not what is known about it.
            return None
        version = body.get("version") if isinstance(body, dict) else None
        return version if isinstance(version, str) else None

    def _refuse_in_pause(self, asked: FigmaRequest, known: Known) -> None:
        rest_s = known.pauses_s[asked.tier]
        if rest_s:
            raise ServiceUnavailable(f"Figma asked to be left alone for {rest_s:.0f} s more", retry_after_s=rest_s)

    async def _fetch(self, asked: FigmaRequest) -> bytes:
        try:
            raw = await self.fetch(asked)
        except Throttled as exc:
            self._silence.end()
            await self._pause(asked, min(exc.retry_after_s, _MAX_PAUSE_S))
            raise
        except FigmaRejected:
            self._silence.end()
            if asked.what != "meta":
                await self._pause(asked, self.options.negative_s)
            raise
        self._silence.end()
        return raw

    async def _pause(self, asked: FigmaRequest, for_s: float) -> None:
        pause = {"until": round((self.clock_s() + for_s) * MS), "for_s": for_s}
        await self.shelf.note(_pause_key(asked.scope, asked.tier), pause, ttl_s=max(for_s, 1.0))


def _now(answer: FigmaResponse) -> FigmaResponse:
    return FigmaResponse(body=answer.body, source=answer.source, size_bytes=answer.size_bytes)


def _rest_s(pause: Mapping[str, Any] | None, now_ms: int) -> float:
    """Return the seconds that a pause still lasts; a wall clock that jumps cannot make it longer than it was."""
    return 0.0 if pause is None else min(max(0.0, (pause["until"] - now_ms) / MS), pause["for_s"])


def _entry_key(asked: FigmaRequest) -> str:
    return f"forge:l0:entry:{asked.key}"


def _absent_key(asked: FigmaRequest) -> str:
    return f"forge:l0:absent:{asked.key}"


def _check_key(asked: FigmaRequest) -> str:
    return f"forge:l0:version:{digest([asked.scope, asked.file_key])}"


def _pause_key(scope: str, tier: str) -> str:
    return f"forge:l0:pause:{digest([scope, tier])}"


def _epoch_key(kind: str, file_key: str) -> str:
    return f"{EPOCH}{digest([kind, file_key])}"
