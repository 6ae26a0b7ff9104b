"""What the pattern cache hands to a pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from forge_otel.types.requests import ZERO_USD, GenerationResult

__all__ = ["Adapted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """A pattern, made ready for one set of design tokens; a pipeline finds it as `current_call.get().pattern`.

    Args:
        pattern_id: of the pattern.
        body: what the pipeline can use of it, JSON-like: only the pipeline knows its meaning.
        result: the whole answer, if there is one already.
        is_complete: whether `result` is the answer; otherwise the pipeline is run, and finds the pattern.
        cost_usd: what it cost to make.
        origin_id: the generation that it comes from.
    """

    pattern_id: str
    body: Mapping[str, Any] = field(default_factory=dict)
    result: GenerationResult | None = None
    is_complete: bool = False
    cost_usd: Decimal = ZERO_USD
    origin_id: str = ""
