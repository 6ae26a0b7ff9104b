"""The route template of a request, read from what routing left in the scope: no route is matched a second time.

What routing leaves, measured on Starlette 1.10 and FastAPI 0.165:

- Starlette sets `route` and `endpoint` at each level, so that the innermost ones stay;
- FastAPI sets `route` for its own routes only, and without the prefix of an included router, which is in
  `scope["fastapi"]["effective_route_context"]`; a plain Starlette route in it leaves only `endpoint`;
- a mount adds the *raw* path to `root_path`, which is the template as long as the mount has no parameters;
- nothing is set for what no route matches, and entries of an outer level stay behind when an inner one sets none.

So an entry counts only if it belongs to `endpoint`. Where none does, and for mounts with parameters, a table of the
routes helps, built once.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from starlette.types import Scope

__all__ = ["RouteTemplates"]

logger = logging.getLogger(__name__)

_PARAMETER: Final = re.compile(r"\{([^}]*)\}")
_REST: Final = "/{path}"


class RouteTemplates:
    """Finds the template of the route that answered a request, for one application."""

    def __init__(self) -> None:
        self._router: object = None
        self._table = _Table(())
        self._has_failed = False

    def find(self, scope: Scope) -> str | None:
        """Return the route template of a request that has been routed, mounts and root path included.

        Returns:
            None where no route matched, or the application has no Starlette routes.
        """
        try:
            return self._find(scope)
        except Exception:
            # What frameworks leave in the scope is theirs to change; that must not cost a request.
            if not self._has_failed:
                self._has_failed = True
                logger.exception("Routes cannot be named; is this a new version of Starlette or FastAPI?")
            return None

    def _find(self, scope: Scope) -> str | None:
        endpoint = scope.get("endpoint")
        if endpoint is None:
            return None
        path_format = _left_by_routing(scope, endpoint)
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

    def _table_of(self, scope: Scope) -> "_Table":
        # The outermost router, whichever application we stand in.
        router = scope.get("router")
        if router is not self._router:
            self._table = _Table(getattr(router, "routes", ()))
            self._router = router
        return self._table


def _left_by_routing(scope: Scope, endpoint: object) -> str | None:
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


class _Table:
    """What the routes of an application are called.

    Endpoints are told by identity, because a router that is one cannot be hashed; the routes keep them alive.

    Args:
        routes: of the outermost router.
    """

    def __init__(self, routes: Iterable[Any]) -> None:
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
            # One function behind several paths: only those few are told apart by the path.
            inner = scope["path"].removeprefix(scope.get("root_path", ""))
            return next((path_format for regex, path_format in formats if regex.match(inner)), None)
        return _REST if id(endpoint) in self._mounted else None

    def mount_template(self, raw: str) -> str:
        """Return the template of the mount that a request went through.

        Args:
            raw: what the mounts added to `root_path`.
        """
        if raw in self._literal_mounts:
            return raw
        matches = (template for regex, template in self._mounts_with_parameters if regex.fullmatch(raw))
        return next(matches, raw)

    def _read(self, routes: Iterable[Any], pattern: str, template: str) -> None:
        for route in _flatten(routes):
            inner = getattr(route, "routes", None)
            if inner is None:
                known = self._formats.setdefault(id(route.endpoint), [])
                known.append((route.path_regex, route.path_format))
                continue
            path = getattr(route, "path", None) or ""  # a Host has routes but no path
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
    """Turn a mount's path into a regular expression; a converter other than `path` stays within its segment."""
    parts = _PARAMETER.split(path)
    names = parts[1::2]
    texts = [re.escape(text) for text in parts[::2]]
    values = [".+?" if name.endswith(":path") else "[^/]+" for name in names]
    return texts[0] + "".join(value + text for value, text in zip(values, texts[1:], strict=True))


def _flatten(routes: Iterable[Any]) -> Iterator[Any]:
    """Resolve FastAPI's included routers; leaves what has neither a path nor routes."""
    for route in _expander()(routes):
        if (hasattr(route, "path_regex") and hasattr(route, "endpoint")) or getattr(route, "routes", None) is not None:
            yield route


def _expander() -> Callable[[Iterable[Any]], Iterable[Any]]:
    try:
        from fastapi.routing import iter_route_contexts
    except ImportError:  # Starlette alone, or a FastAPI before 0.137, which copied included routes
        return iter
    return lambda routes: iter_route_contexts(list(routes))
