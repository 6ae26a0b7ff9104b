"""What surrounds the running code: the request, the running generation, and on whose behalf.

ContextVars follow tasks, `asyncio.to_thread` and anyio; `inject` and `extract` carry them to workers in other
processes. Nothing here starts or stops anything.
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
    "inject",
    "note_cache",
    "note_degraded",
    "sent_component_type",
]

_HEADERS: Final = {"user_id": "forge-user", "session_id": "forge-session", "tenant": "forge-tenant"}
_COMPONENT_HEADER: Final = "forge-component-type"
_MAX_ID_CHARS: Final = 256
# One member a generation; a request that runs more says so on its spans.
_MAX_MEMBERS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """On whose behalf the running code works; every span below carries it."""

    user_id: str | None = None
    session_id: str | None = None
    tenant: str | None = None


@dataclass(slots=True, kw_only=True)
class Generation:
    """The generation that is running; layers, spans and model calls note here what the record will say.

    Safe to use from the threads that a pipeline starts.
    """

    id: str
    started_at: datetime
    """Aware, UTC."""
    started_s: float
    """Monotonic clock."""
    costs: list[Cost] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    misses: dict[str, str] = field(default_factory=dict)
    degraded: list[str] = field(default_factory=list)
    trace_id: str = ""
    run_url: str = ""
    """Where LangSmith shows it; "" where that is not known."""
    watch: Callable[[str, Mapping[str, Any]], None] | None = field(default=None, repr=False)
    """Told what happens, for those who follow the generation; from any thread."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def note_cost(self, cost: Cost) -> None:
        """Add what one paid call cost."""
        with self._lock:
            self.costs.append(cost)
        if self.watch is not None:
            self.watch("model_call", _told_cost(cost))

    def note_start(self, name: str, kind: str) -> None:
        """Say that an agent, tool or step has begun."""
        if self.watch is not None:
            self.watch("step_started", {"name": name, "step": kind})

    def note_step(self, step: Step) -> None:
        """Add a finished agent, tool or step."""
        with self._lock:
            self.steps.append(step)
        if self.watch is not None:
            ended = {"name": step.name, "step": step.kind, "duration_s": round(step.duration_s, 6)}
            self.watch("step_ended", ended | ({} if step.error_type is None else {"error_type": step.error_type}))

    def note_miss(self, layer: str, reason: str) -> None:
        """Say why a cache layer could not answer."""
        self.misses[layer] = reason

    def note_degraded(self, what: str) -> None:
        """Say which fallback served this generation, once each."""
        with self._lock:
            if what not in self.degraded:
                self.degraded.append(what)

    def shared(self) -> "Generation":
        """Return a generation of the same id and the same notes, which goes on when this one is left with `leave`."""
        return replace(self, watch=None)

    def leave(self, new_id: str) -> None:
        """Give id, costs and steps up to the generation that `shared` returned.

        Args:
            new_id: what this one is called from now on.
        """
        with self._lock:
            self.id = new_id
            self.costs, self.steps = [], []
            self.misses, self.degraded = dict(self.misses), list(self.degraded)

    @property
    def spent_usd(self) -> Decimal:
        """The sum of the known costs."""
        with self._lock:
            return sum((cost.amount_usd for cost in self.costs if cost.amount_usd is not None), Decimal(0))


def _told_cost(cost: Cost) -> dict[str, Any]:
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
    """The request that is being answered.

    Args:
        span: its server span.
        cache_status: members of the `Cache-Status` header (RFC 9211).
        run_url: where LangSmith shows its last generation; "" where that is not known.
        degraded: the fallbacks that served before a generation began; its generations say so, too.
    """

    span: Span
    cache_status: list[str] = field(default_factory=list)
    answers: list[tuple[str, int]] = field(default_factory=list)
    run_url: str = ""
    degraded: list[str] = field(default_factory=list)


current_generation: ContextVar[Generation | None] = ContextVar("forge_generation", default=None)
current_call: ContextVar[Call | None] = ContextVar("forge_call", default=None)
current_request: ContextVar[RequestInfo | None] = ContextVar("forge_request", default=None)
identity: ContextVar[Identity] = ContextVar("forge_identity", default=Identity())  # noqa: B039 - frozen

sent_component_type: ContextVar[str | None] = ContextVar("forge_component_type", default=None)
"""What the sender of a job was generating; the running call's own type goes before it."""


@contextmanager
def bind_identity(who: Identity) -> Iterator[None]:
    """Work on behalf of `who` inside the block."""
    token = identity.set(who)
    try:
        yield
    finally:
        identity.reset(token)


def inject(carrier: MutableMapping[str, str]) -> None:
    """Write the running trace and identity into `carrier`, for example the headers of a job.

    Args:
        carrier: W3C `traceparent` and the like, and `forge-user`, `forge-session`, `forge-tenant` and
            `forge-component-type` are set.
    """
    propagate.inject(carrier)
    who = identity.get()
    for name, header in _HEADERS.items():
        value = getattr(who, name)
        if value is not None:
            carrier[header] = value
    call = current_call.get()
    component_type = sent_component_type.get() if call is None else call.request.component_type
    if component_type is not None:
        carrier[_COMPONENT_HEADER] = component_type


@contextmanager
def extract(carrier: Mapping[str, str]) -> Iterator[None]:
    """Continue the trace, identity and component type that `inject` wrote into `carrier`, inside the block.

    Args:
        carrier: must come from a sender that is trusted; over-long ids are left out.
    """
    found = {name: carrier.get(header) for name, header in _HEADERS.items()}
    who = Identity(**{name: value for name, value in found.items() if value and len(value) <= _MAX_ID_CHARS})
    component_type = carrier.get(_COMPONENT_HEADER) or None
    sent = sent_component_type.set(None if len(component_type or "") > _MAX_ID_CHARS else component_type)
    token = otel_context.attach(propagate.extract(carrier))
    try:
        with bind_identity(who):
            yield
    finally:
        otel_context.detach(token)
        sent_component_type.reset(sent)


def note_cache(source: str, *, is_stored: bool = False, origin_id: str = "", age_s: float = 0.0) -> None:
    """Say in the response's `Cache-Status` header who answered a generation.

    Args:
        source: `"L1"` … `"L4"` or `"collapsed"`, as in `forge_otel.types.Reply`.
        is_stored: whether a fresh answer went into the cache.
        origin_id: the generation that made the answer.
        age_s: how long ago that was.
    """
    request = current_request.get()
    if request is None or len(request.cache_status) == _MAX_MEMBERS:
        return
    # Weak, because the response's bytes are the application's; hashed, because the id is another caller's.
    mark = hashlib.sha256(origin_id.encode()).hexdigest()[:32] if origin_id else ""
    request.answers.append((f'W/"{mark}"' if mark else "", int(age_s)))
    if source == "collapsed":
        member = "forge; fwd=miss; collapsed"
    elif source == "L4":
        member = "forge; fwd=miss; stored" if is_stored else "forge; fwd=miss"
    else:
        member = f"forge; hit; detail={source}"
    request.cache_status.append(member)


def note_degraded(what: str) -> None:
    """Say which fallback served the running generation, or the generations that the running request will begin.

    Args:
        what: the service and what served in its place, for example `"figma:stale"`.
    """
    generation, request = current_generation.get(), current_request.get()
    if generation is not None:
        generation.note_degraded(what)
    elif request is not None and what not in request.degraded and len(request.degraded) < _MAX_MEMBERS:
        request.degraded.append(what)
