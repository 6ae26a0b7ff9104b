"""Route template of a request, from the entries that routing leaves in the scope; no route is matched again.

Entries left by routing, as of Starlette 1.10 and FastAPI 0.165:

- Starlette sets `route` and `endpoint` at each level, so that the innermost ones remain;
- FastAPI sets `route` for its own routes only, and without the prefix of an included router, which is in
  `scope["fastapi"]["effective_route_context"]`; a plain Starlette route in such a router sets only `endpoint`;
- a mount appends the *raw* path to `root_path`, which equals the template if the mount has no parameters;
- an unmatched path sets nothing, and entries of an outer level remain if an inner level sets none.

So an entry counts only if it belongs to `endpoint`. Otherwise, and for mounts with parameters, the template comes from
a table of all routes that is built once.

This module is the only one that probes attributes of Starlette's and FastAPI's route objects: routes have no common
base class with `path_format`, and routing may be replaced by any ASGI application.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from starlette.types import Scope

__all__ = ["RouteTemplates", "declared_paths"]

_logger = logging.getLogger(__name__)

_PARAMETER: Final = re.compile(r"\{([^}]*)\}")
_REST: Final = "/{path}"


class RouteTemplates:
    """Resolves the route template of the requests of one application."""

    def __init__(self) -> None:
        self._router: object = None
        self._table = _RouteTable(())
        self._has_failed = False

    def find(self, scope: Scope) -> str | None:
        """Return the route template of a routed request, including mounts and root path.

        Returns:
            None if no route matched or the application has no Starlette routes.
        """
        try:
            return self._find(scope)
        except Exception:
            # Frameworks may change these undocumented entries, which must not fail a request.
            if not self._has_failed:
                self._has_failed = True
                _logger.exception("route templates unavailable; is this a new version of Starlette or FastAPI?")
            return None

    def _find(self, scope: Scope) -> str | None:
        endpoint = scope.get("endpoint")
        if endpoint is None:
            return None
        path_format = _format_in_scope(scope, endpoint)
        if path_format is None:
            path_format = self._table_of(scope).path_format(scope, endpoint)
        if path_format is None:
            return None
        root_path: str = scope.get("root_path", "")
        own_root: str = scope.get("app_root_path", root_path)
        if len(root_path) > len(own_root):
            mounted = self._table_of(scope).mount_template(root_path[len(own_root) :])
            return f"{own_root.rstrip('/')}{mounted}{path_format}"
        return root_path.rstrip("/") + path_format

    def _table_of(self, scope: Scope) -> "_RouteTable":
        # `router` is the outermost router, also inside a mounted application.
        router = scope.get("router")
        if router is not self._router:
            self._table = _RouteTable(getattr(router, "routes", ()))
            self._router = router
        return self._table


def _format_in_scope(scope: Scope, endpoint: object) -> str | None:
    """Return the path format of the entry in the scope that belongs to `endpoint`."""
    route = scope.get("route")
    context = scope.get("fastapi", {}).get("effective_route_context")
    if context is not None:
        plain = getattr(context, "starlette_route", None)
        if plain is None and context.original_route is route and route.endpoint is endpoint:
            return str(context.path_format)
        if plain is not None and getattr(plain, "endpoint", None) is endpoint:
            return str(plain.path_format)
    if route is not None and getattr(route, "endpoint", None) is endpoint:
        return str(route.path_format)
    return None


class _RouteTable:
    """Path formats of all routes of an application.

    Args:
        routes: routes of the outermost router.
    """

    def __init__(self, routes: Iterable[Any]) -> None:
        # By id(), because an endpoint may be an unhashable router; the routes keep the endpoints alive.
        self._formats: dict[int, list[tuple[re.Pattern[str], str]]] = {}
        self._mounted: set[int] = set()
        self._literal_mounts: set[str] = set()
        self._mounts_with_parameters: list[tuple[re.Pattern[str], str]] = []
        self._read(routes, "", "")

    def path_format(self, scope: Scope, endpoint: object) -> str | None:
        """Return the path format of `endpoint` within its own router."""
        formats = self._formats.get(id(endpoint), ())
        if len(formats) == 1:
            return formats[0][1]
        if formats:
            # The same function serves several paths; only those are matched.
            inner = scope["path"].removeprefix(scope.get("root_path", ""))
            return next((path_format for regex, path_format in formats if regex.match(inner)), None)
        return _REST if id(endpoint) in self._mounted else None

    def mount_template(self, raw: str) -> str:
        """Return the template of the mounts that a request passed through.

        Args:
            raw: path that the mounts appended to `root_path`.
        """
        if raw in self._literal_mounts:
            return raw
        matches = (template for regex, template in self._mounts_with_parameters if regex.fullmatch(raw))
        return next(matches, raw)

    def _read(self, routes: Iterable[Any], pattern: str, template: str) -> None:
        for route in _flatten(routes):
            inner = getattr(route, "routes", None)
            if inner is None:
                formats = self._formats.setdefault(id(route.endpoint), [])
                formats.append((route.path_regex, route.path_format))
                continue
            path = getattr(route, "path", None) or ""  # a Host route has no path
            below = template + _PARAMETER.sub(lambda match: f"{{{match[1].partition(':')[0]}}}", path)
            pattern_below = pattern + _regex(path)
            if "{" in below:
                self._mounts_with_parameters.append((re.compile(pattern_below), below))
            else:
                self._literal_mounts.add(below)
            if inner:
                self._read(inner, pattern_below, below)
            else:
                self._mounted.add(id(route.app))


def _regex(path: str) -> str:
    """Return a mount's path as a regular expression; only the `path` converter matches more than one segment."""
    parts = _PARAMETER.split(path)
    names = parts[1::2]
    texts = [re.escape(text) for text in parts[::2]]
    values = [".+?" if name.endswith(":path") else "[^/]+" for name in names]
    return texts[0] + "".join(value + text for value, text in zip(values, texts[1:], strict=True))


def declared_paths(app: object) -> list[str]:
    """Return the paths of an application's top-level routes, empty for an application without routes."""
    paths = (getattr(route, "path", None) for route in getattr(app, "routes", ()))
    return [path for path in paths if path is not None]


def _flatten(routes: Iterable[Any]) -> Iterator[Any]:
    """Yield the routes with FastAPI's included routers expanded, without those that have neither path nor routes."""
    for route in _expander()(routes):
        if (hasattr(route, "path_regex") and hasattr(route, "endpoint")) or getattr(route, "routes", None) is not None:
            yield route


def _expander() -> Callable[[Iterable[Any]], Iterable[Any]]:
    try:
        from fastapi.routing import iter_route_contexts
    except ImportError:  # Starlette alone, or FastAPI < 0.137, which copies included routes
        return iter
    return lambda routes: iter_route_contexts(list(routes))
