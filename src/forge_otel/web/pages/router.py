"""The routes that we serve ourselves, found by path before the application is asked."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from forge_otel.errors import ConfigurationError, ForgeError
from forge_otel.web.pages.auth import AdminAuth
from forge_otel.web.pages.dashboard import ONE, Dashboard
from forge_otel.web.pages.health import HealthPages
from forge_otel.web.pages.metrics import MetricsPage
from forge_otel.web.pages.sse import ProgressStreams
from forge_otel.web.problems import problem, problem_of, unexpected
from forge_otel.web.protocols import Runtime

__all__ = ["Page", "Router", "Routes"]

logger = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The paths of our own routes; None switches one off.

    Args:
        metrics: the Prometheus page.
        live: whether the process runs.
        ready: whether requests can be answered.
        health: how each resource is.
        dashboard: the folder of the dashboard and its API.

    Raises:
        ConfigurationError: a path is malformed or taken twice.
    """

    metrics: str | None = "/metrics"
    live: str | None = "/livez"
    ready: str | None = "/readyz"
    health: str | None = "/health"
    dashboard: str | None = "/forge"

    def __post_init__(self) -> None:
        chosen = [(item.name, getattr(self, item.name)) for item in fields(self)]
        paths = [path for _, path in chosen if path is not None]
        faults = [
            f"the route {name} is {path!r}; it begins with '/' and does not end with one"
            for name, path in chosen
            if path is not None and (not path.startswith("/") or path.endswith("/"))
        ]
        faults.extend(f"the route {path!r} is taken twice" for path in sorted(set(paths)) if paths.count(path) > 1)
        if faults:
            raise ConfigurationError(faults)


class Page:
    """One of our own pages as an ASGI application.

    Args:
        endpoint: answers; what it raises becomes problem+json.
        methods: what it takes; anything else is a 405.
    """

    def __init__(self, endpoint: Endpoint, methods: tuple[str, ...] = ("GET", "HEAD")) -> None:
        self._endpoint = endpoint
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        response = await self._respond(Request(scope, receive))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        if request.method not in self._methods:
            return problem(
                status=405,
                code="method_not_allowed",
                title="Method not allowed",
                detail=f"this path takes {' and '.join(self._methods)}",
                headers={"allow": ", ".join(self._methods)},
            )
        try:
            return await self._endpoint(request)
        except ForgeError as exc:
            return problem_of(exc)
        except Exception:
            logger.exception("The page %s failed", request.url.path)
            return unexpected()


class Router:
    """Finds our own page for a path.

    Args:
        routes: the paths.
        forge: what the pages show.
        app: the application, whose own routes of the same path are hidden and named in the log; None where not known.
    """

    def __init__(self, routes: Routes, forge: Runtime, app: Any = None) -> None:
        metrics, health = MetricsPage(forge), HealthPages(forge)
        served: dict[str | None, Endpoint] = {
            routes.metrics: metrics.page,
            routes.live: health.live,
            routes.ready: health.ready,
            routes.health: health.report,
        }
        self._pages: dict[str, Page] = {}
        for path, endpoint in served.items():
            if path is not None:
                # Both spellings, because a redirect without a body is a scrape that silently found nothing.
                self._pages[path] = self._pages[path + "/"] = Page(endpoint)
        self._folder = routes.dashboard
        if routes.dashboard is not None:
            for inner, endpoint, methods in [
                *Dashboard(forge).pages(),
                *ProgressStreams(forge, AdminAuth(forge)).pages(),
            ]:
                self._pages[routes.dashboard + inner] = Page(endpoint, methods)
        _warn_of_hidden(app, self._pages)

    def find(self, scope: Scope) -> Page | None:
        """Return our page for the request, None where it is the application's."""
        path: str = scope["path"]
        root_path: str = scope.get("root_path", "")
        if root_path:
            path = path.removeprefix(root_path)
        page = self._pages.get(path)
        if page is None and self._folder is not None and path.startswith(self._folder):
            return self._pages.get(path.rpartition("/")[0] + ONE)
        return page


def _warn_of_hidden(app: Any, pages: Mapping[str, Page]) -> None:
    for route in getattr(app, "routes", ()):
        path = getattr(route, "path", None)
        if path in pages:
            logger.warning(
                "ForgeMiddleware answers %s and hides the application's own route; "
                "rename or switch off ours with ForgeMiddleware(routes=Routes(…))",
                path,
            )
