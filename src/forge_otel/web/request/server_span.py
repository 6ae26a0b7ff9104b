"""Who owns the server span of a request: whoever opened one before us, else we do. There is never a second one.

========================================  ================================  ==========  ============
who stands outside us                     how it is recognised              span        duration
========================================  ================================  ==========  ============
FastAPI's own telemetry                   `fastapi.telemetry` in scope    adopted     theirs
contrib's ASGI and FastAPI middleware     current SERVER span, its library  adopted     ours, or theirs after the opt-in
Starlette's `OpenTelemetryMiddleware`   current SERVER span               adopted     ours
nobody                                                                      own         ours
========================================  ================================  ==========  ============

What stands *inside* us, applications below a mount too, is told by the marks that those two frameworks look for in the
scope, so that they stay silent. contrib's middleware inside us makes its span an INTERNAL one by itself.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Tracer
from starlette.types import Scope

from forge_otel.context import current_request
from forge_otel.web.request import fastapi_telemetry as native
from forge_otel.web.request.attributes import CARRIER, HeaderFacts

__all__ = ["ServerSpan", "TrustContext", "adopt", "carrier_fields", "own"]

TrustContext = Literal["accept", "link", "ignore"]
"""What to do with a trace that the caller claims to continue: continue it, link to it, or nothing."""

_STARLETTE: Final = "starlette.opentelemetry"
_CONTRIB: Final = "opentelemetry.instrumentation."
_CONTRIB_MODULE: Final = "opentelemetry.instrumentation.asgi"
_STABLE_NAMES_VARIABLE: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"


class ServerSpan(NamedTuple):
    """The one server span of a request, and which parts of the work are ours.

    Args:
        span: the span, perhaps not recording.
        context: to be attached while the application runs; None where the span is current already.
        is_own: whether it is ours to end.
        names_route: whether the route is ours to write.
        records_exceptions: whether an exception is ours to write.
        counts_duration: whether the duration sample is ours.
        counts_active: whether the number of requests in flight is ours.
    """

    span: Span
    context: Context | None = None
    is_own: bool = False
    names_route: bool = True
    records_exceptions: bool = True
    counts_duration: bool = True
    counts_active: bool = True


def carrier_fields() -> frozenset[bytes]:
    """Return the header names that the configured propagators read."""
    return frozenset(name.lower().encode("latin-1") for name in propagate.get_global_textmap().fields)


def adopt(scope: Scope) -> ServerSpan | None:
    """Return the server span that somebody else has opened for this request; nobody below opens another one."""
    found = _opened(scope)
    if found is not None:
        _silence(scope)
    return found


def _opened(scope: Scope) -> ServerSpan | None:
    followed = scope.get(native.KEY)
    if followed is not None:
        span = getattr(followed, "span", None)
        return None if span is None else _native(span, scope)
    if current_request.get() is not None:
        # The current span belongs to a request of ours, whose handler calls this application in-process.
        return None
    span = trace.get_current_span()
    context = span.get_span_context()
    if not context.is_valid or context.is_remote:
        return None
    if span.is_recording():
        return _recording(span, scope)
    # A span that is not recorded tells neither its kind nor its library.
    return _contrib(span, scope) if _CONTRIB_MODULE in sys.modules else None


def own(
    scope: Scope, tracer: Tracer, *, name: str, headers: HeaderFacts, attributes: Mapping[str, Any], trust: TrustContext
) -> ServerSpan:
    """Open the server span of this request.

    Args:
        scope: gets the marks that keep the frameworks inside from opening another one.
        tracer: makes the span.
        name: until the route is known.
        headers: may carry the trace of the caller.
        attributes: what is known before routing, so that samplers see it.
        trust: what to do with the caller's trace.
    """
    followed = _silence(scope)
    context: Context | None = None
    links = None
    if headers.carrier is not None and trust != "ignore":
        claimed = propagate.extract(headers.carrier, getter=CARRIER)
        if trust == "accept":
            context = claimed
        else:
            links = [Link(trace.get_current_span(claimed).get_span_context())]
    span = tracer.start_span(name, context=context, kind=SpanKind.SERVER, attributes=attributes, links=links)
    meters = followed is not None and native.meters(scope)
    return ServerSpan(
        span,
        context=trace.set_span_in_context(span, context),
        is_own=True,
        counts_duration=not meters,
        counts_active=not meters,
    )


def _silence(scope: Scope) -> Any:
    """Leave the marks that keep frameworks inside from opening a server span; return FastAPI's, where it is there."""
    scope[_STARLETTE] = True
    return scope.setdefault(native.KEY, None)


def _native(span: Span, scope: Scope) -> ServerSpan:
    meters = native.meters(scope)
    return ServerSpan(span, names_route=False, counts_duration=not meters, counts_active=not meters)


def _recording(span: Span, scope: Scope) -> ServerSpan | None:
    if getattr(span, "kind", None) is not SpanKind.SERVER:
        return None
    library = getattr(getattr(span, "instrumentation_scope", None), "name", "")
    if library.startswith(_CONTRIB):
        return _contrib(span, scope)
    # Starlette's middleware lets the SDK record what passes through it.
    return ServerSpan(span, records_exceptions=library != "starlette")


def _contrib(span: Span, scope: Scope) -> ServerSpan:
    stable_names = {name.strip() for name in os.environ.get(_STABLE_NAMES_VARIABLE, "").split(",")}
    return ServerSpan(
        span,
        records_exceptions=_is_answered_before(_CONTRIB_MODULE, scope),
        # Without the opt-in it records http.server.duration in milliseconds, which is another instrument.
        counts_duration=not stable_names & {"http", "http/dup"},
        counts_active=False,
    )


def _is_answered_before(module: str, scope: Scope) -> bool:
    """Tell whether an exception is a finished 500 by the time that the middleware of `module` sees it.

    So it is where that middleware wraps a Starlette application from the outside: the answer ends its span, and the
    exception that follows finds nowhere to be written.
    """
    layer: Any = getattr(scope.get("app"), "middleware_stack", None)
    is_starlette = layer is not None
    while layer is not None and type(layer).__module__ != module:
        layer = getattr(layer, "app", None)
    return is_starlette and layer is None
