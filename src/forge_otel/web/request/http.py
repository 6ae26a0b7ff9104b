"""One HTTP request: its server span, duration sample, body limit and error responses.

Span and sample end with the last byte of the response: a stream counts in full, background tasks after it do not.
"""

import logging
import time
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind, Tracer
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forge_otel.context import Identity, RequestInfo, bind_identity, current_request
from forge_otel.errors import ForgeError, PayloadTooLarge
from forge_otel.names import Attr, Metric
from forge_otel.telemetry.spans.exceptions import mark_failed, qualified_name, record_exception
from forge_otel.web.problems import internal_error, problem_of
from forge_otel.web.request.attributes import OTHER_METHOD, HeaderFacts, request_attributes
from forge_otel.web.request.options import SharedState
from forge_otel.web.request.response_headers import with_headers
from forge_otel.web.request.server_span import ServerSpan, adopt, open_span

__all__ = ["DISCONNECTED", "UNMATCHED", "HttpExchange", "record_background"]

_logger = logging.getLogger(__name__)

DISCONNECTED: Final = "client_disconnected"
"""`error.type` of a request whose client disconnected; the span is not marked as failed."""
UNMATCHED: Final = "_unmatched"
"""`http.route` on metrics of unmatched paths; raw paths would create a series for every guessed URL."""

_BODY_MESSAGES: Final = frozenset({"http.response.body", "http.response.zerocopysend", "http.response.pathsend"})
# A shorter time after the response is the return through the application's own middleware.
_MIN_BACKGROUND_NS: Final = 25_000_000


class _RequestBody:
    """The part of the request body that the application has read.

    Args:
        limit_bytes: maximum size.
    """

    __slots__ = ("_limit_bytes", "read_bytes", "rejection")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.read_bytes = 0
        self.rejection: PayloadTooLarge | None = None

    def check_declared(self, size_bytes: int | None) -> None:
        """Raise PayloadTooLarge if the declared size exceeds the limit."""
        if size_bytes is not None and size_bytes > self._limit_bytes:
            raise self._too_large()

    def advance(self, message: Message) -> None:
        """Count the bytes of an `http.request` message and raise PayloadTooLarge beyond the limit."""
        self.read_bytes += len(message.get("body", b""))
        if self.read_bytes > self._limit_bytes:
            self.rejection = self._too_large()
            raise self.rejection

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"the request body is larger than the limit of {self._limit_bytes} bytes; send less")


