"""`/metrics`: the Prometheus page."""

from starlette.requests import Request
from starlette.responses import Response

from forge_otel.errors import Unauthorized
from forge_otel.web.pages.access import bears_token, is_direct_loopback
from forge_otel.web.protocols import Runtime

__all__ = ["MetricsPage"]


class MetricsPage:
    """Answers scrapers: those on this machine, those with the token, or everybody after `FORGE_OPEN_METRICS=1`.

    Args:
        forge: renders the page.
    """

    def __init__(self, forge: Runtime) -> None:
        self._forge = forge

    async def page(self, request: Request) -> Response:
        """Return the page in the format that the scraper prefers.

        Raises:
            Unauthorized: the scraper comes from elsewhere and has no token.
        """
        settings = self._forge.settings
        is_open = settings.open_metrics or is_direct_loopback(request.scope)
        if not is_open and not bears_token(request, settings.admin_token):
            raise Unauthorized("this page wants the admin token: Authorization: Bearer <FORGE_ADMIN_TOKEN>")
        content, headers = await self._forge.telemetry.prometheus.render(
            request.headers.get("accept", ""), request.headers.get("accept-encoding", "")
        )
        return Response(content, headers=headers)
