"""L2, the semantic cache: the same request in other words has the same answer.

First a hard filter: tenant, design, tokens, component type, pipeline, its version, the embedding model and all that is
no free text must be equal. Then the texts must be near (cosine), and then they must say the same: the value gate of
`forge_otel.text_matching`. Rather a miss than a wrong component.

An answer is kept once, in the exact cache; a point holds its key. So what invalidates an entry there invalidates it
here, and an entry that is gone is a miss. A point neither holds the text nor anything that it could be read from.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar

from opentelemetry import trace

from forge_otel.context import record_degraded
from forge_otel.keys import digest
from forge_otel.layers.cache_metrics import record_duration, record_lookup
from forge_otel.layers.exact.entry import CacheEntry
from forge_otel.layers.exact.layer import ExactCacheLayer
from forge_otel.layers.semantic.lexical_index import LexicalIndex, Wording, wording_of
from forge_otel.names import Attr
from forge_otel.resilience.fallback import Fallback
from forge_otel.resilience.guard import Guard
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.text_matching import facts
from forge_otel.types import Call, CallNext, Embedder, GenerationRequest, Neighbour, Point, Reply, VectorStore

__all__ = ["SemanticCacheLayer"]

T = TypeVar("T")

LAYER: Final = "L2"
_SCOPE_VERSION: Final = "forge:l2:v1"
_NEIGHBOURS: Final = 8
_MAX_TEXT_CHARS: Final = 8_000
_SWEEP_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked, as it is looked up."""

    text: str
    scope: str
    facts: str
    words: Sequence[str]


@dataclass(slots=True)
class _Search:
    """What came of a look-up, and what is needed to keep an answer."""

    vector: Sequence[float] | None = None
    neighbours: Sequence[Neighbour] = ()
    is_lexical: bool = False


