"""The single server span of a request: adopted from other instrumentation, or opened here.

=======================================  ================================  ==========  ===========================
outer instrumentation                    recognised by                     span        duration sample
=======================================  ================================  ==========  ===========================
FastAPI's own telemetry                  `fastapi.telemetry` in scope      adopted     FastAPI's
contrib's ASGI and FastAPI middleware    current SERVER span, its library  adopted     ours; contrib's with opt-in
Starlette's `OpenTelemetryMiddleware`    current SERVER span               adopted     ours
none                                                                       opened      ours
=======================================  ================================  ==========  ===========================

Inner instrumentation, also of mounted applications, is kept from opening a second server span by scope entries that
FastAPI and Starlette look for. contrib's middleware below an open server span makes an INTERNAL span.

Spans of other libraries are probed with `getattr`: the API's Span has neither kind nor instrumentation scope.
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
from forge_otel.web.request import fastapi_telemetry
from forge_otel.web.request.attributes import CARRIER, HeaderFacts

__all__ = ["ServerSpan", "TrustContext", "adopt", "carrier_fields", "open_span"]

TrustContext = Literal["accept", "link", "ignore"]
"""Treatment of the caller's trace context: continue the trace, link to it, or ignore it."""

_STARLETTE: Final = "starlette.opentelemetry"
_CONTRIB: Final = "opentelemetry.instrumentation."
_CONTRIB_MODULE: Final = "opentelemetry.instrumentation.asgi"
_STABLE_NAMES_VARIABLE: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"


class ServerSpan(NamedTuple):
    """The server span of a request, and what the middleware must record itself.

    Args:
        span: may be non-recording.
        context: context to attach while the application runs; None if the span is current already.
        is_own: the middleware ends the span.
        names_route: the middleware sets the route.
        records_exceptions: the middleware records exceptions.
        counts_duration: the middleware records the duration sample.
        counts_active: the middleware counts the request as in flight.
    """

    span: Span
    context: Context | None = None
    is_own: bool = False
    names_route: bool = True
    records_exceptions: bool = True
    counts_duration: bool = True
    counts_active: bool = True


def carrier_fields() -> frozenset[bytes]:
    """Return the names of the headers that the configured propagators read."""
    return frozenset(name.lower().encode("latin-1") for name in propagate.get_global_textmap().fields)


def adopt(scope: Scope) -> ServerSpan | None:
    """Return the server span that outer instrumentation opened for this request, None if there is none.

    Args:
        scope: gets the entries that keep inner frameworks from opening another server span.
    """
    found = _opened_outside(scope)
    if found is not None:
        _suppress_inner(scope)
    return found


def _opened_outside(scope: Scope) -> ServerSpan | None:
    fastapi_state = scope.get(fastapi_telemetry.SCOPE_KEY)
    if fastapi_state is not None:
        span = getattr(fastapi_state, "span", None)
        return None if span is None else _adopt_fastapi(span, scope)
    if current_request.get() is not None:
        # A handler calls this application in-process: the current span belongs to the outer request.
        return None
    span = trace.get_current_span()
    context = span.get_span_context()
    if not context.is_valid or context.is_remote:
        return None
    if span.is_recording():
        return _adopt_recording(span, scope)
    # A non-recording span has neither kind nor library.
    return _adopt_contrib(span, scope) if _CONTRIB_MODULE in sys.modules else None


def open_span(
    scope: Scope, tracer: Tracer, *, name: str, headers: HeaderFacts, attributes: Mapping[str, Any], trust: TrustContext
) -> ServerSpan:
    """Open the server span of this request.

    Args:
        scope: gets the entries that keep inner frameworks from opening another server span.
        tracer: creates the span.
        name: name of the span until the route is known.
        headers: with the caller's trace context, if any.
        attributes: attributes known before routing, visible to samplers.
        trust: treatment of the caller's trace context.
    """
    fastapi_state = _suppress_inner(scope)
    context: Context | None = None
    links = None
    if headers.carrier is not None and trust != "ignore":
        claimed = propagate.extract(headers.carrier, getter=CARRIER)
        if trust == "accept":
            context = claimed
        else:
            links = [Link(trace.get_current_span(claimed).get_span_context())]
    span = tracer.start_span(name, context=context, kind=SpanKind.SERVER, attributes=attributes, links=links)
    is_counted = fastapi_state is not None and fastapi_telemetry.records_duration(scope)
    return ServerSpan(
        span,
        context=trace.set_span_in_context(span, context),
        is_own=True,
        counts_duration=not is_counted,
        counts_active=not is_counted,
    )


def _suppress_inner(scope: Scope) -> Any:
    """Set the scope entries that keep inner frameworks from opening a server span, and return FastAPI's entry."""
    scope[_STARLETTE] = True
    return scope.setdefault(fastapi_telemetry.SCOPE_KEY, None)


def _adopt_fastapi(span: Span, scope: Scope) -> ServerSpan:
    is_counted = fastapi_telemetry.records_duration(scope)
    return ServerSpan(span, names_route=False, counts_duration=not is_counted, counts_active=not is_counted)


def _adopt_recording(span: Span, scope: Scope) -> ServerSpan | None:
    if getattr(span, "kind", None) is not SpanKind.SERVER:
        return None
    library = getattr(getattr(span, "instrumentation_scope", None), "name", "")
    if library.startswith(_CONTRIB):
        return _adopt_contrib(span, scope)
    # Starlette's middleware leaves exceptions to the SDK, which records them.
    return ServerSpan(span, records_exceptions=library != "starlette")


def _adopt_contrib(span: Span, scope: Scope) -> ServerSpan:
    stable_names = {name.strip() for name in os.environ.get(_STABLE_NAMES_VARIABLE, "").split(",")}
    return ServerSpan(
        span,
        records_exceptions=_is_answered_below(_CONTRIB_MODULE, scope),
        # Without the opt-in to stable names, contrib records another instrument: http.server.duration in milliseconds.
        counts_duration=not stable_names & {"http", "http/dup"},
        counts_active=False,
    )


def _is_answered_below(module: str, scope: Scope) -> bool:
    """Return whether Starlette answers an exception with a 500 before the middleware of `module` sees the exception.

    This is the case if that middleware wraps a Starlette application from outside.
    """
    # Its span has then ended with the response, before the exception could be recorded on it.
    layer: Any = getattr(scope.get("app"), "middleware_stack", None)
    is_starlette = layer is not None
    while layer is not None and type(layer).__module__ != module:
        layer = getattr(layer, "app", None)
    return is_starlette and layer is None
