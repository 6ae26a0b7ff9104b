"""What is remembered of a generation: its calls to paid services, its steps, and the record of it all."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from forge_otel.errors import GenerationTimeout
from forge_otel.types.requests import ZERO_USD, Artifact

__all__ = ["Cost", "Record", "Step", "Usage", "outcome_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one model call, as a partition: no token is in two of the numbers, their sum is the bill."""

    input_uncached: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def input_tokens(self) -> int:
        """All tokens sent, cached ones included."""
        return self.input_uncached + self.cache_read + self.cache_write

    @property
    def output_tokens(self) -> int:
        """All tokens received, reasoning included."""
        return self.output + self.reasoning


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one call to a paid service cost.

    Args:
        api: the service, for example `"openai"`.
        model: the model, or `""` for a service without one.
        agent: the agent that made the call, or `""`.
        usage: the tokens of the call.
        amount_usd: None where no price is known, never 0 in its place.
    """

    api: str
    model: str = ""
    agent: str = ""
    usage: Usage = field(default_factory=Usage)
    amount_usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One finished agent, tool or step of a generation, for the table of timings."""

    name: str
    kind: str
    started_s: float
    """Seconds after the generation's start."""
    duration_s: float
    error_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The fact of one finished generation: what was asked, who answered, how long, how much, where the artifacts are.

    Args:
        id: UUIDv7 of the generation; what makes delivery idempotent.
        created_at: start, aware, UTC.
        outcome: `ok`, `error`, `timeout` or `cancelled`.
        source: who answered, `""` where nobody did.
        similarity: of the question that was answered before, where L2 answered.
        misses: cache layer to the reason of its miss.
        degraded: the fallbacks that served it.
        langsmith_url: where LangSmith shows its run; None where that was not known when it ended.
        artifacts: the contents to archive; empty where nothing was answered.
    """

    id: str
    created_at: datetime
    duration_s: float
    outcome: str
    pipeline: str
    pipeline_version: str
    component_type: str
    component_id: str
    key: str
    component_name: str | None = None
    figma_key: str | None = None
    screenshot_hash: str | None = None
    content_hash: str | None = None
    pattern_id: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    tenant: str | None = None
    source: str = ""
    origin_id: str = ""
    similarity: float | None = None
    cost_usd: Decimal = ZERO_USD
    saved_usd: Decimal = ZERO_USD
    costs: tuple[Cost, ...] = ()
    steps: tuple[Step, ...] = ()
    misses: Mapping[str, str] = field(default_factory=dict)
    degraded: tuple[str, ...] = ()
    trace_id: str = ""
    langsmith_url: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    quality_score: float | None = None
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    artifact_refs: Mapping[str, str] = field(default_factory=dict)


def outcome_of(exc: BaseException) -> str:
    """Return the outcome that a generation has when `exc` leaves it: `timeout`, `cancelled` or `error`."""
    if isinstance(exc, asyncio.CancelledError):
        return "cancelled"
    return "timeout" if isinstance(exc, GenerationTimeout | TimeoutError) else "error"
