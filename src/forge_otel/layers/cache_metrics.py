"""Metrics of cache lookups and operations, and the miss reasons of the running generation."""

from functools import lru_cache
from typing import Final

from opentelemetry import trace

from forge_otel.context import current_generation
from forge_otel.names import Attr, Metric
from forge_otel.telemetry.metrics.instruments import Instruments

__all__ = ["record_duration", "record_lookup"]

_FAULTS: Final = frozenset({"backend_down"})


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
