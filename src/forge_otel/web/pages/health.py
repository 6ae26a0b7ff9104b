"""`/livez`, `/readyz` and `/health` (draft-inadarei-api-health-check).

Strangers learn the status and nothing else; which resource is away is for whoever has the token.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from forge_otel.web.pages.access import bears_token
from forge_otel.web.protocols import Runtime

__all__ = ["HealthPages"]

_NO_STORE: Final = {"cache-control": "no-store"}


class HealthPages:
    """Answers probes; the resources were asked in the background, so that an answer costs nothing.

    Args:
        forge: knows how its resources are.
    """

    def __init__(self, forge: Runtime) -> None:
        self._forge = forge

    async def live(self, _request: Request) -> Response:
        """Say that the process runs."""
        return _answer({"status": "pass"})

    async def ready(self, _request: Request) -> Response:
        """Say whether requests can be answered: 200 or 503."""
        return _answer({"status": "pass" if self._forge.operations.ready() else "fail"})

    async def report(self, request: Request) -> Response:
        """Say how the service is; with the token also how each resource is."""
        report = self._forge.operations.health_report()
        if not bears_token(request, self._forge.settings.admin_token):
            report = {"status": report["status"]}
        return _answer(report)


def _answer(report: Mapping[str, Any]) -> Response:
    status_code = 503 if report["status"] == "fail" else 200
    return Response(
        orjson.dumps(report), status_code=status_code, headers=_NO_STORE, media_type="application/health+json"
    )
