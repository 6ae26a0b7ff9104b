"""What only a service can tell its caches."""

from collections.abc import Callable
from dataclasses import dataclass, field

from forge_otel.layers.pattern.layer import PatternHooks
from forge_otel.layers.semantic.lexical_index import Wording, wording_of
from forge_otel.types import GenerationRequest

__all__ = ["CacheHooks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheHooks:
    """The hooks of the cache layers, given as `Forge(hooks=CacheHooks(…))`.

    Args:
        wording: says what of a request is free text, which may be worded in another way.
        patterns: what the service knows of its patterns.
    """

    wording: Callable[[GenerationRequest], Wording | None] = wording_of
    patterns: PatternHooks = field(default_factory=PatternHooks)
