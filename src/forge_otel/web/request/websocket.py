"""One WebSocket connection: a server span from handshake to close, and a duration sample of the handshake.

The sample covers the HTTP request with its 101 or its rejection. The length of a connection says nothing about the
service's latency, so it is only on the span. Exceptions are re-raised; the server closes the connection with 1011.
"""

import time
from typing import Final

from opentelemetry import context as otel_context
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from forge_otel.context import Identity, RequestInfo, bind_identity, current_request, identity
from forge_otel.names import Attr, Metric
from forge_otel.telemetry.spans.exceptions import mark_failed, qualified_name, record_exception
from forge_otel.web.request.attributes import HeaderFacts, request_attributes
from forge_otel.web.request.http import DISCONNECTED, UNMATCHED
from forge_otel.web.request.options import SharedState
from forge_otel.web.request.server_span import adopt, open_span

__all__ = ["WebSocketExchange"]

# RFC 6455: normal closure, going away, and a close frame without a code.
_NORMAL_CLOSES: Final = frozenset({1000, 1001, 1005})


class WebSocketExchange:
    """One connection.

    Args:
        state: state shared by the requests of one middleware.
        scope: the ASGI scope.
        headers: headers of the handshake.
        receive, send: callables of the server.
    """

    def __init__(self, state: SharedState, *, scope: Scope, headers: HeaderFacts, receive: Receive, send: Send) -> None:
        self._started_s = time.perf_counter()
        self._state = state
        self._scope = scope
        self._receive = receive
        self._send = send
        attributes = request_attributes(scope, headers.found)
        self._kind = str(attributes[Attr.HTTP_METHOD]), str(attributes[Attr.URL_SCHEME])
        self._server = adopt(scope) or open_span(
            scope,
            state.telemetry.tracer,
            name="WS",
            headers=headers,
            attributes=attributes,
            trust=state.options.trust_context,
        )
        self._status: int | None = None
        self._disconnected = False

    async def run(self, app: ASGIApp) -> None:
        """Serve the connection with `app`."""
        context = self._server.context
        context_token = None if context is None else otel_context.attach(context)
        request_token = current_request.set(RequestInfo(self._server.span))
        self._state.telemetry.active_requests.enter(self._kind)
        error: BaseException | None = None
        try:
            with bind_identity(self._resolve_identity()):
                await app(self._scope, self.receive_with_close, self.send_with_handshake)
        except BaseException as exc:
            error = exc
            raise
        finally:
            self._state.telemetry.active_requests.leave(self._kind)
            self._finish(error)
            current_request.reset(request_token)
            if context_token is not None:
                otel_context.detach(context_token)

    async def receive_with_close(self) -> Message:
        """Receive a message for the application and detect an abnormal close."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._disconnected = message.get("code", 1005) not in _NORMAL_CLOSES
        return message

    async def send_with_handshake(self, message: Message) -> None:
        """Send a message of the application and record its reply to the handshake."""
        if self._status is None:
            if message["type"] == "websocket.accept":
                self._record_handshake(101)
            elif message["type"] == "websocket.close":
                self._record_handshake(403)
            elif message["type"] == "websocket.http.response.start":
                self._record_handshake(message["status"])
        await self._send(message)

    def _resolve_identity(self) -> Identity:
        hook = self._state.options.identity
        return (None if hook is None else hook(self._scope)) or identity.get()

    def _record_handshake(self, status: int, failure: str | None = None) -> None:
        self._status = status
        route = self._state.templates.find(self._scope)
        if route is not None and self._server.names_route and self._server.span.is_recording():
            self._server.span.set_attribute(Attr.HTTP_ROUTE, route)
            self._server.span.update_name(f"WS {route}")
        method, scheme = self._kind
        labels: dict[str, str | int] = {
            Attr.HTTP_METHOD: method,
            Attr.URL_SCHEME: scheme,
            Attr.HTTP_ROUTE: route or UNMATCHED,
            Attr.HTTP_STATUS: status,
        }
        if failure is not None:
            labels[Attr.ERROR_TYPE] = failure
        self._state.telemetry.instruments.record_later(
            Metric.HTTP_DURATION,
            time.perf_counter() - self._started_s,
            labels,
            exemplar=self._server.span.get_span_context(),
        )

    def _finish(self, error: BaseException | None) -> None:
        span = self._server.span
        if isinstance(error, WebSocketDisconnect):
            self._disconnected = error.code not in _NORMAL_CLOSES
            error = None
        failure = qualified_name(error) if error is not None else DISCONNECTED if self._disconnected else None
        if self._status is None and error is not None:
            self._record_handshake(500, failure)
        if self._status is not None:
            span.set_attribute(Attr.HTTP_STATUS, self._status)
        if failure is not None:
            span.set_attribute(Attr.ERROR_TYPE, failure)
        with_text = self._state.settings.capture_content
        if error is not None and self._server.is_own:
            error_type = qualified_name(error)
            mark_failed(span, error, error_type=error_type, with_text=with_text, with_description=False)
        elif error is not None and self._server.records_exceptions:
            record_exception(span, error, with_text=with_text)
        if self._server.is_own:
            span.end()
