"""The one line: `app.add_middleware(ForgeMiddleware)`.

Pure ASGI, and transparent: an application behaves with it as without it, message for message, but for the response
headers of `ResponseHeaders`, the routes of `Routes`, the limit on request bodies, and `ForgeError`s, which become
problem+json. Deliberate divergences from other middleware of this kind:

- it opens no span of its own where somebody else has opened one (`server_span`), and leaves FastAPI's own telemetry off
  where it was off (`native`);
- it serves its own routes, because a mounted application answers `/metrics` with a redirect;
- inside another ForgeMiddleware, as in a mounted application, it only passes on.
"""

import logging
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from forge_otel.errors import ServiceUnavailable
from forge_otel.web.lifespan import Lifespan, Opener
from forge_otel.web.pages.router import Router, Routes
from forge_otel.web.problems import problem_of
from forge_otel.web.protocols import Runtime
from forge_otel.web.request import fastapi_telemetry as native
from forge_otel.web.request.attributes import read_headers
from forge_otel.web.request.http import HttpExchange
from forge_otel.web.request.identity import IdentityHook, header_identity
from forge_otel.web.request.in_flight import in_flight_of
from forge_otel.web.request.options import Options, ResponseHeaders, Shared
from forge_otel.web.request.route_template import RouteTemplates
from forge_otel.web.request.server_span import TrustContext, carrier_fields
from forge_otel.web.request.websocket import WebSocketExchange

__all__ = ["ForgeMiddleware"]

logger = logging.getLogger(__name__)

_PASSED: Final = "forge_otel.passed"
_ROUTES: Final = Routes()
_RESPONSE_HEADERS: Final = ResponseHeaders()


class ForgeMiddleware:
    """Stands around an ASGI application: opens the forge, traces and counts requests, serves our own routes.

    Args:
        app: the application.
        forge: the runtime; the process default where it is left out, found when it is first needed.
        handle_errors: answer unexpected exceptions with problem+json instead of passing them on.
        identity: tells from the ASGI scope who asks; None asks nobody.
        routes: the paths of our own routes; None for one switches it off.
        response_headers: what is added to responses.
        exclude: tells from the ASGI scope which requests are passed on as if the middleware were not there.
        trust_context: what to do with a trace that the caller claims to continue: `accept`, `link` or `ignore`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        forge: Runtime | None = None,
        handle_errors: bool = False,
        identity: IdentityHook | None = header_identity,
        routes: Routes = _ROUTES,
        response_headers: ResponseHeaders = _RESPONSE_HEADERS,
        exclude: Callable[[Scope], bool] | None = None,
        trust_context: TrustContext = "accept",
    ) -> None:
        # What others find when they walk the stack; requests go to the application itself.
        self.app = app
        self._app = app
        self._options = Options(
            handle_errors=handle_errors,
            identity=identity,
            response_headers=response_headers,
            trust_context=trust_context,
        )
        self._exclude = exclude
        self._routes = routes
        self._opener = Opener(_default if forge is None else lambda: forge, prepare=self._prepare)
        self._serving: _Serving | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or run the lifespan."""
        if scope["type"] not in ("http", "websocket", "lifespan"):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "lifespan":
            await Lifespan(self._app, self._opener)(scope, receive, send)
            return
        if _PASSED in scope or (self._exclude is not None and self._exclude(scope)):
            await self._app(scope, receive, send)
            return
        scope[_PASSED] = True
        try:
            forge = self._opener.opened or await self._opener.open(scope)
        except Exception:
            logger.exception("The forge could not be opened")
            await _refuse(scope, receive, send)
            return
        if self._serving is None:
            self._serving = _Serving(self._routes, self._options, forge, scope)
        serving = self._serving
        if scope["type"] == "http" and (page := serving.router.find(scope)) is not None:
            await page(scope, receive, send)
            return
        kind = HttpExchange if scope["type"] == "http" else WebSocketExchange
        headers = read_headers(scope["headers"], serving.carried)
        await kind(serving.shared, scope=scope, headers=headers, receive=receive, send=send).run(self._app)

    def _prepare(self, scope: Scope) -> None:
        if native.is_off(scope.get("app")):
            self.app = native.stand_in(self._app)


class _Serving:
    """What is known once the forge is open."""

    def __init__(self, routes: Routes, options: Options, forge: Runtime, scope: Scope) -> None:
        self.router = Router(routes, forge, scope.get("app"))
        self.carried = carrier_fields()
        self.shared = Shared(forge=forge, options=options, templates=RouteTemplates(), in_flight=in_flight_of(forge))


def _default() -> Runtime:
    # Late, so that everything here can be used and tested with any other runtime.
    from forge_otel.forge import default

    return default()


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer while the forge cannot be opened; why is for the log, not for strangers."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1013, "reason": "the service is not ready"})
        return
    exc = ServiceUnavailable("the service could not open its runtime; its log says why", retry_after_s=5)
    await problem_of(exc)(scope, receive, send)
