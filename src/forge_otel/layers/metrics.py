"""Metrics of generations and of cache lookups: duration, outcome and saving, by the layer that answered."""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from opentelemetry import trace

from forge_otel.context import current_generation
from forge_otel.names import Attr, Metric
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Call, CallNext, Reply, outcome_of

__all__ = ["MetricsLayer", "record_duration", "record_lookup"]

_NO_LAYER: Final = "none"
# A lookup that failed for one of these reasons is an error, not a miss.
_FAULTS: Final = frozenset({"backend_down"})


class MetricsLayer:
    """Records the metrics of every generation.

    Args:
        instruments: receive the measurements.
        on_end: receives the exception of each generation, None for a success.
    """

    def __init__(self, instruments: Instruments, *, on_end: Callable[[BaseException | None], None]) -> None:
        self._instruments = instruments
        self._on_end = on_end

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer `call` and measure it, also when it fails or is cancelled."""
        started = time.perf_counter()
        self._instruments.add(Metric.GENERATION_ACTIVE, 1)
        reply: Reply | None = None
        failure: BaseException | None = None
        try:
            reply = await call_next(call)
            return reply
        except BaseException as exc:
            failure = exc
            raise
        finally:
            self._instruments.add(Metric.GENERATION_ACTIVE, -1)
            self._finish(call, reply, failure, time.perf_counter() - started)
            # Breaks the reference cycle of exception, traceback and this frame.
            del failure

    def _finish(self, call: Call, reply: Reply | None, failure: BaseException | None, duration_s: float) -> None:
        self._on_end(failure)
        outcome = "ok" if failure is None else outcome_of(failure)
        layer = _NO_LAYER if reply is None else reply.source
        component_type = call.request.component_type
        self._instruments.record(
            Metric.GENERATION_DURATION,
            duration_s,
            {Attr.COMPONENT_TYPE: component_type, Attr.CACHE_LAYER: layer, Attr.OUTCOME: outcome},
        )
        cache_outcome = "error" if reply is None else "hit" if reply.is_hit else "miss"
        self._instruments.add(Metric.CACHE_LOOKUPS, 1, {Attr.CACHE_OUTCOME: cache_outcome, Attr.CACHE_LAYER: layer})
        if reply is not None and reply.saved_usd:
            self._instruments.add(
                Metric.SAVED, float(reply.saved_usd), {Attr.CACHE_LAYER: layer, Attr.COMPONENT_TYPE: component_type}
            )


def record_lookup(instruments: Instruments, layer: str, duration_s: float, *, reason: str | None) -> None:
    """Count a lookup, and record a miss reason on the running generation.

    Args:
        layer: `"L1"` to `"L3"`.
        duration_s: duration of the lookup in seconds.
        reason: reason of a miss; None for a hit.
    """
    if reason is not None:
        generation = current_generation.get()
        if generation is not None:
            generation.record_miss(layer, reason)
    instruments.add_later(Metric.CACHE_REQUESTS, 1, _result(layer, reason))
    record_duration(instruments, layer, "get", duration_s)


def record_duration(instruments: Instruments, layer: str, operation: str, duration_s: float) -> None:
    """Record the duration of a layer's operation in seconds."""
    span = trace.get_current_span().get_span_context()
    instruments.record_later(Metric.CACHE_DURATION, duration_s, _operation(layer, operation), exemplar=span)


@lru_cache(maxsize=256)
def _result(layer: str, reason: str | None) -> dict[str, str]:
    attributes = {Attr.CACHE_LAYER: layer, Attr.CACHE_RESULT: "hit"}
    if reason is not None:
        attributes[Attr.CACHE_RESULT] = "error" if reason in _FAULTS else "miss"
        attributes[Attr.CACHE_MISS_REASON] = reason
    return attributes


@lru_cache(maxsize=64)
def _operation(layer: str, operation: str) -> dict[str, str]:
    return {Attr.CACHE_LAYER: layer, Attr.CACHE_OPERATION: operation}
