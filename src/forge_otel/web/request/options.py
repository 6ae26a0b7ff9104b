"""Options of the middleware, its default identity hook, and the state that its requests share."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.types import Scope

from forge_otel.context import Identity
from forge_otel.settings import Settings
from forge_otel.telemetry.providers import Telemetry
from forge_otel.web.request.response_headers import ResponseHeaders
from forge_otel.web.request.route_template import RouteTemplates
from forge_otel.web.request.server_span import TrustContext

__all__ = ["IdentityHook", "MiddlewareOptions", "SharedState", "header_identity"]

IdentityHook = Callable[[Scope], Identity | None]
"""Returns the identity of the caller from the ASGI scope, None if it is unknown."""

_HEADERS: Final = {b"x-user-id": "user_id", b"x-session-id": "session_id"}
# Characters that need no quoting in a span attribute, a log line or a database column.
_SAFE: Final = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")


def header_identity(scope: Scope) -> Identity | None:
    """Return the identity from `x-user-id` and `x-session-id`; a value with unsafe characters is ignored.

    Both are unverified claims, good enough for finding traces.
    """
    # No header for the tenant: it separates cache entries, so only the application may set it.
    found = {
        _HEADERS[name]: value.decode("ascii")
        for name, value in scope["headers"]
        if name in _HEADERS and _SAFE.fullmatch(value)
    }
    return Identity(**found) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MiddlewareOptions:
    """Options of the middleware that apply to every request.

    Args:
        handle_errors: respond to unexpected exceptions with problem+json instead of re-raising them.
        identity: identity hook; None leaves the identity unset.
        response_headers: which headers to add.
        trust_context: treatment of the caller's trace context.
    """

    handle_errors: bool = False
    identity: IdentityHook | None = header_identity
    response_headers: ResponseHeaders = field(default_factory=ResponseHeaders)
    trust_context: TrustContext = "accept"


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedState:
    """State shared by all requests of one middleware.

    Args:
        telemetry: tracer, instruments and the count of requests in flight.
        settings: body limit, and whether contents are captured.
        options: options of the middleware.
        templates: resolves route templates.
    """

    telemetry: Telemetry
    settings: Settings
    options: MiddlewareOptions
    templates: RouteTemplates
