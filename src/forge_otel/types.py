"""The nouns: what is asked, what is answered, what is recorded, and the Protocols that others may implement.

Everything here is frozen. What changes while a generation runs lives in `forge_otel.context`.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

from forge_otel.errors import BadRequest, GenerationTimeout

__all__ = [
    "Artifact",
    "Call",
    "CallNext",
    "Cost",
    "GenerationRequest",
    "GenerationResult",
    "Layer",
    "Record",
    "Reply",
    "Sink",
    "Step",
    "Store",
    "Usage",
    "outcome_of",
]

Artifact = str | bytes
"""The content of one artifact: text, or raw bytes."""

ZERO_USD = Decimal(0)

# What may become a folder name, an object key and a URL segment on every store we write to.
_COMPONENT_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}", re.ASCII)
_MAX_NAME_CHARS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One thing to generate.

    Args:
        component_type: what kind of component, of few values, for example ``"button"``.
        figma_key: the key of the Figma file; this or `screenshot_hash` is needed.
        screenshot_hash: the hash of the picture that is the source instead of a Figma file.
        content_hash: hash or version of the design's content, because a design can change under the same key.
        tokens: design tokens, JSON-like.
        requirements: what the component must do, JSON-like.
        component_id: names the archive folder; letters, digits, ``.``, ``_``, ``-``, at most 128 characters.
            Derived from the cache key where it is left out.
        component_name: a name for people.
        pattern_id: the pattern to start from.
        user_id, session_id, tenant: on whose behalf; the tenant separates cache entries.

    Raises:
        BadRequest: a field is missing or malformed.
    """

    component_type: str
    figma_key: str | None = None
    screenshot_hash: str | None = None
    content_hash: str | None = None
    tokens: Mapping[str, Any] = field(default_factory=dict)
    requirements: Mapping[str, Any] = field(default_factory=dict)
    component_id: str | None = None
    component_name: str | None = None
    pattern_id: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    tenant: str | None = None

    def __post_init__(self) -> None:
        if not self.component_type:
            raise BadRequest("component_type is missing; say which kind of component to generate")
        if not (self.figma_key or self.screenshot_hash):
            raise BadRequest("figma_key or screenshot_hash is missing; say which design to generate from")
        component_id: Any = self.component_id
        if component_id is not None and not (isinstance(component_id, str) and _COMPONENT_ID.fullmatch(component_id)):
            raise BadRequest(
                "component_id may hold 1 to 128 letters, digits, '.', '_' and '-', and may not be '.' or '..'"
            )
        for name in ("component_type", "figma_key", "screenshot_hash", "content_hash", "component_name"):
            self._check_length(name)
        for name in ("pattern_id", "user_id", "session_id", "tenant"):
            self._check_length(name)

    def _check_length(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and (not isinstance(value, str) or len(value) > _MAX_NAME_CHARS):
            raise BadRequest(f"{name} must be a string of at most {_MAX_NAME_CHARS} characters")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    """What a generation gave, and where it came from.

    Args:
        code: the main artifact.
        artifacts: name to content, for example ``{"component.tsx": "…"}``.
        report_html: the quality report.
        metadata: JSON-like facts for the caller; a cached answer has them as JSON gives them back.
        source: who answered: ``"L1"``, ``"L2"``, ``"L3"``, ``"L4"`` or ``"collapsed"``; set by the runtime.
        generation_id, trace_id: set by the runtime.
        cost_usd: what this call spent; set by the runtime.
        saved_usd: what this call did not have to spend; set by the runtime.

    Raises:
        TypeError: a field has another type.
    """

    code: str
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    report_html: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = "L4"
    generation_id: str = ""
    trace_id: str = ""
    component_id: str = ""
    cost_usd: Decimal = ZERO_USD
    saved_usd: Decimal = ZERO_USD

    def __post_init__(self) -> None:
        # A wrong type would only be found when the answer is stored, after its money was spent.
        texts: tuple[Any, ...] = (self.code, "" if self.report_html is None else self.report_html, *self.artifacts)
        contents: tuple[Any, ...] = tuple(self.artifacts.values())
        metadata: Any = self.metadata
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("code, report_html and the names of artifacts of a GenerationResult are strings")
        if not all(isinstance(content, str | bytes) for content in contents):
            raise TypeError("the artifacts of a GenerationResult are strings or bytes")
        if not isinstance(metadata, Mapping):
            raise TypeError("metadata of a GenerationResult is a mapping; leave it out where there is none")


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
        api: the service, for example ``"openai"``.
        model: the model, or ``""`` for a service without one.
        agent: the agent that made the call, or ``""``.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The fact of one finished generation: what was asked, who answered, how long, how much, where the artifacts are.

    Args:
        id: UUIDv7 of the generation; what makes delivery idempotent.
        created_at: start, aware, UTC.
        outcome: ``ok``, ``error``, ``timeout`` or ``cancelled``.
        source: who answered, ``""`` where nobody did.
        misses: cache layer to the reason of its miss.
        degraded: the fallbacks that served it.
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
    cost_usd: Decimal = ZERO_USD
    saved_usd: Decimal = ZERO_USD
    costs: tuple[Cost, ...] = ()
    steps: tuple[Step, ...] = ()
    misses: Mapping[str, str] = field(default_factory=dict)
    degraded: tuple[str, ...] = ()
    trace_id: str = ""
    error_type: str | None = None
    error_message: str | None = None
    quality_score: float | None = None
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    artifact_refs: Mapping[str, str] = field(default_factory=dict)


CallNext = Callable[[Call], Awaitable[Reply]]


def outcome_of(exc: BaseException) -> str:
    """Return the outcome that a generation has when `exc` leaves it: ``timeout``, ``cancelled`` or ``error``."""
    if isinstance(exc, asyncio.CancelledError):
        return "cancelled"
    return "timeout" if isinstance(exc, GenerationTimeout | TimeoutError) else "error"


class Layer(Protocol):
    """Stands around a call: may answer, refuse, retry or time it."""

    async def __call__(self, call: Call, call_next: CallNext, /) -> Reply:
        """Answer `call`, usually by awaiting ``call_next(call)``."""
        ...


class Sink(Protocol):
    """Stands after a call: takes finished records, has no say, and can never fail or delay the call."""

    async def deliver(self, records: Sequence[Record], /) -> None:
        """Store the records, all or none; a record seen before changes nothing. Raises to be asked again later."""
        ...


class Store(Protocol):
    """Where cache entries live; values are opaque bytes."""

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys` in their order, in one round trip."""
        ...

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Store `value`, for `ttl_s` seconds or until it is evicted."""
        ...

    async def add(self, key: str, value: bytes) -> bytes:
        """Store `value` if `key` is unset; return what is stored now."""
        ...

    async def delete(self, keys: Sequence[str], /) -> int:
        """Delete the keys; return how many there were."""
        ...
