"""Functions by which a service adapts the semantic and the pattern cache to its requests."""

from collections.abc import Callable
from dataclasses import dataclass, field

from forge_otel.layers.pattern.layer import PatternHooks
from forge_otel.layers.semantic.lexical_index import Wording, wording_of
from forge_otel.types import GenerationRequest

__all__ = ["CacheHooks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheHooks:
    """Hooks of the cache layers, passed as `Forge(hooks=CacheHooks(…))`.

    Args:
        wording: returns the free text of a request, which may be paraphrased; None for a request without free text.
        patterns: functions of the pattern cache.
    """

    wording: Callable[[GenerationRequest], Wording | None] = wording_of
    patterns: PatternHooks = field(default_factory=PatternHooks)
