"""Endpoints for machines: `/metrics`, `/livez`, `/readyz` and `/health` (draft-inadarei-api-health-check)."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from forge_otel._runtime.operations import Operations
from forge_otel.errors import Unauthorized
from forge_otel.settings import Settings
from forge_otel.telemetry.metrics.prometheus import PrometheusPage
from forge_otel.web.pages.auth import has_bearer_token, is_direct_loopback

__all__ = ["MonitoringPages"]

_NO_STORE: Final = {"cache-control": "no-store"}


class MonitoringPages:
    """The metrics page and the health endpoints.

    Args:
        settings: the admin token, and whether metrics are public.
        operations: health and readiness; services are pinged in the background, so that a probe costs nothing.
        prometheus: renders the metrics page.
    """

    def __init__(self, settings: Settings, *, operations: Operations, prometheus: PrometheusPage) -> None:
        self._token = settings.admin_token
        self._is_public = settings.open_metrics
        self._operations = operations
        self._prometheus = prometheus

    async def metrics(self, request: Request) -> Response:
        """Return the metrics page in the scraper's preferred format.

        Raises:
            Unauthorized: the peer is not on this machine, has no token, and `FORGE_OPEN_METRICS` is off.
        """
        is_allowed = self._is_public or is_direct_loopback(request.scope)
        if not is_allowed and not has_bearer_token(request, self._token):
            raise Unauthorized("this page needs the admin token: Authorization: Bearer <FORGE_ADMIN_TOKEN>")
        content, headers = await self._prometheus.render(
            request.headers.get("accept", ""), request.headers.get("accept-encoding", "")
        )
        return Response(content, headers=headers)

    async def live(self, _request: Request) -> Response:
        """Return 200: the process runs."""
        return _health({"status": "pass"})

    async def ready(self, _request: Request) -> Response:
        """Return 200 if requests can be served, else 503."""
        return _health({"status": "pass" if self._operations.ready() else "fail"})

    async def health(self, request: Request) -> Response:
        """Return the health status, with details of each service only to callers with the admin token."""
        report: Mapping[str, Any] = self._operations.health_report()
        if not has_bearer_token(request, self._token):
            report = {"status": report["status"]}
        return _health(report)


def _health(report: Mapping[str, Any]) -> Response:
    status_code = 503 if report["status"] == "fail" else 200
    return Response(
        orjson.dumps(report), status_code=status_code, headers=_NO_STORE, media_type="application/health+json"
    )
