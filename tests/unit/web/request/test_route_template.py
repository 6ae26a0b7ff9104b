"""Route templates of nested routers and mounts, from the entries that routing leaves in the scope."""

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.unit.web.apps import NATIVE_OFF
from tests.unit.web.support import InMemoryForge, request

from forge_otel.names import Attr
from forge_otel.web.middleware import ForgeMiddleware


async def page(_request: Request) -> Response:
    return PlainTextResponse("here")


async def twice(_request: Request) -> Response:
    return PlainTextResponse("one function, two paths")


class Resource(HTTPEndpoint):
    """A page that is a class."""

    async def get(self, _request: Request) -> Response:
        return PlainTextResponse("here")


async def opaque(scope: Scope, receive: Receive, send: Send) -> None:
    """An application without routes."""
    await PlainTextResponse("here")(scope, receive, send)


async def things(thing: str) -> str:
    return thing


def small_fastapi() -> FastAPI:
    inner = FastAPI(telemetry=NATIVE_OFF)
    inner.add_api_route("/things/{thing}", things)
    inner.add_route("/plain/{name}", page)
    return inner


def starlette_tree() -> Starlette:
    return Starlette(
        routes=[
            Route("/items/{item:int}", page, methods=["GET"]),
            Route("/resource", Resource),
            Route("/a/{x}", twice),
            Route("/b/{y}", twice),
            Mount("/files", app=opaque),
            Mount("/v1", routes=[Mount("/deep", routes=[Route("/x/{x}", page)])]),
            Mount("/t/special", routes=[Route("/x/{x}", page)]),
            Mount("/t/{tenant}", routes=[Route("/x/{x}", page), Mount("/files", app=opaque)]),
            Mount("/p/{rest:path}/end", app=small_fastapi()),
            Mount("/fast", app=small_fastapi()),
            Host("other.test", app=Router(routes=[Route("/hosted/{x}", page)])),
        ]
    )


def fastapi_tree() -> FastAPI:
    app = FastAPI(telemetry=NATIVE_OFF)
    inner, outer = APIRouter(), APIRouter(prefix="/outer")
    inner.add_api_route("/things/{thing}", things)
    inner.add_route("/plain/{name}", page)
    inner.mount("/below/{tenant}", app=small_fastapi())
    outer.include_router(inner, prefix="/inner")
    app.include_router(outer, prefix="/api")
    app.add_api_route("/direct/{thing}", things)
    app.mount("/mounted", app=small_fastapi())
    app.mount("/star", app=starlette_tree())
    app.mount("/files", app=opaque)
    return app


CASES = [
    (starlette_tree, "/items/5", "/items/{item}"),
    (starlette_tree, "/resource", "/resource"),
    (starlette_tree, "/a/1", "/a/{x}"),
    (starlette_tree, "/b/1", "/b/{y}"),
    (starlette_tree, "/files/a/b.css", "/files/{path}"),
    (starlette_tree, "/v1/deep/x/1", "/v1/deep/x/{x}"),
    (starlette_tree, "/t/acme/x/1", "/t/{tenant}/x/{x}"),
    (starlette_tree, "/t/special/x/1", "/t/special/x/{x}"),
    (starlette_tree, "/t/acme/files/a", "/t/{tenant}/files/{path}"),
    (starlette_tree, "/p/1/2/end/things/3", "/p/{rest}/end/things/{thing}"),
    (starlette_tree, "/fast/things/3", "/fast/things/{thing}"),
    (starlette_tree, "/fast/plain/3", "/fast/plain/{name}"),
    (starlette_tree, "/items/", None),
    (starlette_tree, "/items/5/", None),
    (starlette_tree, "/v1/deep/none", None),
    (starlette_tree, "/none", None),
    (fastapi_tree, "/direct/5", "/direct/{thing}"),
    (fastapi_tree, "/api/outer/inner/things/5", "/api/outer/inner/things/{thing}"),
    (fastapi_tree, "/api/outer/inner/plain/5", "/api/outer/inner/plain/{name}"),
    (fastapi_tree, "/api/outer/inner/below/acme/things/5", "/api/outer/inner/below/{tenant}/things/{thing}"),
    (fastapi_tree, "/mounted/things/5", "/mounted/things/{thing}"),
    (fastapi_tree, "/mounted/plain/5", "/mounted/plain/{name}"),
    (fastapi_tree, "/mounted/none", None),
    (fastapi_tree, "/star/t/acme/x/1", "/star/t/{tenant}/x/{x}"),
    (fastapi_tree, "/files/a/b", "/files/{path}"),
    (fastapi_tree, "/none", None),
]


