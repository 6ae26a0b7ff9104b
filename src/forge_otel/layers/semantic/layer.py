"""L2, the semantic cache: a paraphrase of an earlier request gets the earlier answer.

Three filters in order: tenant, design, tokens, component type, pipeline and its version, embedding model and all
requirements besides free text must be equal; the texts must be near (cosine); and they must state the same facts
(`forge_otel.text_matching`). A doubtful match is a miss, because a wrong component costs more than a generation.

Answers are stored once, in the exact cache; a point holds the key of the entry. An entry that is invalidated or evicted
there is a miss here. A point holds neither the text nor anything from which it could be recovered.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar

from opentelemetry import trace

from forge_otel._internal.checks import require
from forge_otel._internal.tasks import BackgroundTask
from forge_otel.context import record_degraded
from forge_otel.keys import KEY_VERSION, digest, is_large, tokens_digest_of
from forge_otel.layers.exact.entry import CacheEntry
from forge_otel.layers.exact.layer import ExactCacheLayer
from forge_otel.layers.metrics import record_duration, record_lookup
from forge_otel.layers.semantic.lexical_index import LexicalIndex, Wording, wording_of
from forge_otel.names import Attr
from forge_otel.resilience.fallback import Fallback
from forge_otel.resilience.guard import Guard
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.text_matching import facts
from forge_otel.types import Call, CallNext, Embedder, GenerationRequest, Neighbour, Point, Reply, VectorStore

__all__ = ["SemanticCacheLayer", "SemanticCacheOptions"]

T = TypeVar("T")

LAYER: Final = "L2"
# Old points must not match after a change of the scope, which therefore needs a new version.
_SCOPE_VERSION: Final = "forge:l2:v2"
_MAX_NEIGHBOURS: Final = 8
_MAX_TEXT_CHARS: Final = 8_000
_SWEEP_INTERVAL_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticCacheOptions:
    """Tunables of the semantic cache.

    Args:
        pipeline_version: must be equal for a hit.
        threshold: minimum cosine similarity (0 to 1).
        thresholds: minimum cosine similarity by component type.
        ttl_s: TTL of a point in seconds.

    Raises:
        ConfigurationError: an option is out of range.
    """

    pipeline_version: str
    threshold: float = 0.92
    thresholds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    ttl_s: float = 24 * 3600.0

    def __post_init__(self) -> None:
        require(
            (min(self.threshold, *self.thresholds.values(), 1.0) > 0, "a threshold must be above 0"),
            (self.ttl_s > 0, "ttl_s must be positive"),
        )


@dataclass(frozen=True, slots=True)
class _Query:
    """A request as it is searched for."""

    text: str
    scope: str
    facts: str
    words: Sequence[str]


@dataclass(slots=True)
class _Search:
    """Neighbours of a query, and its vector for storing the answer later."""

    vector: Sequence[float] | None = None
    neighbours: Sequence[Neighbour] = ()
    is_lexical: bool = False


class SemanticCacheLayer:
    """The L2 layer; while it is open, it sweeps expired points in the background.

    Args:
        vectors: holds the points.
        embedder: computes vectors of texts.
        exact: the enclosing exact cache, which holds the answers.
        options: thresholds and TTL.
        instruments: receive hits, misses and durations.
        wording: returns the free text of a request.
        guard: protects calls to `vectors`; None for an in-process store.
        embedder_guard: protects calls to `embedder`; None for an in-process embedder.
        service: name of the vector store in `degraded` labels.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        vectors: VectorStore,
        embedder: Embedder,
        exact: ExactCacheLayer,
        options: SemanticCacheOptions,
        *,
        instruments: Instruments,
        wording: Callable[[GenerationRequest], Wording | None] = wording_of,
        guard: Guard | None = None,
        embedder_guard: Guard | None = None,
        service: str = "vectors",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._vectors = vectors
        self._embedder = embedder
        self._exact = exact
        self._options = options
        self._instruments = instruments
        self._wording = wording
        self._guard = guard
        self._embedder_guard = embedder_guard
        self._degraded_label = f"{service}:lexical"
        self._clock = clock
        self._lexical_index = LexicalIndex(clock=clock)
        self._sweep_task = BackgroundTask(self._sweep, name="semantic cache sweep")
        self._search_guard = guard and guard.using(fallbacks=[Fallback(self._degraded_label, self._search_lexically)])

    async def __aenter__(self) -> Self:
        self._sweep_task.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sweep_task.stop()

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer with the stored answer to a paraphrase, or index the answer of the inner layers."""
        started = time.perf_counter()
        # The scope has a digest of all requirements besides the text.
        if is_large(call.request.requirements):
            query = await asyncio.to_thread(self._query, call)
        else:
            query = self._query(call)
        if isinstance(query, str):
            record_lookup(self._instruments, LAYER, time.perf_counter() - started, reason=query)
            return await call_next(call)
        search = await self._search(query)
        found = await self._choose(call, query, search)
        reason = found if isinstance(found, str) else None
        record_lookup(self._instruments, LAYER, time.perf_counter() - started, reason=reason)
        if isinstance(found, Reply):
            return found
        reply = await call_next(call)
        if not reply.is_hit:
            await self._index(call, query, search)
        return reply

    def _query(self, call: Call) -> _Query | str:
        """Return the query for a call, or the reason why the call cannot be searched for."""
        try:
            wording = self._wording(call.request)
            scope = "" if wording is None else self._scope(call, wording)
        except Exception:
            # The hook is code of the service; its failure costs the hit, not the answer.
            return "hook_failed"
        if wording is None or not wording.texts:
            return "no_text"
        text = "\n".join(wording.texts.values())
        if len(text) > _MAX_TEXT_CHARS:
            return "too_long"
        # Sorted by name, so that the order of the fields does not change the digest.
        stated = {name: facts(part) for name, part in sorted(wording.texts.items())}
        words = [word for sentences in stated.values() for sentence in sentences for word in sentence]
        return _Query(text, scope, digest(stated), words)

    def _scope(self, call: Call, wording: Wording) -> str:
        request = call.request
        return digest(
            [
                _SCOPE_VERSION,
                KEY_VERSION,
                {
                    "component_type": request.component_type,
                    "content_hash": request.content_hash,
                    "embedder": self._embedder.name,
                    "figma_key": request.figma_key,
                    "pattern_id": request.pattern_id,
                    "pipeline": call.pipeline,
                    "pipeline_version": self._options.pipeline_version,
                    "rest": wording.rest,
                    "screenshot_hash": request.screenshot_hash,
                    "tenant": request.tenant,
                    "tokens": tokens_digest_of(call),
                },
            ]
        )

    async def _search(self, query: _Query) -> _Search:
        try:
            (vector,) = await self._guarded(self._embedder_guard, self._embedder.embed, [query.text])
        except Exception:
            record_degraded("embedder:lexical")
            return await self._search_lexically(None, query, None)
        try:
            return await self._guarded(self._search_guard, self._search_vectors, query, vector)
        except Exception as exc:
            record_degraded(self._degraded_label)
            return await self._search_lexically(exc, query, vector)

    async def _search_vectors(self, query: _Query, vector: Sequence[float]) -> _Search:
        return _Search(vector, await self._vectors.search(query.scope, vector, limit=_MAX_NEIGHBOURS))

    async def _search_lexically(self, _exc: Exception | None, query: _Query, vector: Sequence[float] | None) -> _Search:
        found = self._lexical_index.search(query.scope, query.words, limit=_MAX_NEIGHBOURS)
        return _Search(vector, found, is_lexical=True)

    async def _choose(self, call: Call, query: _Query, search: _Search) -> Reply | str:
        """Return the answer of the nearest neighbour with the same facts, or the miss reason."""
        least = self._options.thresholds.get(call.request.component_type, self._options.threshold)
        near = [neighbour for neighbour in search.neighbours if neighbour.similarity >= least]
        same = [neighbour for neighbour in near if neighbour.facts == query.facts]
        if not same:
            if search.is_lexical:
                return "backend_down"
            # The reasons tell an operator whether to lower the threshold or to reword the requests.
            return "value_gate" if near else "threshold" if search.neighbours else "cold"
        reason = "cold"
        for neighbour in same:
            found = await self._exact.lookup(replace(call, key=neighbour.id))
            if isinstance(found, CacheEntry):
                return self._reply(found, neighbour)
            # The point outlived its entry, which was invalidated, evicted or lost in a restart.
            reason = "evicted" if found.reason == "cold" else found.reason
            if reason != "backend_down" and not search.is_lexical:
                with suppress(Exception):
                    await self._guarded(self._guard, self._vectors.remove, [neighbour.id])
        return reason

    def _reply(self, found: CacheEntry, neighbour: Neighbour) -> Reply:
        # Rounding errors may push a cosine above 1.
        similarity = round(min(neighbour.similarity, 1.0), 6)
        trace.get_current_span().set_attribute(Attr.CACHE_SIMILARITY, similarity)
        return Reply(
            result=found.result,
            source=LAYER,
            cost_usd=found.cost_usd,
            origin_id=found.origin_id,
            age_s=max(0.0, self._clock() - found.created_ms / 1000),
            similarity=similarity,
        )

    async def _index(self, call: Call, query: _Query, search: _Search) -> None:
        point = Point(
            id=call.key,
            scope=query.scope,
            facts=query.facts,
            vector=search.vector or (),
            expires_at=self._clock() + self._options.ttl_s,
        )
        self._lexical_index.add(point, query.words)
        if search.vector is None or search.is_lexical:
            # The search has just failed: a write would make the caller wait for the same outage again.
            return
        started = time.perf_counter()
        try:
            await self._guarded(self._guard, self._vectors.put, point)
        except Exception:
            record_degraded(self._degraded_label)
        finally:
            record_duration(self._instruments, LAYER, "set", time.perf_counter() - started)

    @staticmethod
    async def _guarded(guard: Guard | None, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        return await (function(*args) if guard is None else guard.call(function, *args))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL_S)
            # The guard counts an unavailable vector store; the next sweep finds the same points.
            with suppress(Exception):
                await self._guarded(self._guard, self._vectors.sweep)
