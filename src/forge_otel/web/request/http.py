"""One HTTP request on its way through the application: what came in, what went out, when it ended, what it is called.

The server span and the duration sample end with the last byte of the response, so that a stream counts in full and the
background tasks after it do not count.
"""

import logging
import time
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry.trace import format_trace_id
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forge_otel.context import RequestInfo, bind_identity, current_request
from forge_otel.errors import ForgeError, PayloadTooLarge
from forge_otel.names import Attr, Metric
from forge_otel.telemetry.spans.exceptions import mark_failed, qualified_name, record_exception
from forge_otel.web.problems import problem_of, unexpected
from forge_otel.web.request.attributes import OTHER_METHOD, HeaderFacts, request_attributes
from forge_otel.web.request.background import record_background
from forge_otel.web.request.options import Shared
from forge_otel.web.request.response_headers import headers_of
from forge_otel.web.request.server_span import ServerSpan, adopt, own

__all__ = ["DISCONNECTED", "UNMATCHED", "HttpExchange"]

logger = logging.getLogger(__name__)

DISCONNECTED: Final = "client_disconnected"
"""The ``error.type`` of a request whose caller went away: no fault of the service, so the span is no error."""
UNMATCHED: Final = "_unmatched"
"""The route on metrics of what no route matched: a raw path would be a series for each stranger's guess."""

_BODY_MESSAGES: Final = frozenset({"http.response.body", "http.response.zerocopysend", "http.response.pathsend"})