class _ResponseState:
    """The part of the response that the application has sent, and when it was complete."""

    __slots__ = ("_has_trailers", "ended_ns", "ended_s", "is_size_known", "sent_bytes", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.sent_bytes = 0
        self.is_size_known = True
        self.ended_s: float | None = None
        self.ended_ns: int | None = None
        self._has_trailers = False

    def start(self, message: Message) -> None:
        """Record an `http.response.start` message."""
        self.status = message["status"]
        self._has_trailers = message.get("trailers", False)

    def advance(self, message: Message) -> bool:
        """Record a later message and return whether it is the last one."""
        kind = message["type"]
        if kind in _BODY_MESSAGES:
            if "body" in message:
                self.sent_bytes += len(message["body"])
            elif kind != "http.response.body":
                # The server sends a file, whose size it does not report.
                self.is_size_known = False
            return not message.get("more_body", False) and not self._has_trailers
        return kind == "http.response.trailers" and not message.get("more_trailers", False)


class HttpExchange:
    """One request and its response.

    Args:
        state: state shared by the requests of one middleware.
        scope: the ASGI scope.
        headers: headers of the request.
        receive, send: callables of the server.
    """

    __slots__ = (
        "_body",
        "_cause",
        "_disconnected",
        "_error_type",
        "_finished",
        "_headers",
        "_info",
        "_is_failed",
        "_late_error",
        "_method",
        "_options",
        "_receive",
        "_response",
        "_route",
        "_scheme",
        "_scope",
        "_send",
        "_server",
        "_started_s",
        "_state",
    )

    def __init__(self, state: SharedState, *, scope: Scope, headers: HeaderFacts, receive: Receive, send: Send) -> None:
        # First, so that reading the headers counts.
        self._started_s = time.perf_counter()
        self._state = state
        self._options = state.options
        self._scope = scope
        self._headers = headers
        self._receive = receive
        self._send = send
        attributes = request_attributes(scope, headers.found)
        self._method = str(attributes[Attr.HTTP_METHOD])
        self._scheme = str(attributes[Attr.URL_SCHEME])
        self._server: ServerSpan = adopt(scope) or open_span(
            scope,
            state.telemetry.tracer,
            name=self._method_name(),
            headers=headers,
            attributes=attributes,
            trust=state.options.trust_context,
        )
        self._info = RequestInfo(self._server.span)
        self._body = _RequestBody(state.settings.max_body_bytes)
        self._response = _ResponseState()
        self._route: str | None = None
        self._error_type: str | None = None
        # The exception behind a 5xx response that this class sends.
        self._cause: Exception | None = None
        # The exception that the application raised after the response was complete.
        self._late_error: BaseException | None = None
        self._disconnected = False
        self._finished = self._is_failed = False

    async def run(self, app: ASGIApp) -> None:
        """Serve the request with `app`."""
        context = self._server.context
        context_token = None if context is None else otel_context.attach(context)
        request_token = current_request.set(self._info)
        if self._server.counts_active:
            self._state.telemetry.active_requests.enter((self._method, self._scheme))
        try:
            await self._serve(app)
        finally:
            if not self._finished:
                # Without a last byte, the application returned before or in the middle of its response.
                self._finish(incomplete=self._response.ended_s is None)
            elif self._response.ended_ns is not None:
                record_background(
                    self._state.telemetry.tracer,
                    self._server.span,
                    route=self._route,
                    started_ns=self._response.ended_ns,
                    ended_ns=time.time_ns(),
                    error=self._late_error,
                    with_text=self._state.settings.capture_content,
                )
            current_request.reset(request_token)
            if context_token is not None:
                otel_context.detach(context_token)

    async def receive_with_limit(self) -> Message:
        """Receive a message for the application and count the bytes of the body.

        Raises:
            PayloadTooLarge: the body exceeds the limit.
        """
        message = await self._receive()
        if message["type"] == "http.request":
            self._body.advance(message)
        elif message["type"] == "http.disconnect" and not self._finished:
            self._disconnected = True
        return message

    async def send_with_telemetry(self, message: Message) -> None:
        """Send a message of the application, with added headers, and detect the end of the response."""
        if self._body.rejection is not None and self._response.status is None:
            # Frameworks turn the rejected body into a response of their own, often a 400; ours follows in `_call`.
            return
        await self._forward(message)

    async def _serve(self, app: ASGIApp) -> None:
        try:
            await self._call(app)
        except ForgeError as exc:
            await self._respond(problem_of(exc), exc)
        except Exception as exc:
            if not self._options.handle_errors or self._response.status is not None:
                self._record_error(exc)
                raise
            _logger.exception("application failed on %s %s", self._method, self._scope["path"])
            await self._respond(internal_error(), exc)
        except BaseException as exc:
            self._record_error(exc)
            raise

    async def _call(self, app: ASGIApp) -> None:
        self._body.check_declared(self._headers.content_length)
        identity = None if self._options.identity is None else self._options.identity(self._scope)
        if identity is None:
            await app(self._scope, self.receive_with_limit, self.send_with_telemetry)
        else:
            self._server.span.set_attributes(_identity_attributes(identity))
            with bind_identity(identity):
                await app(self._scope, self.receive_with_limit, self.send_with_telemetry)
        if self._body.rejection is not None and self._response.status is None:
            raise self._body.rejection

    async def _respond(self, response: Response, exc: Exception) -> None:
        """Send a response in place of the application's, or re-raise `exc` if its response has started."""
        if self._response.status is not None:
            self._record_error(exc)
            raise exc
        if response.status_code >= 500:
            self._cause = exc
        await response(self._scope, self._receive, self._forward)

    async def _forward(self, message: Message) -> None:
        is_last = False
        if message["type"] == "http.response.start":
            self._response.start(message)
            message = with_headers(message, self._options.response_headers, self._info, started_s=self._started_s)
        else:
            is_last = self._response.advance(message)
        if is_last and not self._server.is_own:
            # The owner of the span ends it while this message passes.
            self._describe()
        try:
            await self._send(message)
        except OSError:
            self._disconnected = True
            raise
        if is_last:
            self._response.ended_s = time.perf_counter()
            self._response.ended_ns = time.time_ns()
            # After a 500, Starlette's outermost middleware re-raises the exception, which belongs on the span.
            if self._response.status is None or self._response.status < 500:
                self._finish()

    def _record_error(self, exc: BaseException) -> None:
        """Record an exception that the application raised; after the last byte it does not affect the request."""
        if self._finished:
            self._late_error = exc
            return
        self._finish(exc)
        if self._response.ended_ns is not None and not self._server.is_own and not self._server.span.is_recording():
            # A mounted application sends its 500 before it raises, and the span's owner has ended the span by then.
            self._late_error = exc

    def _finish(self, exc: BaseException | None = None, *, incomplete: bool = False) -> None:
        self._finished = True
        if exc is not None or incomplete or self._server.is_own:
            self._describe(exc, incomplete=incomplete)
        if self._is_failed and not self._info.has_failed_generation:
            self._state.telemetry.unrecorded.add_failed_request()
        if self._server.counts_active:
            self._state.telemetry.active_requests.leave((self._method, self._scheme))
        if self._server.counts_duration:
            self._record_duration((self._response.ended_s or time.perf_counter()) - self._started_s)
        if self._server.is_own:
            self._server.span.end(self._response.ended_ns)

    def _record_duration(self, duration_s: float) -> None:
        labels: dict[str, str | int] = {
            Attr.HTTP_METHOD: self._method,
            Attr.URL_SCHEME: self._scheme,
            Attr.HTTP_ROUTE: self._route or UNMATCHED,
        }
        if self._response.status is not None:
            labels[Attr.HTTP_STATUS] = self._response.status
        if self._error_type is not None:
            labels[Attr.ERROR_TYPE] = self._error_type
        self._state.telemetry.instruments.record_later(
            Metric.HTTP_DURATION, duration_s, labels, exemplar=self._server.span.get_span_context()
        )

    def _describe(self, exc: BaseException | None = None, *, incomplete: bool = False) -> None:
        """Set route, sizes, status and error on the span."""
        self._route = self._state.templates.find(self._scope)
        self._is_failed = self._resolve_outcome(exc or self._cause, incomplete=incomplete)
        span = self._server.span
        if not span.is_recording():
            return
        attributes: dict[str, str | int] = {}
        if self._response.is_size_known:
            # The application may send a body to HEAD, which the server drops.
            attributes[Attr.HTTP_RESPONSE_SIZE] = 0 if self._method == "HEAD" else self._response.sent_bytes
        if self._body.read_bytes:
            attributes[Attr.HTTP_REQUEST_SIZE] = self._body.read_bytes
        if self._response.status is not None:
            attributes[Attr.HTTP_STATUS] = self._response.status
        if self._error_type is not None:
            attributes[Attr.ERROR_TYPE] = self._error_type
        if self._route is not None and self._server.names_route:
            attributes[Attr.HTTP_ROUTE] = self._route
            span.update_name(f"{self._method_name()} {self._route}")
        span.set_attributes(attributes)
        if self._is_failed:
            with_text = self._state.settings.capture_content
            _mark_failed(self._server, exc or self._cause, self._error_type or "", with_text=with_text)

    def _resolve_outcome(self, exc: BaseException | None, *, incomplete: bool) -> bool:
        """Determine status and error type, and return whether the service failed."""
        if self._disconnected:
            self._error_type = DISCONNECTED
            return False
        if self._response.status is None and (incomplete or isinstance(exc, Exception)):
            # The server, or Starlette's outermost middleware, will respond with a 500.
            self._response.status = 500
        if exc is not None:
            self._error_type = qualified_name(exc)
        elif incomplete:
            self._error_type = "incomplete_response"
        elif self._response.status is not None and self._response.status >= 500:
            self._error_type = str(self._response.status)
        return self._error_type is not None

    def _method_name(self) -> str:
        return "HTTP" if self._method == OTHER_METHOD else self._method


def _identity_attributes(identity: Identity) -> dict[str, str]:
    known = {Attr.USER_ID: identity.user_id, Attr.SESSION_ID: identity.session_id, Attr.TENANT: identity.tenant}
    return {name: value for name, value in known.items() if value is not None}


def _mark_failed(server: ServerSpan, error: BaseException | None, error_type: str, *, with_text: bool) -> None:
    if server.is_own:
        mark_failed(server.span, error, error_type=error_type, with_text=with_text, with_description=False)
    elif error is not None and server.records_exceptions:
        # The other instrumentation owns the span and sets its status.
        record_exception(server.span, error, with_text=with_text)


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
    """Record a span for work between the last byte and the application's return, such as background tasks.

    The span is a child of the server span, which has ended with the last byte. It is written only if the work took at
    least 25 ms or failed.

    Args:
        tracer: creates the span.
        server: the server span of the request.
        route: route template, for the span's name.
        started_ns, ended_ns: nanoseconds since the epoch.
        error: exception that the application raised after the last byte.
        with_text: whether the exception's message may be recorded.
    """
    if error is None and ended_ns - started_ns < _MIN_BACKGROUND_NS:
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
    # The wall clock may have been set back in between.
    span.end(max(ended_ns, started_ns))
