"""What every look-up of a cache layer leaves behind: a result in the metrics, the reason of a miss in the record."""

from forge_otel.context import current_generation
from forge_otel.names import Attr, Metric
from forge_otel.telemetry.instruments import Instruments

__all__ = ["note_degraded", "note_lookup", "time_operation"]

_FAULTS = frozenset({"backend_down"})


def note_lookup(instruments: Instruments, layer: str, duration_s: float, *, reason: str | None) -> None:
    """Count a look-up, and tell the running generation why it was a miss.

    Args:
        layer: ``"L2"`` or ``"L3"``.
        duration_s: seconds.
        reason: of the miss; None for a hit.
    """
    attributes = {Attr.CACHE_LAYER: layer, Attr.CACHE_RESULT: "hit"}
    if reason is not None:
        attributes[Attr.CACHE_RESULT] = "error" if reason in _FAULTS else "miss"
        attributes[Attr.CACHE_MISS_REASON] = reason
        generation = current_generation.get()
        if generation is not None:
            generation.note_miss(layer, reason)
    instruments.add(Metric.CACHE_REQUESTS, 1, attributes)
    time_operation(instruments, layer, "get", duration_s)


def time_operation(instruments: Instruments, layer: str, operation: str, duration_s: float) -> None:
    """Record how long an operation of a layer took, in seconds."""
    instruments.record(Metric.CACHE_DURATION, duration_s, {Attr.CACHE_LAYER: layer, Attr.CACHE_OPERATION: operation})


def note_degraded(label: str) -> None:
    """Tell the running generation what serves in place of something."""
    generation = current_generation.get()
    if generation is not None:
        generation.note_degraded(label)
