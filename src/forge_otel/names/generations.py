"""Metrics of generations, cache layers, Figma responses and budgets."""

from typing import Final

from forge_otel.names.attributes import Attr
from forge_otel.names.instrument import FAST_S, LONG_S, Instrument

__all__ = ["GenerationMetrics"]


class GenerationMetrics:
    """Instruments of generations and cache layers."""

    GENERATION_DURATION: Final = Instrument(
        name="forge.generation.duration",
        kind="histogram",
        unit="s",
        description="Duration of generations, by the layer that answered.",
        attributes=(Attr.COMPONENT_TYPE, Attr.CACHE_LAYER, Attr.OUTCOME),
        bounds=LONG_S,
    )
    GENERATION_ACTIVE: Final = Instrument(
        name="forge.generation.active",
        kind="up_down_counter",
        unit="{generation}",
        description="Generations in progress.",
    )
    CACHE_REQUESTS: Final = Instrument(
        name="forge.cache.requests",
        kind="counter",
        unit="{request}",
        description="Lookups in a cache layer, by result.",
        attributes=(Attr.CACHE_LAYER, Attr.CACHE_RESULT, Attr.CACHE_MISS_REASON),
    )
    CACHE_LOOKUPS: Final = Instrument(
        name="forge.cache.lookups",
        kind="counter",
        unit="{lookup}",
        description="Generations by the layer that answered, each counted once.",
        attributes=(Attr.CACHE_OUTCOME, Attr.CACHE_LAYER),
    )
    CACHE_DURATION: Final = Instrument(
        name="forge.cache.operation.duration",
        kind="histogram",
        unit="s",
        description="Duration of cache operations.",
        attributes=(Attr.CACHE_LAYER, Attr.CACHE_OPERATION),
        bounds=FAST_S,
    )
    FLIGHT_WAIT: Final = Instrument(
        name="forge.flight.wait.duration",
        kind="histogram",
        unit="s",
        description="Time that calls waited for the result of an identical generation in progress, by its process.",
        attributes=(Attr.FLIGHT_SCOPE, Attr.OUTCOME),
        bounds=LONG_S,
    )
    FLIGHT_TAKEOVERS: Final = Instrument(
        name="forge.flight.takeovers",
        kind="counter",
        unit="{generation}",
        description="Generations restarted because the process that ran them did not finish.",
    )
    FLIGHT_FENCED: Final = Instrument(
        name="forge.flight.fenced",
        kind="counter",
        unit="{write}",
        description="Cache writes rejected because another process had taken over the generation.",
    )
    FLIGHT_LEFT: Final = Instrument(
        name="forge.flight.left",
        kind="counter",
        unit="{generation}",
        description="Generations that ended after the call that started them had been cancelled.",
    )
    CACHE_BYTES_SAVED: Final = Instrument(
        name="forge.cache.saved",
        kind="counter",
        unit="By",
        description="Size of the results returned from the cache.",
        attributes=(Attr.CACHE_LAYER,),
    )
    CACHE_NEAR_REQUESTS: Final = Instrument(
        name="forge.cache.near.requests",
        kind="counter",
        unit="{request}",
        description="L1 lookups in the near cache; a miss queries the store.",
        attributes=(Attr.CACHE_RESULT,),
    )
    SAVED: Final = Instrument(
        name="forge.genai.cost.saved.usd",
        kind="counter",
        unit="{USD}",
        description="Recorded cost of the generations that cache hits replaced.",
        attributes=(Attr.CACHE_LAYER, Attr.COMPONENT_TYPE),
    )
    FIGMA_REQUESTS: Final = Instrument(
        name="forge.figma.requests",
        kind="counter",
        unit="{request}",
        description="Requests for Figma files: hit, revalidated, stale, miss, pending or error.",
        attributes=(Attr.FIGMA_FILE, Attr.CACHE_RESULT),
    )
    FIGMA_SAVED: Final = Instrument(
        name="forge.figma.saved",
        kind="counter",
        unit="By",
        description="Size of the Figma responses served from the cache.",
        attributes=(Attr.FIGMA_FILE,),
    )
    FIGMA_EVENTS: Final = Instrument(
        name="forge.figma.events",
        kind="counter",
        unit="{event}",
        description="Figma webhook events, by outcome.",
        attributes=(Attr.FIGMA_EVENT, Attr.OUTCOME),
    )
    BUDGET_DECISIONS: Final = Instrument(
        name="forge.budget.decisions",
        kind="counter",
        unit="{decision}",
        description="Generations admitted, warned about or refused by a budget, by the scope of the decisive limit.",
        attributes=(Attr.BUDGET_SCOPE, Attr.OUTCOME),
    )
