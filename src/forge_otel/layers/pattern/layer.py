"""L3, the pattern cache: reuses the structure of an earlier answer with other design tokens.

A pattern is stored per token set under `pattern:{pattern_id}:{tokens digest}` and a digest of tenant, pipeline, version
and component type. A hit is passed to the pipeline (`call.pattern`), which skips the steps that the pattern covers; a
pattern marked complete is the answer itself.

Re-theming: the `adapt` hook fills the request's tokens into the answer to the same request with other tokens, and the
result is used only if the `verify` hook accepts it. Entries are stored through the exact cache, sealed and tagged like
answers, so that invalidating an answer invalidates the patterns made from it.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from opentelemetry import trace

from forge_otel._internal.bounded import BoundedMap
from forge_otel.context import current_generation
from forge_otel.keys import KEY_VERSION, digest, requirements_digest_of, tokens_digest_of
from forge_otel.layers.exact.entry import CacheEntry
from forge_otel.layers.exact.layer import ExactCacheLayer
from forge_otel.layers.metrics import record_lookup
from forge_otel.names import Attr
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Adapted, Call, CallNext, Cost, GenerationRequest, GenerationResult, Reply

__all__ = ["PatternCacheLayer", "PatternHooks", "PatternStats", "pattern_id_of"]

LAYER: Final = "L3"
_PARTIAL: Final = "partial"
_MAX_STATS: Final = 500
# Other pattern ids are hashed: they come from callers, and may be long or contain the separator of keys.
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


def pattern_id_of(request: GenerationRequest) -> str | None:
    """Return the pattern id of the request."""
    return request.pattern_id


def _nothing(*_: Any) -> None:
    return None


def _anything(*_: Any) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternHooks:
    """A service's knowledge of its patterns, as plain functions; `adapt` and `verify` run in a thread.

    Args:
        identify: returns the pattern id of a request; None for a request without a pattern.
        learn: returns the part of an answer that is reusable for the same pattern and tokens; None for nothing.
        adapt: fills the request's tokens into an answer, given that answer, its tokens and the request; returns None if
            it cannot. Without this hook nothing is re-themed.
        verify: returns whether the result of `adapt` is valid, for example by parsing it.
    """

    identify: Callable[[GenerationRequest], str | None] = pattern_id_of
    learn: Callable[[GenerationRequest, GenerationResult], Mapping[str, Any] | None] = _nothing
    adapt: Callable[[GenerationResult, Mapping[str, Any], GenerationRequest], Adapted | None] | None = None
    verify: Callable[[Adapted, GenerationRequest], bool] = _anything


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternStats:
    """Hits and misses of one pattern."""

    hits: int = 0
    misses: int = 0

    @property
    def hit_rate(self) -> float:
        """Return the fraction of lookups that were hits, 0 to 1."""
        return self.hits / max(1, self.hits + self.misses)


@dataclass(frozen=True, slots=True)
class _PatternMiss:
    """A lookup without a pattern, with the tag versions under which one can be stored.

    Args:
        origin_pointer: entry that names the answer to re-theme from; None if there is none.
        origin_tag_versions: tag versions for a new pointer.
    """

    reason: str
    tag_versions: Mapping[str, str]
    origin_pointer: CacheEntry | None = None
    origin_tag_versions: Mapping[str, str] | None = None


class PatternCacheLayer:
    """The L3 layer.

    Args:
        exact: the enclosing exact cache, which holds answers and patterns.
        instruments: receive hits, misses and durations.
        pipeline_version: part of every pattern's key.
        hooks: the service's pattern functions.
        ttl_s: TTL of a pattern in seconds.
    """

    def __init__(
        self,
        exact: ExactCacheLayer,
        *,
        instruments: Instruments,
        pipeline_version: str,
        hooks: PatternHooks | None = None,
        ttl_s: float = 3600.0,
    ) -> None:
        self._exact = exact
        self._instruments = instruments
        self._pipeline_version = pipeline_version
        self._hooks = hooks or PatternHooks()
        self.ttl_s = ttl_s
        self._stats: BoundedMap[str, PatternStats] = BoundedMap(_MAX_STATS)

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Pass a stored pattern to the pipeline or answer with it; after a miss, learn from the pipeline's answer."""
        started = time.perf_counter()
        name = self._identify(call.request)
        if name is None:
            record_lookup(self._instruments, LAYER, time.perf_counter() - started, reason="no_pattern")
            return await call_next(call)
        pattern = await self._find(call, name)
        took_s = time.perf_counter() - started
        self._count(name, is_hit=not isinstance(pattern, _PatternMiss))
        trace.get_current_span().set_attribute(Attr.PATTERN_ID, name)
        if isinstance(pattern, _PatternMiss):
            record_lookup(self._instruments, LAYER, took_s, reason=pattern.reason)
            reply = await call_next(call)
            await self._learn(call, name, reply, pattern)
            return reply
        if pattern.is_complete and pattern.result is not None:
            record_lookup(self._instruments, LAYER, took_s, reason=None)
            return Reply(result=pattern.result, source=LAYER, cost_usd=pattern.cost_usd, origin_id=pattern.origin_id)
        reason: str | None = _PARTIAL
        try:
            reply = await self._assist(call, pattern, call_next)
            reason = None if reply.source == LAYER else _PARTIAL
        finally:
            # A hit is an answer of this layer, as in the record: a pattern that only helped to generate one is a miss.
            record_lookup(self._instruments, LAYER, took_s, reason=reason)
        if pattern.result is None and self._hooks.adapt is not None:
            # The pattern covered only a part: the generated answer can still be re-themed for other tokens.
            found = await self._exact.lookup(self._origin_call(call, name))
            pointer = found if isinstance(found, CacheEntry) else None
            await self._learn_origin(call, name, reply, pointer, found.tag_versions)
        return reply

    def stats(self) -> dict[str, PatternStats]:
        """Return hits and misses of the 500 patterns requested last."""
        return dict(self._stats)

    async def contains(self, call: Call, name: str) -> bool:
        """Return whether the pattern is stored for the tokens of `call`."""
        return isinstance(await self._exact.lookup(self._pattern_call(call, name)), CacheEntry)

    async def store(self, call: Call, adapted: Adapted) -> bool:
        """Store a pattern for the tokens of `call` and return whether it was written."""
        pattern_call = self._pattern_call(call, adapted.pattern_id)
        found = await self._exact.lookup(pattern_call)
        return await self._store(pattern_call, adapted, found.tag_versions)

    def _identify(self, request: GenerationRequest) -> str | None:
        try:
            return self._hooks.identify(request)
        except Exception:
            return None

    async def _find(self, call: Call, name: str) -> Adapted | _PatternMiss:
        miss = _PatternMiss("cold", {})
        if self._hooks.adapt is not None:
            found = await self._retheme(call, name)
            if isinstance(found, Adapted):
                return found
            miss = found
        entry = await self._exact.lookup(self._pattern_call(call, name))
        if isinstance(entry, CacheEntry):
            return _adapted(entry, name)
        reason = miss.reason if entry.reason == "cold" else entry.reason
        return replace(miss, reason=reason, tag_versions=entry.tag_versions)

    async def _retheme(self, call: Call, name: str) -> Adapted | _PatternMiss:
        """Fill the tokens of `call` into the answer to the same request with other tokens."""
        pointer = await self._exact.lookup(self._origin_call(call, name))
        if not isinstance(pointer, CacheEntry):
            return _PatternMiss(pointer.reason, {}, None, pointer.tag_versions)
        facts = pointer.result.metadata
        miss = _PatternMiss("retheme", {}, pointer, pointer.tag_versions)
        # Looked up with its own tokens: an invalidation of these must also invalidate what is derived from them.
        origin_request = replace(call.request, tokens=facts["tokens"])
        origin = await self._exact.lookup(replace(call, key=facts["origin"], request=origin_request))
        if not isinstance(origin, CacheEntry):
            return replace(miss, reason="evicted" if origin.reason == "cold" else origin.reason, origin_pointer=None)
        try:
            # The hook may parse code for a long time, which must not block the event loop.
            adapted = await asyncio.to_thread(self._adapt, origin.result, facts["tokens"], call.request)
        except Exception:
            return miss
        if adapted is None:
            return miss
        return replace(adapted, pattern_id=name, cost_usd=origin.cost_usd, origin_id=origin.origin_id)

    def _adapt(self, origin: GenerationResult, tokens: Mapping[str, Any], request: GenerationRequest) -> Adapted | None:
        adapted = None if self._hooks.adapt is None else self._hooks.adapt(origin, tokens, request)
        return adapted if adapted is not None and self._hooks.verify(adapted, request) else None

    async def _assist(self, call: Call, adapted: Adapted, call_next: CallNext) -> Reply:
        """Run the pipeline with a pattern; if that cost nothing, the pattern itself was the answer."""
        costs_before = len(_costs())
        reply = await call_next(replace(call, pattern=adapted))
        if adapted.result is None or reply.is_hit or any(cost.amount_usd != 0 for cost in _costs()[costs_before:]):
            return reply
        return replace(reply, source=LAYER, cost_usd=adapted.cost_usd, origin_id=adapted.origin_id)

    async def _learn(self, call: Call, name: str, reply: Reply, miss: _PatternMiss) -> None:
        if reply.is_hit:
            return
        try:
            body = self._hooks.learn(call.request, reply.result)
        except Exception:
            body = None
        if body is not None and miss.tag_versions:
            adapted = Adapted(pattern_id=name, body=body, cost_usd=reply.cost_usd, origin_id=reply.origin_id)
            await self._store(self._pattern_call(call, name), adapted, miss.tag_versions)
        if self._hooks.adapt is not None and miss.origin_tag_versions:
            await self._learn_origin(call, name, reply, miss.origin_pointer, miss.origin_tag_versions)

    async def _learn_origin(
        self, call: Call, name: str, reply: Reply, pointer: CacheEntry | None, tag_versions: Mapping[str, str]
    ) -> None:
        """Store a pointer to this answer as the origin for re-theming, unless one with fewer tokens is stored."""
        if reply.is_hit or not tag_versions:
            return
        if pointer is None or len(pointer.result.metadata["tokens"]) > len(call.request.tokens):
            facts = {"origin": call.key, "tokens": call.request.tokens}
            new = Reply(result=GenerationResult(code="", metadata=facts), origin_id=reply.origin_id)
            await self._exact.store(self._origin_call(call, name), new, tag_versions, ttl_s=self.ttl_s)

    async def _store(self, pattern_call: Call, adapted: Adapted, tag_versions: Mapping[str, str]) -> bool:
        if not tag_versions:
            return False
        result = adapted.result or GenerationResult(code="")
        metadata = {
            "body": dict(adapted.body),
            "has_result": adapted.result is not None,
            "metadata": dict(result.metadata),
            "is_complete": adapted.is_complete,
        }
        packed = replace(result, metadata=metadata)
        reply = Reply(result=packed, cost_usd=adapted.cost_usd, origin_id=adapted.origin_id)
        return await self._exact.store(pattern_call, reply, tag_versions, ttl_s=self.ttl_s)

    def _pattern_call(self, call: Call, name: str) -> Call:
        """Return the call under which a pattern is stored; it has no design, because patterns are shared by designs."""
        request = call.request
        tokens, version = tokens_digest_of(call), self._pipeline_version
        scope = digest([KEY_VERSION, call.pipeline, version, request.component_type, request.tenant, name])
        plain = name if _PLAIN_ID.fullmatch(name) else digest(name)[:32]
        # A request needs a design; a constant one makes the pattern independent of designs.
        tagged = GenerationRequest(
            component_type=request.component_type, screenshot_hash="none", tokens=request.tokens, tenant=request.tenant
        )
        return replace(call, key=f"pattern:{plain}:{tokens}:{scope}", request=tagged)

    def _origin_call(self, call: Call, name: str) -> Call:
        """Return the call under which the pointer to the origin for re-theming is stored; it has no tokens."""
        request = call.request
        scope = {
            "component_type": request.component_type,
            "content_hash": request.content_hash,
            "figma_key": request.figma_key,
            "key_version": KEY_VERSION,
            "pattern": name,
            "pipeline": call.pipeline,
            "pipeline_version": self._pipeline_version,
            "requirements": requirements_digest_of(call),
            "screenshot_hash": request.screenshot_hash,
            "tenant": request.tenant,
        }
        return replace(call, key=f"theme:{digest(scope)}", request=replace(request, tokens={}))

    def _count(self, name: str, *, is_hit: bool) -> None:
        before = self._stats.get(name, PatternStats())
        self._stats[name] = PatternStats(hits=before.hits + is_hit, misses=before.misses + (not is_hit))


def _adapted(entry: CacheEntry, name: str) -> Adapted:
    facts = entry.result.metadata
    return Adapted(
        pattern_id=name,
        body=facts["body"],
        result=replace(entry.result, metadata=facts["metadata"]) if facts["has_result"] else None,
        is_complete=facts["is_complete"],
        cost_usd=entry.cost_usd,
        origin_id=entry.origin_id,
    )


def _costs() -> list[Cost]:
    generation = current_generation.get()
    return [] if generation is None else generation.costs
