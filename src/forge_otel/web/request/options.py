"""What the requests of one middleware share: what was chosen for them, and what they are answered with."""

from dataclasses import dataclass

from forge_otel.web.protocols import Runtime
from forge_otel.web.request.identity import IdentityHook, header_identity
from forge_otel.web.request.in_flight import InFlight
from forge_otel.web.request.route_template import RouteTemplates
from forge_otel.web.request.server_span import TrustContext

__all__ = ["Options", "ResponseHeaders", "Shared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHeaders:
    """The headers that are added to responses.

    Args:
        trace_id: the name of the header with the trace id, 32 hex digits; None leaves it out.
        server_timing: `Server-Timing: total`, milliseconds until the response began.
        cache_status: `Cache-Status` (RFC 9211), one member for each generation that answered by then.
        run_url: the name of a header with the address of the last generation's run in LangSmith, for example
            `"x-langsmith-run"`; None leaves it out.
    """

    trace_id: str | None = "x-trace-id"
    server_timing: bool = True
    cache_status: bool = True
    run_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The middleware's choices.

    Args:
        handle_errors: answer unexpected exceptions with problem+json instead of passing them on.
        identity: tells who asks; None asks nobody.
        response_headers: what is added to responses.
        trust_context: what to do with a trace that the caller claims to continue.
    """

    handle_errors: bool = False
    identity: IdentityHook | None = header_identity
    response_headers: ResponseHeaders = ResponseHeaders()
    trust_context: TrustContext = "accept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What every request needs.

    Args:
        forge: open.
        options: the middleware's choices.
        templates: finds routes.
        in_flight: counts requests.
    """

    forge: Runtime
    options: Options
    templates: RouteTemplates
    in_flight: InFlight