class SemanticCacheLayer:
    """The L2 layer; opened, it forgets in the background what is too old.

    Args:
        vectors: where points live.
        embedder: turns texts into vectors.
        answers: the exact cache, which stands further out and keeps the answers.
        instruments: where hits, misses and durations are counted.
        pipeline_version: part of the hard filter.
        wording: says what of a request is free text.
        threshold: the least cosine.
        thresholds: the same by component type.
        ttl_s: life of a point in seconds.
        guard: stands around the calls to `vectors`; None where they are in this process.
        embedder_guard: stands around the calls to `embedder`; None likewise.
        service: what `degraded` calls the vectors.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        vectors: VectorStore,
        embedder: Embedder,
        answers: ExactCacheLayer,
        *,
        instruments: Instruments,
        pipeline_version: str,
        wording: Callable[[GenerationRequest], Wording | None] = wording_of,
        threshold: float = 0.92,
        thresholds: Mapping[str, float] = MappingProxyType({}),
        ttl_s: float = 24 * 3600.0,
        guard: Guard | None = None,
        embedder_guard: Guard | None = None,
        service: str = "vectors",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._vectors = vectors
        self._embedder = embedder
        self._answers = answers
        self._instruments = instruments
        self._pipeline_version = pipeline_version
        self._wording = wording
        self._threshold = threshold
        self._thresholds = thresholds
        self._ttl_s = ttl_s
        self._guard = guard
        self._embedder_guard = embedder_guard
        self._label = f"{service}:lexical"
        self._clock = clock
        self._recent = LexicalIndex(clock=clock)
        self._sweeping: asyncio.Task[None] | None = None
        self._search_guard = guard and guard.using(fallbacks=[Fallback(self._label, self._among_recent)])

    async def __aenter__(self) -> Self:
        self._sweeping = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
            self._sweeping = None

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer with what was answered to the same in other words, or remember what the inner layers answer."""
        started = time.perf_counter()
        question = self._question(call)
        if isinstance(question, str):
            record_lookup(self._instruments, LAYER, time.perf_counter() - started, reason=question)
            return await call_next(call)
        search = await self._search(question)
        found = await self._choose(call, question, search)
        reason = found if isinstance(found, str) else None
        record_lookup(self._instruments, LAYER, time.perf_counter() - started, reason=reason)
        if isinstance(found, Reply):
            return found
        reply = await call_next(call)
        if not reply.is_hit:
            await self._remember(call, question, search)
        return reply

    def _question(self, call: Call) -> _Question | str:
        """Take a request apart, or say why it is not looked up."""
        try:
            wording = self._wording(call.request)
            scope = "" if wording is None else self._scope(call, wording)
        except Exception:
            return "hook_failed"
        if wording is None or not wording.texts:
            return "no_text"
        text = "\n".join(wording.texts.values())
        if len(text) > _MAX_TEXT_CHARS:
            return "too_long"
        said = {name: facts(part) for name, part in sorted(wording.texts.items())}
        words = [word for sentences in said.values() for sentence in sentences for word in sentence]
        return _Question(text, scope, digest(said), words)

    def _scope(self, call: Call, wording: Wording) -> str:
        request = call.request
        return digest(
            [
                _SCOPE_VERSION,
                {
                    "component_type": request.component_type,
                    "content_hash": request.content_hash,
                    "embedder": self._embedder.name,
                    "figma_key": request.figma_key,
                    "pattern_id": request.pattern_id,
                    "pipeline": call.pipeline,
                    "pipeline_version": self._pipeline_version,
                    "rest": wording.rest,
                    "screenshot_hash": request.screenshot_hash,
                    "tenant": request.tenant,
                    "tokens": request.tokens,
                },
            ]
        )

    async def _search(self, question: _Question) -> _Search:
        try:
            (vector,) = await self._guarded(self._embedder_guard, self._embedder.embed, [question.text])
        except Exception:
            record_degraded("embedder:lexical")
            return await self._among_recent(None, question, None)
        try:
            return await self._guarded(self._search_guard, self._among_all, question, vector)
        except Exception as exc:
            record_degraded(self._label)
            return await self._among_recent(exc, question, vector)

    async def _among_all(self, question: _Question, vector: Sequence[float]) -> _Search:
        return _Search(vector, await self._vectors.search(question.scope, vector, limit=_NEIGHBOURS))

    async def _among_recent(
        self, _exc: Exception | None, question: _Question, vector: Sequence[float] | None
    ) -> _Search:
        found = self._recent.search(question.scope, question.words, limit=_NEIGHBOURS)
        return _Search(vector, found, is_lexical=True)

    async def _choose(self, call: Call, question: _Question, search: _Search) -> Reply | str:
        """Return the answer of the nearest neighbour that says the same, or the reason why there is none."""
        least = self._thresholds.get(call.request.component_type, self._threshold)
        near = [neighbour for neighbour in search.neighbours if neighbour.similarity >= least]
        same = [neighbour for neighbour in near if neighbour.facts == question.facts]
        if not same:
            if search.is_lexical:
                return "backend_down"
            return "value_gate" if near else "threshold" if search.neighbours else "cold"
        reason = "cold"
        for neighbour in same:
            found = await self._answers.look_up(replace(call, key=neighbour.id))
            if isinstance(found, CacheEntry):
                return self._reply(found, neighbour)
            # The point outlived its answer: an epoch, an eviction, a restart.
            reason = "evicted" if found.reason == "cold" else found.reason
            if reason != "backend_down" and not search.is_lexical:
                with suppress(Exception):
                    await self._guarded(self._guard, self._vectors.remove, [neighbour.id])
        return reason

    def _reply(self, found: CacheEntry, neighbour: Neighbour) -> Reply:
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

    async def _remember(self, call: Call, question: _Question, search: _Search) -> None:
        point = Point(
            id=call.key,
            scope=question.scope,
            facts=question.facts,
            vector=search.vector or (),
            expires_at=self._clock() + self._ttl_s,
        )
        self._recent.add(point, question.words)
        if search.vector is None or search.is_lexical:
            # It was away a moment ago: the caller does not wait for it a second time.
            return
        started = time.perf_counter()
        try:
            await self._guarded(self._guard, self._vectors.put, point)
        except Exception:
            record_degraded(self._label)
        finally:
            record_duration(self._instruments, LAYER, "set", time.perf_counter() - started)

    @staticmethod
    async def _guarded(guard: Guard | None, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        return await (function(*args) if guard is None else guard.call(function, *args))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            with suppress(Exception):
                await self._guarded(self._guard, self._vectors.sweep)
