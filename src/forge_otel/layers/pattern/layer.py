"""L3, the pattern cache: the same structure in other tokens, or the first part of a generation done before.

A pattern is kept for each set of tokens under `pattern:{pattern_id}:{tokens digest}` and a digest of tenant,
pipeline, version and component type. A hit is handed to the pipeline (`call.pattern`), which then leaves out what it
finds there; one that is marked complete is the answer.

Re-theming: an answer to the same request with other tokens is given to the `adapt` hook, which fills in the new ones;
what it makes is used only if the `verify` hook finds it whole. Entries lie beside those of L1, framed, authenticated
and under the same tags, so that what invalidates an answer invalidates the patterns that come from it.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from opentelemetry import trace

from forge_otel.context import current_generation
from forge_otel.keys import digest
from forge_otel.layers.cache_metrics import record_lookup
from forge_otel.layers.exact.entry import CacheEntry
from forge_otel.layers.exact.layer import ExactCacheLayer
from forge_otel.names import Attr
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import ZERO_USD, Adapted, Call, CallNext, GenerationRequest, GenerationResult, Reply

__all__ = ["PatternCacheLayer", "PatternHooks", "PatternStats", "pattern_id_of"]

LAYER: Final = "L3"
_MAX_COUNTED: Final = 500
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


def pattern_id_of(request: GenerationRequest) -> str | None:
    """Return the pattern that the caller asks for."""
    return request.pattern_id


def _nothing(*_: Any) -> None:
    return None


def _anything(*_: Any) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternHooks:
    """What a service knows of its patterns; each is a plain function, and runs in a thread where it may take a while.

    Args:
        identify: names the pattern of a request; None: it has none.
        learn: says what of an answer can be used again for the same pattern and tokens; None: nothing.
        adapt: fills the request's tokens into an answer to the same request with other tokens, which are given, too;
            None: that cannot be done. Without it nothing is re-themed.
        verify: says whether what `adapt` made is whole, for example by parsing it.
    """

    identify: Callable[[GenerationRequest], str | None] = pattern_id_of
    learn: Callable[[GenerationRequest, GenerationResult], Mapping[str, Any] | None] = _nothing
    adapt: Callable[[GenerationResult, Mapping[str, Any], GenerationRequest], Adapted | None] | None = None
    verify: Callable[[Adapted, GenerationRequest], bool] = _anything


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternStats:
    """How often a pattern was asked for, and how often it was there."""

    hits: int = 0
    misses: int = 0

    @property
    def hit_rate(self) -> float:
        """Between 0 and 1."""
        return self.hits / max(1, self.hits + self.misses)


@dataclass(frozen=True, slots=True)
class _Missing:
    """Why there is no pattern, and where one can be kept."""

    reason: str
    epochs: Mapping[str, str]
    theme: CacheEntry | None = None
    theme_epochs: Mapping[str, str] | None = None


class PatternCacheLayer:
    """The L3 layer.

    Args:
        answers: the exact cache, which stands further out and keeps answers and patterns.
        instruments: where hits, misses and durations are counted.
        pipeline_version: part of every pattern's key.
        hooks: what the service knows of its patterns.
        ttl_s: life of a pattern in seconds.
    """

    def __init__(
        self,
        answers: ExactCacheLayer,
        *,
        instruments: Instruments,
        pipeline_version: str,
        hooks: PatternHooks | None = None,
        ttl_s: float = 3600.0,
    ) -> None:
        self._answers = answers
        self._instruments = instruments
        self._pipeline_version = pipeline_version
        self._hooks = hooks or PatternHooks()
        self.ttl_s = ttl_s
        self._stats: OrderedDict[str, PatternStats] = OrderedDict()

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Hand a known pattern to the pipeline or answer with it, or learn from what the pipeline answers."""
        started = time.perf_counter()
        name = self._identify(call.request)
        if name is None:
            record_lookup(self._instruments, LAYER, time.perf_counter() - started, reason="no_pattern")
            return await call_next(call)
        found = await self._find(call, name)
        reason = found.reason if isinstance(found, _Missing) else None
        record_lookup(self._instruments, LAYER, time.perf_counter() - started, reason=reason)
        self._tally(name, is_hit=reason is None)
        trace.get_current_span().set_attribute(Attr.PATTERN_ID, name)
        if isinstance(found, _Missing):
            reply = await call_next(call)
            await self._learn(call, name, reply, found)
            return reply
        if found.is_complete and found.result is not None:
            return Reply(result=found.result, source=LAYER, cost_usd=found.cost_usd, origin_id=found.origin_id)
        reply = await self._assist(call, found, call_next)
        if found.result is None and self._hooks.adapt is not None:
            # Retrieval was spared and the rest generated: what came of it is an origin for other tokens, too.
            theme = await self._answers.look_up(self._theme_place(call, name))
            await self._learn_origin(call, name, reply, theme if isinstance(theme, CacheEntry) else None, theme.epochs)
        return reply

    def stats(self) -> dict[str, PatternStats]:
        """Return how often each of the patterns asked for lately was there."""
        return dict(self._stats)

    async def known(self, call: Call, name: str) -> bool:
        """Whether the pattern is there for the tokens of `call`."""
        return isinstance(await self._answers.look_up(self._place(call, name)), CacheEntry)

    async def keep(self, call: Call, adapted: Adapted) -> bool:
        """Keep a pattern for the tokens of `call`, and say whether it is kept."""
        place = self._place(call, adapted.pattern_id)
        found = await self._answers.look_up(place)
        return await self._store(place, adapted, found.epochs)

    def _identify(self, request: GenerationRequest) -> str | None:
        try:
            return self._hooks.identify(request)
        except Exception:
            return None

    async def _find(self, call: Call, name: str) -> Adapted | _Missing:
        missing = _Missing("cold", {})
        if self._hooks.adapt is not None:
            found = await self._retheme(call, name)
            if isinstance(found, Adapted):
                return found
            missing = found
        entry = await self._answers.look_up(self._place(call, name))
        if isinstance(entry, CacheEntry):
            return _adapted(entry, name)
        reason = missing.reason if entry.reason == "cold" else entry.reason
        return replace(missing, reason=reason, epochs=entry.epochs)

    async def _retheme(self, call: Call, name: str) -> Adapted | _Missing:
        """Fill the tokens of `call` into the answer to the same request with others."""
        theme = await self._answers.look_up(self._theme_place(call, name))
        if not isinstance(theme, CacheEntry):
            return _Missing(theme.reason, {}, None, theme.epochs)
        told = theme.result.metadata
        missing = _Missing("retheme", {}, theme, theme.epochs)
        origin_request = replace(call.request, tokens=told["tokens"])
        # Read under its own tags: an invalidation of its tokens is one of what is made from it.
        origin = await self._answers.look_up(replace(call, key=told["origin"], request=origin_request))
        if not isinstance(origin, CacheEntry):
            return replace(missing, reason="evicted" if origin.reason == "cold" else origin.reason, theme=None)
        try:
            adapted = await asyncio.to_thread(self._filled, origin.result, told["tokens"], call.request)
        except Exception:
            return missing
        if adapted is None:
            return missing
        return replace(adapted, pattern_id=name, cost_usd=origin.cost_usd, origin_id=origin.origin_id)

    def _filled(
        self, origin: GenerationResult, tokens: Mapping[str, Any], request: GenerationRequest
    ) -> Adapted | None:
        adapted = None if self._hooks.adapt is None else self._hooks.adapt(origin, tokens, request)
        return adapted if adapted is not None and self._hooks.verify(adapted, request) else None

    async def _assist(self, call: Call, adapted: Adapted, call_next: CallNext) -> Reply:
        """Run the pipeline with a pattern; where nothing had to be spent for it, the pattern was the answer."""
        before = _spent()
        reply = await call_next(replace(call, pattern=adapted))
        if adapted.result is None or reply.is_hit or _spent() != before:
            return reply
        return replace(reply, source=LAYER, cost_usd=adapted.cost_usd, origin_id=adapted.origin_id)

    async def _learn(self, call: Call, name: str, reply: Reply, missing: _Missing) -> None:
        if reply.is_hit:
            return
        try:
            body = self._hooks.learn(call.request, reply.result)
        except Exception:
            body = None
        if body is not None and missing.epochs:
            adapted = Adapted(pattern_id=name, body=body, cost_usd=reply.cost_usd, origin_id=reply.origin_id)
            await self._store(self._place(call, name), adapted, missing.epochs)
        if self._hooks.adapt is not None and missing.theme_epochs:
            await self._learn_origin(call, name, reply, missing.theme, missing.theme_epochs)

    async def _learn_origin(
        self, call: Call, name: str, reply: Reply, before: CacheEntry | None, epochs: Mapping[str, str]
    ) -> None:
        """Remember that answers with other tokens can be made from this one, unless a plainer one is known."""
        if reply.is_hit or not epochs:
            return
        if before is None or len(before.result.metadata["tokens"]) > len(call.request.tokens):
            told = {"origin": call.key, "tokens": call.request.tokens}
            pointer = Reply(result=GenerationResult(code="", metadata=told), origin_id=reply.origin_id)
            await self._answers.keep(self._theme_place(call, name), pointer, epochs, ttl_s=self.ttl_s)

    async def _store(self, place: Call, adapted: Adapted, epochs: Mapping[str, str]) -> bool:
        if not epochs:
            return False
        result = adapted.result or GenerationResult(code="")
        told = {"body": dict(adapted.body), "has_result": adapted.result is not None, "metadata": dict(result.metadata)}
        kept = replace(result, metadata=told | {"is_complete": adapted.is_complete})
        reply = Reply(result=kept, cost_usd=adapted.cost_usd, origin_id=adapted.origin_id)
        return await self._answers.keep(place, reply, epochs, ttl_s=self.ttl_s)

    def _place(self, call: Call, name: str) -> Call:
        """Return the call under which a pattern is kept: whatever design it is for, its tags are those of no design."""
        request = call.request
        tokens = digest(request.tokens)
        scope = digest([call.pipeline, self._pipeline_version, request.component_type, request.tenant, name])
        shown = name if _PLAIN_ID.fullmatch(name) else digest(name)[:32]
        tagged = GenerationRequest(
            component_type=request.component_type, screenshot_hash="none", tokens=request.tokens, tenant=request.tenant
        )
        return replace(call, key=f"pattern:{shown}:{tokens}:{scope}", request=tagged)

    def _theme_place(self, call: Call, name: str) -> Call:
        request = call.request
        scope = {
            "component_type": request.component_type,
            "content_hash": request.content_hash,
            "figma_key": request.figma_key,
            "pattern": name,
            "pipeline": call.pipeline,
            "pipeline_version": self._pipeline_version,
            "requirements": request.requirements,
            "screenshot_hash": request.screenshot_hash,
            "tenant": request.tenant,
        }
        return replace(call, key=f"theme:{digest(scope)}", request=replace(request, tokens={}))

    def _tally(self, name: str, *, is_hit: bool) -> None:
        before = self._stats.pop(name, PatternStats())
        self._stats[name] = PatternStats(hits=before.hits + is_hit, misses=before.misses + (not is_hit))
        if len(self._stats) > _MAX_COUNTED:
            self._stats.popitem(last=False)


def _adapted(entry: CacheEntry, name: str) -> Adapted:
    told = entry.result.metadata
    return Adapted(
        pattern_id=name,
        body=told["body"],
        result=replace(entry.result, metadata=told["metadata"]) if told["has_result"] else None,
        is_complete=told["is_complete"],
        cost_usd=entry.cost_usd,
        origin_id=entry.origin_id,
    )


def _spent() -> Decimal:
    generation = current_generation.get()
    return ZERO_USD if generation is None else generation.spent_usd
