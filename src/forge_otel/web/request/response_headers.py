"""Headers that the middleware adds to responses: trace id, `Server-Timing`, `Cache-Status`, `ETag` and `Age`."""

import time
from dataclasses import dataclass

from opentelemetry.trace import format_trace_id
from starlette.types import Message

from forge_otel.context import RequestInfo

__all__ = ["ResponseHeaders", "with_headers"]

RawHeaders = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHeaders:
    """Options of the added response headers.

    Args:
        trace_id: name of the header with the trace id (32 hex digits); None omits it.
        server_timing: add `Server-Timing: total` with the milliseconds until the response started.
        cache_status: add `Cache-Status` (RFC 9211) with a member per finished generation, `ETag` and `Age`.
        run_url: name of the header with the URL of the last generation's LangSmith run, for example
            `"x-langsmith-run"`; None omits it.
    """

    trace_id: str | None = "x-trace-id"
    server_timing: bool = True
    cache_status: bool = True
    run_url: str | None = None


def with_headers(message: Message, options: ResponseHeaders, info: RequestInfo, *, started_s: float) -> Message:
    """Return the `http.response.start` message with added headers.

    Args:
        message: as sent by the application; it is not modified, since the application may reuse it.
        options: which headers to add.
        info: the request.
        started_s: start of the request on the `perf_counter` clock.
    """
    headers: RawHeaders = list(message.get("headers", ()))
    before = len(headers)
    context = info.span.get_span_context()
    if options.trace_id is not None and context.is_valid:
        name = options.trace_id.encode("latin-1")
        if not any(present.lower() == name for present, _ in headers):
            headers.append((name, format_trace_id(context.trace_id).encode("ascii")))
    if options.server_timing:
        headers.append((b"server-timing", b"total;dur=%.1f" % ((time.perf_counter() - started_s) * 1000)))
    if options.cache_status and info.cache_status:
        headers.append((b"cache-status", ", ".join(info.cache_status).encode("ascii")))
        headers.extend(_etag_and_age(info, message["status"], headers))
    if options.run_url is not None and info.run_url:
        headers.append((options.run_url.encode("latin-1"), info.run_url.encode("ascii", "ignore")))
    return message if len(headers) == before else {**message, "headers": headers}


def _etag_and_age(info: RequestInfo, status: int, headers: RawHeaders) -> RawHeaders:
    """Return `ETag` and `Age` of a successful response with one generation, unless the application set them."""
    if len(info.etags_and_ages) != 1 or not 200 <= status < 300:
        return []
    ((etag, age_s),) = info.etags_and_ages
    added = [(b"etag", etag.encode("ascii"))] if etag else []
    if age_s:
        added.append((b"age", str(age_s).encode("ascii")))
    names = {name.lower() for name, _ in headers}
    return [(name, value) for name, value in added if name not in names]
