"""What an application does after the last byte of a response: background tasks, the ends of dependencies.

The server span has ended with the last byte, so that such work makes no request look slow. It has a span of its own,
below the server span and linked to it, where it took long enough to matter or failed. It is written when the work is
over: nothing in ASGI tells before that there is any. Spans that the work opens are below the server span as well.
"""

from typing import Final

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind, Tracer

from forge_otel.telemetry.spans.exceptions import mark_failed, qualified_name

__all__ = ["record_background"]

# Below this it is the return through the application's own middleware.
_MIN_NS: Final = 25_000_000


def record_background(
    tracer: Tracer,
    server: Span,
    *,
    route: str | None,
    started_ns: int,
    ended_ns: int,
    error: BaseException | None,
    with_text: bool,
) -> None:
    """Write the span of what ran between the last byte and the return of the application.

    Args:
        tracer: makes the span.
        server: the span of the request.
        route: its template, for the name.
        started_ns, ended_ns: nanoseconds since the epoch.
        error: what came out of the application then.
        with_text: whether the exception's message may be recorded.
    """
    if error is None and ended_ns - started_ns < _MIN_NS:
        return
    span = tracer.start_span(
        "background" if route is None else f"background {route}",
        context=trace.set_span_in_context(server),
        kind=SpanKind.INTERNAL,
        links=[Link(server.get_span_context())],
        start_time=started_ns,
    )
    if error is not None:
        mark_failed(span, error, error_type=qualified_name(error), with_text=with_text, with_description=False)
    span.end(max(ended_ns, started_ns))