class HttpExchange:
    """Follows one request and its response.

    Args:
        shared: what the requests of one middleware share.
        scope: of the request.
        headers: what its headers say.
        receive, send: of the server.
    """

    __slots__ = (
        "_cause",
        "_disconnected",
        "_ended_ns",
        "_ended_s",
        "_error_type",
        "_finished",
        "_has_trailers",
        "_headers",
        "_info",
        "_is_size_known",
        "_late_error",
        "_method",
        "_options",
        "_read_bytes",
        "_receive",
        "_refusal",
        "_route",
        "_scheme",
        "_scope",
        "_send",
        "_sent_bytes",
        "_server",
        "_shared",
        "_started_s",
        "_status",
    )

    def __init__(self, shared: Shared, *, scope: Scope, headers: HeaderFacts, receive: Receive, send: Send) -> None:
        self._started_s = time.perf_counter()
        self._shared = shared
        self._options = shared.options
        self._scope = scope
        self._headers = headers
        self._receive = receive
        self._send = send
        attributes = request_attributes(scope, headers.found)
        self._method = str(attributes[Attr.HTTP_METHOD])
        self._scheme = str(attributes[Attr.URL_SCHEME])
        self._server: ServerSpan = adopt(scope) or own(
            scope,
            shared.forge.telemetry.tracer,
            name=self._method_name(),
            headers=headers,
            attributes=attributes,
            trust=shared.options.trust_context,
        )
        self._info = RequestInfo(self._server.span)
        self._read_bytes = 0
        self._sent_bytes = 0
        self._is_size_known = True
        self._status: int | None = None
        self._route: str | None = None
        self._error_type: str | None = None
        self._cause: Exception | None = None
        self._refusal: PayloadTooLarge | None = None
        # What came out of the application after the response was complete.
        self._late_error: BaseException | None = None
        self._has_trailers = False
        self._disconnected = False
        self._ended_s: float | None = None
        self._ended_ns: int | None = None
        self._finished = False

    async def run(self, app: ASGIApp) -> None:
        """Serve the request with `app`."""
        context = self._server.context
        context_token = None if context is None else otel_context.attach(context)
        request_token = current_request.set(self._info)
        if self._server.counts_active:
            self._shared.in_flight.enter((self._method, self._scheme))
        try:
            await self._serve(app)
        finally:
            if not self._finished:
                # Without a last byte the application returned in the middle of its response, or without one.
                self._finish(incomplete=self._ended_s is None)
            elif self._ended_ns is not None:
                self._note_background(self._ended_ns)
            current_request.reset(request_token)
            if context_token is not None:
                otel_context.detach(context_token)

    async def receive_with_limit(self) -> Message:
        """Receive for the application, counting what it reads.

        Raises:
            PayloadTooLarge: the body is over the limit; nothing of it was kept.
        """
        message = await self._receive()
        if message["type"] == "http.request":
            self._read_bytes += len(message.get("body", b""))
            if self._read_bytes > self._shared.forge.settings.max_body_bytes:
                self._refusal = self._too_large()
                raise self._refusal
        elif message["type"] == "http.disconnect" and not self._finished:
            self._disconnected = True
        return message

    async def send_with_telemetry(self, message: Message) -> None:
        """Send for the application, adding headers to the start and noticing the end."""
        if self._refusal is not None and self._status is None:
            # A framework made its own answer of the refused body, often a 400; ours is sent when it has returned.
            return
        await self._forward(message)

    async def _serve(self, app: ASGIApp) -> None:
        try:
            await self._admit(app)
        except ForgeError as exc:
            await self._answer(problem_of(exc), exc)
        except Exception as exc:
            if not self._options.handle_errors or self._status is not None:
                self._fail(exc)
                raise
            logger.exception("The application failed on %s %s", self._method, self._scope["path"])
            await self._answer(unexpected(), exc)
        except BaseException as exc:
            self._fail(exc)
            raise

    async def _admit(self, app: ASGIApp) -> None:
        declared = self._headers.content_length
        if declared is not None and declared > self._shared.forge.settings.max_body_bytes:
            raise self._too_large()
        await self._call(app)
        if self._refusal is not None and self._status is None:
            raise self._refusal

    async def _call(self, app: ASGIApp) -> None:
        who = None if self._options.identity is None else self._options.identity(self._scope)
        if who is None:
            await app(self._scope, self.receive_with_limit, self.send_with_telemetry)
            return
        known = {Attr.USER_ID: who.user_id, Attr.SESSION_ID: who.session_id, Attr.TENANT: who.tenant}
        self._server.span.set_attributes({name: value for name, value in known.items() if value is not None})
        with bind_identity(who):
            await app(self._scope, self.receive_with_limit, self.send_with_telemetry)

    async def _answer(self, response: Response, exc: Exception) -> None:
        """Answer in the application's place, where it has not begun to answer itself."""
        if self._status is not None:
            self._fail(exc)
            raise exc
        if response.status_code >= 500:
            self._cause = exc
        await response(self._scope, self._receive, self._forward)

    async def _forward(self, message: Message) -> None:
        kind = message["type"]
        is_last = False
        if kind == "http.response.start":
            self._status = message["status"]
            self._has_trailers = message.get("trailers", False)
            message = self._with_headers(message)
        elif kind in _BODY_MESSAGES:
            self._note_body(message)
            is_last = not message.get("more_body", False) and not self._has_trailers
        elif kind == "http.response.trailers":
            is_last = not message.get("more_trailers", False)
        if is_last and not self._server.is_own:
            # Whoever owns the span ends it while this message passes.
            self._describe()
        try:
            await self._send(message)
        except OSError:
            self._disconnected = True
            raise
        if is_last:
            self._ended_s = time.perf_counter()
            self._ended_ns = time.time_ns()
            # Starlette's outermost middleware answers 500 first and raises then; why it did belongs on the span.
            if self._status is None or self._status < 500:
                self._finish()

    def _note_body(self, message: Message) -> None:
        if "body" in message:
            self._sent_bytes += 0 if self._method == "HEAD" else len(message["body"])
        elif message["type"] != "http.response.body":
            # The server sends a file, whose size it alone knows.
            self._is_size_known = False

    def _with_headers(self, message: Message) -> Message:
        chosen = self._options.response_headers
        headers = list(message.get("headers", ()))
        before = len(headers)
        context = self._server.span.get_span_context()
        if chosen.trace_id is not None and context.is_valid:
            name = chosen.trace_id.encode("latin-1")
            if not any(present.lower() == name for present, _ in headers):
                headers.append((name, format_trace_id(context.trace_id).encode("ascii")))
        if chosen.server_timing:
            elapsed_ms = (time.perf_counter() - self._started_s) * 1000
            headers.append((b"server-timing", b"total;dur=%.1f" % elapsed_ms))
        if chosen.cache_status and self._info.cache_status:
            headers.append((b"cache-status", ", ".join(self._info.cache_status).encode("ascii")))
            headers.extend(headers_of(self._info, self._status, headers))
        if chosen.run_url is not None and self._info.run_url:
            headers.append((chosen.run_url.encode("latin-1"), self._info.run_url.encode("ascii", "ignore")))
        # The application may use its message and its list again.
        return message if len(headers) == before else {**message, "headers": headers}

    def _fail(self, exc: BaseException) -> None:
        """Note what leaves the application; after the response's last byte it is no longer the request's affair."""
        if self._finished:
            self._late_error = exc
            return
        self._finish(exc)
        if self._ended_ns is not None and not self._server.is_own and not self._server.span.is_recording():
            # An application below a mount answers 500 first and raises then, when the span's owner has ended it.
            self._late_error = exc

    def _note_background(self, ended_ns: int) -> None:
        record_background(
            self._shared.forge.telemetry.tracer,
            self._server.span,
            route=self._route,
            started_ns=ended_ns,
            ended_ns=time.time_ns(),
            error=self._late_error,
            with_text=self._shared.forge.settings.capture_content,
        )

    def _finish(self, exc: BaseException | None = None, *, incomplete: bool = False) -> None:
        self._finished = True
        if exc is not None or incomplete or self._server.is_own:
            self._describe(exc, incomplete=incomplete)
        if self._server.counts_active:
            self._shared.in_flight.leave((self._method, self._scheme))
        if self._server.counts_duration:
            self._count((self._ended_s or time.perf_counter()) - self._started_s)
        if self._server.is_own:
            self._server.span.end(self._ended_ns)

    def _count(self, duration_s: float) -> None:
        labels: dict[str, str | int] = {
            Attr.HTTP_METHOD: self._method,
            Attr.URL_SCHEME: self._scheme,
            Attr.HTTP_ROUTE: self._route or UNMATCHED,
        }
        if self._status is not None:
            labels[Attr.HTTP_STATUS] = self._status
        if self._error_type is not None:
            labels[Attr.ERROR_TYPE] = self._error_type
        self._shared.forge.telemetry.instruments.record_later(
            Metric.HTTP_DURATION, duration_s, labels, exemplar=self._server.span.get_span_context()
        )

    def _describe(self, exc: BaseException | None = None, *, incomplete: bool = False) -> None:
        """Write on the span how it went."""
        self._route = self._shared.templates.find(self._scope)
        is_error = self._judge(exc or self._cause, incomplete=incomplete)
        span = self._server.span
        if not span.is_recording():
            return
        attributes: dict[str, str | int] = {}
        if self._is_size_known:
            attributes[Attr.HTTP_RESPONSE_SIZE] = self._sent_bytes
        if self._read_bytes:
            attributes[Attr.HTTP_REQUEST_SIZE] = self._read_bytes
        if self._status is not None:
            attributes[Attr.HTTP_STATUS] = self._status
        if self._error_type is not None:
            attributes[Attr.ERROR_TYPE] = self._error_type
        if self._route is not None and self._server.names_route:
            attributes[Attr.HTTP_ROUTE] = self._route
            span.update_name(f"{self._method_name()} {self._route}")
        span.set_attributes(attributes)
        if is_error:
            self._mark_failed(exc or self._cause)

    def _mark_failed(self, error: BaseException | None) -> None:
        with_text = self._shared.forge.settings.capture_content
        if self._server.is_own:
            error_type = self._error_type or ""
            mark_failed(self._server.span, error, error_type=error_type, with_text=with_text, with_description=False)
        elif error is not None and self._server.records_exceptions:
            # Another instrumentation owns the span and sets its status.
            record_exception(self._server.span, error, with_text=with_text)

    def _judge(self, exc: BaseException | None, *, incomplete: bool) -> bool:
        """Settle status and error type; tell whether the service is at fault."""
        if self._disconnected:
            self._error_type = DISCONNECTED
            return False
        if self._status is None and (incomplete or isinstance(exc, Exception)):
            # What the server, or Starlette's outermost middleware, answers in our absence.
            self._status = 500
        if exc is not None:
            self._error_type = qualified_name(exc)
        elif incomplete:
            self._error_type = "incomplete_response"
        elif self._status is not None and self._status >= 500:
            self._error_type = str(self._status)
        return self._error_type is not None

    def _method_name(self) -> str:
        return "HTTP" if self._method == OTHER_METHOD else self._method

    def _too_large(self) -> PayloadTooLarge:
        limit = self._shared.forge.settings.max_body_bytes
        return PayloadTooLarge(f"the request body is larger than the {limit} bytes that are accepted; send less")
