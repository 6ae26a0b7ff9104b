"""Context variables of the running code: HTTP request, generation, call and user identity.

They propagate to tasks, `asyncio.to_thread` and anyio; `inject` and `extract` carry them to workers in other
processes.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import propagate
from opentelemetry.trace import Span

from forge_otel.types import Call, Cost, Step

__all__ = [
    "Generation",
    "Identity",
    "RequestInfo",
    "bind_identity",
    "current_call",
    "current_generation",
    "current_request",
    "extract",
    "identity",
    "inherited_component_type",
    "inject",
    "record_cache_status",
    "record_degraded",
]

_HEADERS: Final = {"user_id": "forge-user", "session_id": "forge-session", "tenant": "forge-tenant"}
_COMPONENT_HEADER: Final = "forge-component-type"
# Ids from headers of other services must not grow span attributes and records without bound.
_MAX_ID_CHARS: Final = 256
# Bounds the `Cache-Status` header and the record; the spans list every generation of a request.
_MAX_MEMBERS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The user, session and tenant that the running code works for; set on every span below."""

    user_id: str | None = None
    session_id: str | None = None
    tenant: str | None = None


@dataclass(slots=True, kw_only=True)
class Generation:
    """Mutable state of the running generation, from which its `Record` is built at the end.

    Methods are safe to call from the threads that a pipeline starts.
    """

    id: str
    started_at: datetime
    """Timezone-aware, UTC."""
    started_s: float
    """Seconds of the monotonic clock."""
    costs: list[Cost] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    misses: dict[str, str] = field(default_factory=dict)
    degraded: list[str] = field(default_factory=list)
    trace_id: str = ""
    run_url: str = ""
    """Link to the run in LangSmith; "" if unknown."""
    on_progress: Callable[[str, Mapping[str, Any]], None] | None = field(default=None, repr=False)
    """Receives the kind and facts of each progress event; called from any thread."""
    on_degraded: Callable[[str], None] | None = field(default=None, repr=False)
    """Receives each new label in `degraded`; called from any thread."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def record_cost(self, cost: Cost) -> None:
        """Add the cost of one call to a paid service."""
        with self._lock:
            self.costs.append(cost)
        # Read once, here and below: another thread may set it to None when the run ends.
        on_progress = self.on_progress
        if on_progress is not None:
            on_progress("model_call", _cost_facts(cost))

    def record_step_start(self, name: str, kind: str) -> None:
        """Report the start of an agent, tool or step."""
        on_progress = self.on_progress
        if on_progress is not None:
            on_progress("step_started", {"name": name, "step": kind})

    def record_step(self, step: Step) -> None:
        """Add a finished agent, tool or step and report it."""
        with self._lock:
            self.steps.append(step)
        on_progress = self.on_progress
        if on_progress is not None:
            ended = {"name": step.name, "step": step.kind, "duration_s": round(step.duration_s, 6)}
            on_progress("step_ended", ended | ({} if step.error_type is None else {"error_type": step.error_type}))

    def record_miss(self, layer: str, reason: str) -> None:
        """Record the miss reason of a cache layer."""
        self.misses[layer] = reason

    def record_degraded(self, label: str) -> None:
        """Record that a fallback served this generation; each label is kept once."""
        with self._lock:
            if label in self.degraded:
                return
            self.degraded.append(label)
        if self.on_degraded is not None:
            self.on_degraded(label)

    def shared_copy(self) -> "Generation":
        """Return a copy with the same id that shares costs, steps and misses with this one until `detach`."""
        return replace(self, on_progress=None)

    def detach(self, new_id: str) -> None:
        """Leave id, costs and steps to the copy that `shared_copy` returned.

        Args:
            new_id: id of this generation from now on.
        """
        with self._lock:
            self.id = new_id
            self.costs, self.steps = [], []
            self.misses, self.degraded = dict(self.misses), list(self.degraded)
            labels = tuple(self.degraded)
        # Both generations now report these labels in a record of their own.
        if self.on_degraded is not None:
            for label in labels:
                self.on_degraded(label)

    @property
    def spent_usd(self) -> Decimal:
        """Return the sum of the known costs."""
        with self._lock:
            return sum((cost.amount_usd for cost in self.costs if cost.amount_usd is not None), Decimal(0))


def _cost_facts(cost: Cost) -> dict[str, Any]:
    return {
        "api": cost.api,
        "model": cost.model,
        "agent": cost.agent,
        "input_tokens": cost.usage.input_tokens,
        "output_tokens": cost.usage.output_tokens,
        "cost_usd": None if cost.amount_usd is None else str(cost.amount_usd),
    }


@dataclass(slots=True)
class RequestInfo:
    """State of the HTTP or WebSocket request that is being answered.

    Args:
        span: server span of the request.
        cache_status: members of the `Cache-Status` header (RFC 9211).
        etags_and_ages: weak ETag ("" if unknown) and age in seconds of each generation's answer.
        run_url: link to the last generation's run in LangSmith; "" if unknown.
        degraded: fallbacks that served before a generation began; copied to the request's generations.
        has_failed_generation: whether a generation has failed, so that a record has the failure.
    """

    span: Span
    cache_status: list[str] = field(default_factory=list)
    etags_and_ages: list[tuple[str, int]] = field(default_factory=list)
    run_url: str = ""
    degraded: list[str] = field(default_factory=list)
    has_failed_generation: bool = False


current_generation: ContextVar[Generation | None] = ContextVar("forge_generation", default=None)
current_call: ContextVar[Call | None] = ContextVar("forge_call", default=None)
current_request: ContextVar[RequestInfo | None] = ContextVar("forge_request", default=None)
identity: ContextVar[Identity] = ContextVar("forge_identity", default=Identity())  # noqa: B039 - frozen

inherited_component_type: ContextVar[str | None] = ContextVar("forge_component_type", default=None)
"""Component type that the sender of a job was generating; the running call's own type has precedence."""


