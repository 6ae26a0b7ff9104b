"""The ASGI middleware: `app.add_middleware(ForgeMiddleware)`.

The middleware is transparent: an application receives and sends the same messages as without it. Exceptions are the
response headers of `ResponseHeaders`, the routes of `Routes`, the limit on request bodies, and `ForgeError`s, which
become problem+json. Deliberate divergences from other middleware of this kind:

- it opens no server span if other instrumentation already did (`server_span`), and keeps FastAPI's own telemetry
  switched off if it was off before (`fastapi_telemetry`);
- it serves its own routes, because a mounted application would answer `/metrics` with a redirect;
- inside another ForgeMiddleware, as in a mounted application, it only forwards.
"""

import logging
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from forge_otel.errors import ServiceUnavailable
from forge_otel.forge import Forge, default
from forge_otel.web.lifespan import Lifespan, Opener
from forge_otel.web.pages.auth import AdminAuth
from forge_otel.web.pages.dashboard import Dashboard
from forge_otel.web.pages.monitoring import MonitoringPages
from forge_otel.web.pages.router import Router, Routes
from forge_otel.web.pages.sse import ProgressStreams
from forge_otel.web.problems import problem_of
from forge_otel.web.request import fastapi_telemetry
from forge_otel.web.request.attributes import read_headers
from forge_otel.web.request.http import HttpExchange
from forge_otel.web.request.options import IdentityHook, MiddlewareOptions, SharedState, header_identity
from forge_otel.web.request.response_headers import ResponseHeaders
from forge_otel.web.request.route_template import RouteTemplates
from forge_otel.web.request.server_span import TrustContext, carrier_fields
from forge_otel.web.request.websocket import WebSocketExchange

__all__ = ["ForgeMiddleware"]

_logger = logging.getLogger(__name__)

# Scope entry that marks a request as handled by an outer ForgeMiddleware.
_HANDLED: Final = "forge_otel.passed"
_ROUTES: Final = Routes()
_RESPONSE_HEADERS: Final = ResponseHeaders()
_FOLLOW_WAIT_S: Final = 0.5


class ForgeMiddleware:
    """ASGI middleware that opens the forge, traces and counts requests, and serves metrics, health and dashboard.

    Args:
        app: the application.
        forge: the runtime; by default that of the process, looked up when it is first needed.
        handle_errors: respond to unexpected exceptions with problem+json instead of re-raising them.
        identity: returns the caller's identity from the ASGI scope; None leaves the identity unset.
        routes: paths of the middleware's own routes; None for a path switches it off.
        response_headers: headers to add to responses.
        exclude: returns from the ASGI scope whether a request bypasses the middleware.
        trust_context: treatment of the caller's trace context: `accept`, `link` or `ignore`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        forge: Forge | None = None,
        handle_errors: bool = False,
        identity: IdentityHook | None = header_identity,
        routes: Routes = _ROUTES,
        response_headers: ResponseHeaders = _RESPONSE_HEADERS,
        exclude: Callable[[Scope], bool] | None = None,
        trust_context: TrustContext = "accept",
    ) -> None:
        # `app` is for code that walks the middleware stack (see `_prepare`); requests go to `_app`.
        self.app = app
        self._app = app
        self._options = MiddlewareOptions(
            handle_errors=handle_errors,
            identity=identity,
            response_headers=response_headers,
            trust_context=trust_context,
        )
        self._exclude = exclude
        self._routes = routes
        self._opener: Opener[Forge] = Opener(default if forge is None else lambda: forge, prepare=self._prepare)
        self._serving: _Serving | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or run the lifespan protocol."""
        if scope["type"] not in ("http", "websocket", "lifespan"):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "lifespan":
            lifespan = Lifespan(self._app, self._opener, freezes_gc=lambda forge: forge.settings.freeze_heap)
            await lifespan(scope, receive, send)
            return
        if _HANDLED in scope or (self._exclude is not None and self._exclude(scope)):
            await self._app(scope, receive, send)
            return
        scope[_HANDLED] = True
        try:
            forge = self._opener.opened or await self._opener.open(scope)
        except Exception:
            _logger.exception("forge could not be opened")
            await _send_unavailable(scope, receive, send)
            return
        if self._serving is None:
            # Not earlier: only a request has the outermost application, whose hidden routes are logged.
            self._serving = _Serving(self._routes, self._options, forge, scope)
        serving = self._serving
        if scope["type"] == "http" and (page := serving.router.find(scope)) is not None:
            await page(scope, receive, send)
            return
        kind = HttpExchange if scope["type"] == "http" else WebSocketExchange
        headers = read_headers(scope["headers"], serving.carrier_fields)
        await kind(serving.state, scope=scope, headers=headers, receive=receive, send=send).run(self._app)

    def _prepare(self, scope: Scope) -> None:
        if fastapi_telemetry.is_off(scope.get("app")):
            self.app = fastapi_telemetry.with_marker(self._app)


class _Serving:
    """Router and request state of one middleware, built once its forge is open."""

    def __init__(self, routes: Routes, options: MiddlewareOptions, forge: Forge, scope: Scope) -> None:
        self.carrier_fields = carrier_fields()
        self.router = _router(routes, forge)
        self.router.warn_of_hidden_routes(scope.get("app"))
        self.state = SharedState(
            telemetry=forge.telemetry, settings=forge.settings, options=options, templates=RouteTemplates()
        )


def _router(routes: Routes, forge: Forge) -> Router:
    auth = AdminAuth(forge.settings.admin_token, forge.operations.login_tickets)
    monitoring = MonitoringPages(forge.settings, operations=forge.operations, prometheus=forge.telemetry.prometheus)
    dashboard = Dashboard(auth, operations=forge.operations, records=forge.recent, traces=forge.telemetry.recent_traces)
    streams = ProgressStreams(
        auth,
        running=forge.running,
        follow=lambda key, after: forge.follow_key(key, after=after, wait_s=_FOLLOW_WAIT_S),
    )
    return Router(
        {
            routes.metrics: monitoring.metrics,
            routes.live: monitoring.live,
            routes.ready: monitoring.ready,
            routes.health: monitoring.health,
        },
        folder=routes.dashboard,
        folder_pages=[*dashboard.pages(), *streams.pages()],
    )


async def _send_unavailable(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond while the forge cannot be opened, without the reason, which is only for the log."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1013, "reason": "the service is not ready"})
        return
    exc = ServiceUnavailable("the service could not open its runtime; see its log", retry_after_s=5)
    await problem_of(exc)(scope, receive, send)