@pytest.mark.parametrize(("build", "path", "template"), CASES, ids=lambda value: getattr(value, "__name__", value))
async def test_template(build: Any, path: str, template: str | None) -> None:
    """A template has the prefixes of routers and mounts, and no values of parameters."""
    forge = InMemoryForge()
    app = build()
    app.add_middleware(ForgeMiddleware, forge=forge)
    await request(app, path)
    assert forge.server_span.attributes.get(Attr.HTTP_ROUTE) == template
    assert forge.server_span.name == (f"GET {template}" if template else "GET")
    assert forge.duration.attributes[Attr.HTTP_ROUTE] == (template or "_unmatched")


async def test_wrong_method_keeps_the_template() -> None:
    """A 405 has the template of the route that rejected it."""
    forge = InMemoryForge()
    exchange = await request(ForgeMiddleware(starlette_tree(), forge=forge), "/items/5", method="DELETE")
    assert exchange.status == 405
    assert forge.server_span.attributes[Attr.HTTP_ROUTE] == "/items/{item}"


async def test_host_route() -> None:
    """A route below a host is named by its path."""
    forge = InMemoryForge()
    app = ForgeMiddleware(starlette_tree(), forge=forge)
    scope_headers = [("host", "other.test")]

    async def with_host(scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"] = [(name.encode(), value.encode()) for name, value in scope_headers]
        await app(scope, receive, send)

    await request(with_host, "/hosted/1")
    assert forge.server_span.attributes[Attr.HTTP_ROUTE] == "/hosted/{x}"


async def test_root_path_is_part_of_the_route() -> None:
    """Behind a proxy that adds a prefix, the route begins with it, as the conventions ask."""
    forge = InMemoryForge()
    app: ASGIApp = ForgeMiddleware(starlette_tree(), forge=forge)
    await request(app, "/proxy/t/acme/x/1", root_path="/proxy")
    assert forge.server_span.attributes[Attr.HTTP_ROUTE] == "/proxy/t/{tenant}/x/{x}"


async def test_middleware_inside_a_mounted_application() -> None:
    """Inside a mounted application the template has the outer mount's parameters, not their values."""
    forge = InMemoryForge()
    inner = small_fastapi()
    inner.add_middleware(ForgeMiddleware, forge=forge)
    app = Starlette(routes=[Mount("/t/{tenant}", app=inner)])
    await request(app, "/t/acme/things/5")
    assert forge.server_span.attributes[Attr.HTTP_ROUTE] == "/t/{tenant}/things/{thing}"


async def test_application_without_routes() -> None:
    """A bare ASGI application has no template, and its paths do not appear in metrics."""
    forge = InMemoryForge()
    await request(ForgeMiddleware(opaque, forge=forge), "/anything")
    assert Attr.HTTP_ROUTE not in forge.server_span.attributes
    assert forge.duration.attributes[Attr.HTTP_ROUTE] == "_unmatched"


async def test_unexpected_scope_entries(caplog: pytest.LogCaptureFixture) -> None:
    """Scope entries of an unknown format cost the route template and one log line, but no request."""
    forge = InMemoryForge()

    async def odd(scope: Scope, receive: Receive, send: Send) -> None:
        scope.update({"endpoint": odd, "fastapi": 42})
        await opaque(scope, receive, send)

    app = ForgeMiddleware(odd, forge=forge)
    assert [(await request(app)).status for _ in range(2)] == [200, 200]
    assert caplog.text.count("route templates unavailable") == 1
