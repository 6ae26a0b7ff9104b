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

# What may become a folder name, an object key and a URL segment on every store we write to.
_COMPONENT_ID: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}", re.ASCII)
_MAX_NAME_CHARS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One thing to generate.

    Args:
        component_type: what kind of component, of few values, for example `"button"`.
        figma_key: the key of the Figma file; this or `screenshot_hash` is needed.
        screenshot_hash: the hash of the picture that is the source instead of a Figma file.
        content_hash: hash or version of the design's content, because a design can change under the same key.
        tokens: design tokens, JSON-like.
        requirements: what the component must do, JSON-like.
        component_id: names the archive folder; letters, digits, `.`, `_`, `-`, at most 128 characters.
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
        artifacts: name to content, for example `{"component.tsx": "…"}`.
        report_html: the quality report.
        metadata: JSON-like facts for the caller; a cached answer has them as JSON gives them back.
        source: who answered: `"L1"`, `"L2"`, `"L3"`, `"L4"` or `"collapsed"`; set by the runtime.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A vector with what may be asked of it; the answer itself is kept elsewhere, under `id`.

    Args:
        id: the key of the answer.
        scope: digest of everything that must be equal.
        facts: digest of what the text says; it never holds the text.
        vector: of length 1.
        expires_at: seconds since 1970.
    """

    id: str
    scope: str
    facts: str
    vector: Sequence[float] = field(repr=False)
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A point that was found.

    Args:
        similarity: cosine, 1 for the same direction.
    """

    id: str
    facts: str
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to generate for a key, until it ends or somebody else has a higher fence.

    Args:
        key: of the cache entry that is being made.
        token: of this holder alone.
        fence: rises with every holder of the key.
    """

    key: str
    token: str
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHeld:
    """Why there is no lease now.

    Args:
        remaining_s: seconds until the other holder's lease expires if it is not renewed; 0 without a holder.
        failure: what a generation left that failed since this caller began to wait.
    """

    remaining_s: float = 0.0
    failure: bytes | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a running generation did.

    Args:
        fence: of the run.
        number: counts the run's events from 1.
        data: JSON.
    """

    fence: int
    number: int
    data: bytes


TERMINAL: Final = frozenset({"done", "failed"})
"""The kinds after which nothing comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Something that happened in a running generation; holds no contents, only names and figures.

    Args:
        id: `<run>-<number>`, rising also from one run to the one that takes over from it.
        kind: `started`, `step_started`, `step_ended`, `model_call`, `truncated`, `done` or `failed`.
        at_s: seconds since the run began.
        facts: JSON-like: `name` and `step` of agents, tools and steps, `model` and tokens of model calls …
    """

    id: str
    kind: str
    at_s: float
    facts: Mapping[str, Any] = field(default_factory=dict)
