"""Metrics of calls to services: breakers, retries, fallbacks, error spikes."""

from typing import Final

from forge_otel.names.attributes import Attr
from forge_otel.names.instrument import Instrument

__all__ = ["ServiceMetrics"]


class ServiceMetrics:
    """Instruments of calls to services."""

    BREAKER_STATE: Final = Instrument(
        name="forge.breaker.state",
        kind="observable_gauge",
        unit="",
        description="1 for the current state of a circuit breaker, 0 for its other states.",
        attributes=(Attr.BREAKER_NAME, Attr.BREAKER_STATE),
    )
    BREAKER_TRANSITIONS: Final = Instrument(
        name="forge.breaker.transitions",
        kind="counter",
        unit="{transition}",
        description="State changes of circuit breakers.",
        attributes=(Attr.BREAKER_NAME, Attr.BREAKER_FROM, Attr.BREAKER_TO),
    )
    BREAKER_CALLS: Final = Instrument(
        name="forge.breaker.calls",
        kind="observable_counter",
        unit="{call}",
        description="Calls through circuit breakers, by outcome.",
        attributes=(Attr.BREAKER_NAME, Attr.OUTCOME),
    )
    RETRIES: Final = Instrument(
        name="forge.retry.attempts",
        kind="counter",
        unit="{attempt}",
        description="Attempts after the first, by service; exhausted if the retry budget did not allow one.",
        attributes=(Attr.BREAKER_NAME, Attr.OUTCOME),
    )
    FALLBACKS: Final = Instrument(
        name="forge.fallback.activations",
        kind="counter",
        unit="{activation}",
        description="Fallbacks that served a result, each counted once for a generation.",
        attributes=(Attr.BREAKER_NAME, Attr.FALLBACK),
    )
    ERROR_SPIKE: Final = Instrument(
        name="forge.errors.spike",
        kind="observable_gauge",
        unit="",
        description="1 during a spike of the error rate of generations.",
    )
