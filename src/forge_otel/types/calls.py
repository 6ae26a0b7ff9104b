"""A generation on its way through the layers, and the answer on its way back."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from forge_otel.types.requests import ZERO_USD, GenerationRequest, GenerationResult

__all__ = ["Call", "CallNext", "Reply"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A generation on its way through the layers; a layer that wants to change it passes on a copy.

    Args:
        request: what is asked.
        pipeline: the name of the pipeline function.
        key: SHA-256 of all that decides the answer, lower-case hex.
        component_id: the archive folder.
        run: the pipeline itself; what `Forge` puts innermost awaits it.
        pattern: what an L3 hit hands to the pipeline.
    """

    request: GenerationRequest
    pipeline: str
    key: str
    component_id: str
    run: Callable[[], Awaitable[GenerationResult]]
    pattern: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What comes back through the layers.

    Args:
        result: the answer.
        source: who answered: ``"L1"`` … ``"L4"`` or ``"collapsed"``.
        cost_usd: what the answer cost when it was made.
        origin_id: the generation that made the answer; for a hit not the running one.
        age_s: how long ago the answer was made.
        is_stored: whether a fresh answer went into the cache.
    """

    result: GenerationResult
    source: str = "L4"
    cost_usd: Decimal = ZERO_USD
    origin_id: str = ""
    age_s: float = 0.0
    is_stored: bool = False

    @property
    def is_hit(self) -> bool:
        """Whether the answer was there before it was asked for, or was made for somebody else at the same moment."""
        return self.source != "L4"

    @property
    def saved_usd(self) -> Decimal:
        """What the caller did not have to spend: the recorded cost of the generation that made the answer."""
        return self.cost_usd if self.is_hit else ZERO_USD


CallNext = Callable[[Call], Awaitable[Reply]]
