"""Generations and the cache layers that answer them."""

from typing import Final

from forge_otel.names.attributes import Attr
from forge_otel.names.instrument import FAST_S, LONG_S, Instrument

__all__ = ["GenerationMetrics"]


class GenerationMetrics:
    """Generations and the cache layers that answer them."""

    GENERATION_DURATION: Final = Instrument(
        name="forge.generation.duration",
        kind="histogram",
        unit="s",
        description="Duration of generations by who answered.",
        attributes=(Attr.COMPONENT_TYPE, Attr.CACHE_LAYER, Attr.OUTCOME),
        bounds=LONG_S,
    )
    GENERATION_ACTIVE: Final = Instrument(
        name="forge.generation.active",
        kind="up_down_counter",
        unit="{generation}",
        description="Number of generations in flight.",
    )
    CACHE_REQUESTS: Final = Instrument(
        name="forge.cache.requests",
        kind="counter",
        unit="{request}",
        description="Look-ups in a cache layer by their result.",
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
        description="How long calls waited for a generation that was already running, by whose it was.",
        attributes=(Attr.FLIGHT_SCOPE, Attr.OUTCOME),
        bounds=LONG_S,
    )
    FLIGHT_TAKEOVERS: Final = Instrument(
        name="forge.flight.takeovers",
        kind="counter",
        unit="{generation}",
        description="Generations that were begun again because another process did not finish them.",
    )
    FLIGHT_FENCED: Final = Instrument(
        name="forge.flight.fenced",
        kind="counter",
        unit="{write}",
        description="Late cache entries that were refused because another process had taken over.",
    )
    FLIGHT_LEFT: Final = Instrument(
        name="forge.flight.left",
        kind="counter",
        unit="{generation}",
        description="Generations that ended after the caller who began them had left.",
    )
    CACHE_BYTES_SAVED: Final = Instrument(
        name="forge.cache.saved",
        kind="counter",
        unit="By",
        description="Size of the stored answers that cache hits gave back.",
        attributes=(Attr.CACHE_LAYER,),
    )
    CACHE_NEAR_REQUESTS: Final = Instrument(
        name="forge.cache.near.requests",
        kind="counter",
        unit="{request}",
        description="L1's look-ups in the near cache: hit, or miss where the store was asked.",
        attributes=(Attr.CACHE_RESULT,),
    )
    SAVED: Final = Instrument(
        name="forge.genai.cost.saved.usd",
        kind="counter",
        unit="{USD}",
        description="Recorded cost of the generations that cache hits did not have to repeat.",
        attributes=(Attr.CACHE_LAYER, Attr.COMPONENT_TYPE),
    )
    FIGMA_REQUESTS: Final = Instrument(
        name="forge.figma.requests",
        kind="counter",
        unit="{request}",
        description="Questions about Figma files: hit, revalidated, stale, miss or error.",
        attributes=(Attr.FIGMA_FILE, Attr.CACHE_RESULT),
    )
    FIGMA_SAVED: Final = Instrument(
        name="forge.figma.saved",
        kind="counter",
        unit="By",
        description="Size of the Figma answers that did not have to be fetched.",
        attributes=(Attr.FIGMA_FILE,),
    )
    FIGMA_EVENTS: Final = Instrument(
        name="forge.figma.events",
        kind="counter",
        unit="{event}",
        description="Webhook events of Figma by what became of them.",
        attributes=(Attr.FIGMA_EVENT, Attr.OUTCOME),
    )
    BUDGET_DECISIONS: Final = Instrument(
        name="forge.budget.decisions",
        kind="counter",
        unit="{decision}",
        description="Generations that a budget admitted, warned of or refused, by the limit that decided.",
        attributes=(Attr.BUDGET_SCOPE, Attr.OUTCOME),
    )
