"""Routes that the middleware serves itself, looked up by path before the application is called."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from forge_otel._internal.checks import require
from forge_otel.errors import ForgeError
from forge_otel.web.problems import internal_error, problem, problem_of
from forge_otel.web.request.route_template import declared_paths

__all__ = ["GET", "ITEM", "Endpoint", "Page", "Router", "Routes"]

_logger = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]

GET: Final = ("GET", "HEAD")
ITEM: Final = "/{id}"
"""Suffix of a path whose last segment is an id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Paths of the middleware's own routes; None switches a route off.

    Args:
        metrics: the Prometheus page.
        live: liveness probe.
        ready: readiness probe.
        health: health report.
        dashboard: folder of the dashboard and its API.

    Raises:
        ConfigurationError: a path is malformed or used twice.
    """

    metrics: str | None = "/metrics"
    live: str | None = "/livez"
    ready: str | None = "/readyz"
    health: str | None = "/health"
    dashboard: str | None = "/forge"

    def __post_init__(self) -> None:
        by_name = {
            "metrics": self.metrics,
            "live": self.live,
            "ready": self.ready,
            "health": self.health,
            "dashboard": self.dashboard,
        }
        paths = [path for path in by_name.values() if path is not None]
        require(
            *(
                (
                    path.startswith("/") and not path.endswith("/"),
                    f"the route {name} is {path!r}; a path begins with '/' and does not end with '/'",
                )
                for name, path in by_name.items()
                if path is not None
            ),
            *((paths.count(path) == 1, f"the route {path!r} is used twice") for path in sorted(set(paths))),
        )


class Page(NamedTuple):
    """One page as an ASGI application; errors become problem+json.

    Args:
        path: below the folder that the page belongs to.
        endpoint: returns the response.
        methods: allowed methods; other requests get a 405.
    """

    path: str
    endpoint: Endpoint
    methods: tuple[str, ...] = GET

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        response = await self._respond(Request(scope, receive))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        if request.method not in self.methods:
            return problem(
                status=405,
                code="method_not_allowed",
                title="Method not allowed",
                detail=f"this path accepts {' and '.join(self.methods)}",
                headers={"allow": ", ".join(self.methods)},
            )
        try:
            return await self.endpoint(request)
        except ForgeError as exc:
            return problem_of(exc)
        except Exception:
            _logger.exception("page %s failed", request.url.path)
            return internal_error()


class Router:
    """Looks up pages by path.

    Args:
        endpoints: path to endpoint of pages that are served with and without a trailing slash; None is ignored.
        folder: the dashboard's folder, None if it is off.
        folder_pages: pages below the folder.
    """

    def __init__(
        self, endpoints: Mapping[str | None, Endpoint], *, folder: str | None, folder_pages: Iterable[Page]
    ) -> None:
        self._pages: dict[str, Page] = {}
        for path, endpoint in endpoints.items():
            if path is not None:
                # Both spellings: a scraper that does not follow redirects would silently read an empty body.
                self._pages[path] = self._pages[path + "/"] = Page(path, endpoint)
        self._folder = folder
        if folder is not None:
            self._pages |= {folder + page.path: page for page in folder_pages}

    def find(self, scope: Scope) -> Page | None:
        """Return the page for a request, None if the request is the application's."""
        path: str = scope["path"]
        root_path: str = scope.get("root_path", "")
        if root_path:
            path = path.removeprefix(root_path)
        page = self._pages.get(path)
        if page is None and self._folder is not None and path.startswith(self._folder):
            return self._pages.get(path.rpartition("/")[0] + ITEM)
        return page

    def warn_of_hidden_routes(self, app: object) -> None:
        """Log each of the application's own routes that a page hides."""
        for path in declared_paths(app):
            if path in self._pages:
                _logger.warning(
                    "route %s of the application is hidden by ForgeMiddleware; "
                    "rename or switch off the middleware's with ForgeMiddleware(routes=Routes(…))",
                    path,
                )
