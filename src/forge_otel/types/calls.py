"""A generation on its way through the layers, and the answer on its way back."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from forge_otel.types.patterns import Adapted
from forge_otel.types.requests import ZERO_USD, GenerationRequest, GenerationResult

__all__ = ["CacheSlot", "Call", "CallNext", "Reply"]


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
        cache_slot: the entry of the exact cache for this answer; None if no exact cache encloses the call.
    """

    request: GenerationRequest
    pipeline: str
    key: str
    component_id: str
    run: Callable[[], Awaitable[GenerationResult]]
    pattern: Adapted | None = None
    cache_slot: "CacheSlot | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What comes back through the layers.

    Args:
        result: the answer.
        source: who answered: `"L1"` … `"L4"` or `"collapsed"`.
        cost_usd: what the answer cost when it was made.
        origin_id: the generation that made the answer; for a hit not the running one.
        age_s: how long ago the answer was made.
        similarity: of the question that was answered before, for an L2 hit.
        is_stored: whether a fresh answer is known to be in the cache.
    """

    result: GenerationResult
    source: str = "L4"
    cost_usd: Decimal = ZERO_USD
    origin_id: str = ""
    age_s: float = 0.0
    similarity: float | None = None
    is_stored: bool = False

    @property
    def is_hit(self) -> bool:
        """Whether the answer was there before it was asked for, or was made for somebody else at the same moment."""
        return self.source != "L4"

    @property
    def saved_usd(self) -> Decimal:
        """What the caller did not have to spend: the recorded cost of the generation that made the answer."""
        return self.cost_usd if self.is_hit else ZERO_USD


class CacheSlot(Protocol):
    """The place of one answer in the exact cache, for a layer that makes one answer for many callers."""

    @property
    def is_known(self) -> bool:
        """Whether the cache could be asked, so that an answer can be kept in it."""
        ...

    async def find(self, value: bytes | None = None) -> Reply | None:
        """Look again.

        Args:
            value: the entry as another process has sealed it; None asks the cache.
        """
        ...

    async def put(
        self, reply: Reply, *, commit: Callable[[bytes, float | None], Awaitable[bool | None]] | None = None
    ) -> bool:
        """Keep the answer and say whether it is known to be kept; the cache will not do so again.

        Args:
            commit: asked with the sealed entry and its life in seconds: True has written it, False may not, None leaves
                it to the cache.
        """
        ...

    async def settled(self) -> None:
        """Return when what was put is written or given up, which `put` does not wait for when the cache is slow."""
        ...


CallNext = Callable[[Call], Awaitable[Reply]]