@contextmanager
def bind_identity(bound: Identity) -> Iterator[None]:
    """Set the current identity inside the block."""
    token = identity.set(bound)
    try:
        yield
    finally:
        identity.reset(token)


def inject(carrier: MutableMapping[str, str]) -> None:
    """Write trace context, identity and component type into `carrier`, for example the headers of a job.

    Args:
        carrier: receives the headers of the configured propagators (W3C `traceparent` by default), `forge-user`,
            `forge-session`, `forge-tenant` and `forge-component-type`.
    """
    propagate.inject(carrier)
    current = identity.get()
    for name, header in _HEADERS.items():
        value = getattr(current, name)
        if value is not None:
            carrier[header] = value
    call = current_call.get()
    component_type = inherited_component_type.get() if call is None else call.request.component_type
    if component_type is not None:
        carrier[_COMPONENT_HEADER] = component_type


@contextmanager
def extract(carrier: Mapping[str, str]) -> Iterator[None]:
    """Continue the trace, identity and component type that `inject` wrote into `carrier`, inside the block.

    Args:
        carrier: headers from a trusted sender; ids of more than 256 characters are ignored.
    """
    found = {name: carrier.get(header) for name, header in _HEADERS.items()}
    sender = Identity(**{name: value for name, value in found.items() if value and len(value) <= _MAX_ID_CHARS})
    component_type = carrier.get(_COMPONENT_HEADER) or None
    sent = inherited_component_type.set(None if len(component_type or "") > _MAX_ID_CHARS else component_type)
    token = otel_context.attach(propagate.extract(carrier))
    try:
        with bind_identity(sender):
            yield
    finally:
        otel_context.detach(token)
        inherited_component_type.reset(sent)


def record_cache_status(source: str, *, is_stored: bool = False, origin_id: str = "", age_s: float = 0.0) -> None:
    """Add a generation to the response's `Cache-Status`, `ETag` and `Age` headers.

    Args:
        source: `"L1"` … `"L4"` or `"collapsed"`, as in `forge_otel.types.Reply`.
        is_stored: whether a new answer was written to the cache.
        origin_id: id of the generation that made the answer.
        age_s: age of the answer in seconds.
    """
    request = current_request.get()
    if request is None or len(request.cache_status) == _MAX_MEMBERS:
        return
    # Weak, because the application decides the bytes of the response; hashed, because the id belongs to another caller.
    tag = hashlib.sha256(origin_id.encode()).hexdigest()[:32] if origin_id else ""
    request.etags_and_ages.append((f'W/"{tag}"' if tag else "", int(age_s)))
    if source == "collapsed":
        member = "forge; fwd=miss; collapsed"
    elif source == "L4":
        member = "forge; fwd=miss; stored" if is_stored else "forge; fwd=miss"
    else:
        member = f"forge; hit; detail={source}"
    request.cache_status.append(member)


def record_degraded(label: str) -> None:
    """Record a fallback on the running generation, or on the request for its later generations.

    Args:
        label: service and fallback, for example `"figma:stale"`.
    """
    generation, request = current_generation.get(), current_request.get()
    if generation is not None:
        generation.record_degraded(label)
    elif request is not None and label not in request.degraded and len(request.degraded) < _MAX_MEMBERS:
        request.degraded.append(label)
