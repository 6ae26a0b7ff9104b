"""The data that passes through the system: requests, results, calls, replies, records, points, leases and progress.

All of it is frozen. State that changes while a generation runs is in `forge_otel.context`.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Protocol

from forge_otel.errors import BadRequest, GenerationTimeout

__all__ = [
    "TERMINAL",
    "ZERO_USD",
    "Adapted",
    "Artifact",
    "CacheSlot",
    "Call",
    "CallNext",
    "Cost",
    "DigestMemo",
    "Event",
    "GenerationRequest",
    "GenerationResult",
    "Lease",
    "LeaseHeld",
    "Neighbour",
    "Point",
    "Progress",
    "Record",
    "Reply",
    "Step",
    "Usage",
    "outcome_of",
]

Artifact = str | bytes
"""The content of one artifact: text, or raw bytes."""

ZERO_USD: Final = Decimal(0)

# A component id becomes a folder name, an object key and a URL segment.
_COMPONENT_ID: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}", re.ASCII)
# The length of the column `component_type` in the database.
_MAX_NAME_CHARS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """Request for one component.

    Args:
        component_type: kind of component, for example `"button"`; it becomes a metric label, so keep its values few.
        figma_key: key of the Figma file; this or `screenshot_hash` is required.
        screenshot_hash: hash of the image that replaces a Figma file as the source.
        content_hash: hash or version of the design, because a design can change under the same Figma key.
        tokens: design tokens, JSON-like.
        requirements: requirements of the component, JSON-like.
        component_id: names the archive folder; letters, digits, `.`, `_`, `-`, at most 128 characters.
            Derived from the cache key if omitted.
        component_name: human-readable name.
        pattern_id: pattern to start from.
        user_id, session_id, tenant: identity of the caller; cache entries are not shared between tenants.

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
    """Result of a generation and its source.

    Args:
        code: the main artifact.
        artifacts: name to content, for example `{"component.tsx": "…"}`.
        report_html: the quality report.
        metadata: JSON-like facts for the caller; those of a cached result have been through JSON.
        source: layer that answered: `"L1"`, `"L2"`, `"L3"`, `"L4"` or `"collapsed"`; set by the runtime.
        generation_id, trace_id: set by the runtime.
        cost_usd: cost of this call; set by the runtime.
        saved_usd: cost that a cache has avoided; set by the runtime.
        degraded: fallbacks that served this call, for example `"outbox:memory"`; set by the runtime.

    Raises:
        TypeError: a field has the wrong type.
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
    degraded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Otherwise a wrong type would only fail when the answer is stored, after the generation was paid for.
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
class Adapted:
    """Pattern adapted to one set of design tokens; a pipeline reads it from `current_call.get().pattern`.

    Args:
        pattern_id: of the pattern.
        body: JSON-like content, interpreted by the pipeline alone.
        result: complete answer, if there is one.
        is_complete: whether `result` is returned; otherwise the pipeline runs with the pattern.
        cost_usd: cost of the generation that made the pattern.
        origin_id: id of that generation.
    """

    pattern_id: str
    body: Mapping[str, Any] = field(default_factory=dict)
    result: GenerationResult | None = None
    is_complete: bool = False
    cost_usd: Decimal = ZERO_USD
    origin_id: str = ""


class DigestMemo:
    """Digests of the mappings of one call, so that each is computed once."""

    # By identity, because hashing would cost as much as the digest. A memo ends with its call; a change of a mapping
    # during the call does not change the call's key either.

    def __init__(self) -> None:
        self._digests: dict[tuple[int, str], tuple[Any, str]] = {}

    def get(self, value: Mapping[str, Any], form: str) -> str | None:
        """Return the digest of this very object in a canonical form; None if it is not known."""
        found = self._digests.get((id(value), form))
        return None if found is None else found[1]

    def keep(self, value: Mapping[str, Any], form: str, digest: str) -> str:
        """Keep and return a digest."""
        # The reference keeps the id from being reused.
        self._digests[id(value), form] = (value, digest)
        return digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A generation on its way through the layers; a layer that changes it passes on a copy.

    Args:
        request: the request.
        pipeline: name of the pipeline.
        key: SHA-256 of everything that determines the answer, lower-case hex.
        component_id: archive folder.
        run: the pipeline, awaited innermost.
        pattern: pattern of an L3 hit, for the pipeline.
        cache_slot: the entry of the exact cache for this answer; None if no exact cache encloses the call.
        digests: digests of the tokens and requirements of the request; see `forge_otel.keys.tokens_digest_of`.
    """

    request: GenerationRequest
    pipeline: str
    key: str
    component_id: str
    run: Callable[[], Awaitable[GenerationResult]]
    pattern: Adapted | None = None
    cache_slot: "CacheSlot | None" = None
    digests: DigestMemo = field(default_factory=DigestMemo, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Answer on its way back through the layers.

    Args:
        result: the answer.
        source: layer that answered: `"L1"` … `"L4"` or `"collapsed"`.
        cost_usd: cost of making the answer.
        origin_id: id of the generation that made the answer; for a hit not the current one.
        age_s: seconds since the answer was made.
        similarity: cosine similarity of the earlier request, for an L2 hit.
        is_stored: whether a new answer is known to be in the cache.
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
        """Return whether the answer came from a cache or from a concurrent generation of the same request."""
        return self.source != "L4"

    @property
    def saved_usd(self) -> Decimal:
        """Cost that the hit has avoided: the recorded cost of the generation that made the answer."""
        return self.cost_usd if self.is_hit else ZERO_USD


class CacheSlot(Protocol):
    """The entry of one call in the exact cache, for a layer that shares one answer between many callers."""

    @property
    def is_available(self) -> bool:
        """Return whether the store answered the lookup, so that the answer can be stored."""
        ...

    async def lookup(self, value: bytes | None = None) -> Reply | None:
        """Look the answer up again.

        Args:
            value: the sealed entry of another process; None reads the store.
        """
        ...

    async def store(
        self, reply: Reply, *, commit: Callable[[bytes, float | None], Awaitable[bool | None]] | None = None
    ) -> bool:
        """Store the answer and return whether it is known to be stored; the cache does not store it a second time.

        Args:
            commit: receives the sealed entry and its TTL in seconds. It returns True if it has written the entry, False
                if the entry must not be written, None to leave writing to the cache.
        """
        ...

    async def wait_written(self) -> None:
        """Wait until a write that `store` left in the background is done or given up."""
        ...


CallNext = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one model call as a partition: each billed token is counted in exactly one field."""

    input_uncached: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def input_tokens(self) -> int:
        """Input tokens, cached ones included."""
        return self.input_uncached + self.cache_read + self.cache_write

    @property
    def output_tokens(self) -> int:
        """Output tokens, reasoning included."""
        return self.output + self.reasoning


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cost of one call to a paid service.

    Args:
        api: the service, for example `"openai"`.
        model: model, or `""` for a service without models.
        agent: agent that made the call, or `""`.
        usage: the tokens of the call.
        amount_usd: None if the price is unknown, never 0 instead.
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
    """Seconds since the start of the generation."""
    duration_s: float
    error_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Record of one finished generation: request, source, duration, costs and artifacts.

    Args:
        id: UUIDv7 of the generation, which makes delivery idempotent.
        created_at: start of the generation, aware, UTC.
        outcome: `ok`, `error`, `timeout` or `cancelled`.
        source: layer that answered, `""` for a failure.
        similarity: cosine similarity of the earlier request, for an L2 hit.
        misses: cache layer to the reason of its miss.
        degraded: fallbacks that served the generation.
        langsmith_url: page of the run in LangSmith; None if it was unknown at the end of the generation.
        artifacts: contents to archive; empty for a failure.
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
    """Return the outcome of a generation that raised `exc`: `timeout`, `cancelled` or `error`."""
    if isinstance(exc, asyncio.CancelledError):
        return "cancelled"
    return "timeout" if isinstance(exc, GenerationTimeout | TimeoutError) else "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A vector and its filters; the answer itself is in the exact cache, under `id`.

    Args:
        id: key of the answer.
        scope: digest of everything that must be equal for a hit.
        facts: digests of the values in the text, never the text.
        vector: unit vector.
        expires_at: seconds since 1970.
    """

    id: str
    scope: str
    facts: str
    vector: Sequence[float] = field(repr=False)
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A search result.

    Args:
        similarity: cosine similarity, 1 for the same direction.
    """

    id: str
    facts: str
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to generate an entry, until the lease expires or a higher fence is granted.

    Args:
        key: of the cache entry that is being generated.
        token: identifies the holder.
        fence: fencing number, which rises with every holder of the key.
    """

    key: str
    token: str
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHeld:
    """Reason why a lease was not granted.

    Args:
        remaining_s: seconds until the other holder's lease expires if it is not renewed; 0 without a holder.
        failure: error of a generation that failed while the caller was waiting.
    """

    remaining_s: float = 0.0
    failure: bytes | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Progress event of a run, as it is stored.

    Args:
        fence: of the run.
        number: position in the run, from 1.
        data: JSON.
    """

    fence: int
    number: int
    data: bytes


TERMINAL: Final = frozenset({"done", "failed"})
"""Kinds of the last event of a generation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress event of a running generation; it has names and figures, no contents.

    Args:
        id: `<run>-<number>`, also rising from a run to the one that takes over from it.
        kind: `started`, `step_started`, `step_ended`, `model_call`, `truncated`, `done` or `failed`.
        at_s: seconds since the run began.
        facts: JSON-like: `name` and `step` of agents, tools and steps, `model` and tokens of model calls …
    """

    id: str
    kind: str
    at_s: float
    facts: Mapping[str, Any] = field(default_factory=dict)
