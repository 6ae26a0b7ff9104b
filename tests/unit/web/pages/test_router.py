"""The middleware's own routes: renamed, switched off, and behind a root path."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send
from tests.unit.web.support import TOKEN, InMemoryForge, request

from forge_otel.errors import ConfigurationError
from forge_otel.web.middleware import ForgeMiddleware
from forge_otel.web.pages.router import Page, Routes


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("the application's")(scope, receive, send)


async def test_renamed_and_switched_off() -> None:
    """The old path of a renamed or disabled route belongs to the application."""
    routes = Routes(live="/internal/alive", ready=None, dashboard=None)
    app = ForgeMiddleware(application, forge=InMemoryForge(admin_token=TOKEN), routes=routes)
    assert (await request(app, "/internal/alive")).body == b'{"status":"pass"}'
    for path in ("/livez", "/readyz", "/forge/", "/forge/api/summary"):
        assert (await request(app, path)).body == b"the application's"


async def test_other_paths_belong_to_the_application() -> None:
    """Only the exact paths are served, also below the dashboard's folder."""
    app = ForgeMiddleware(application, forge=InMemoryForge(admin_token=TOKEN))
    for path in ("/", "/metrics/x", "/forgery", "/forge/other", "/forge/api/other/x"):
        assert (await request(app, path)).body == b"the application's", path


async def test_root_path() -> None:
    """Behind a prefix and inside a mounted application the routes keep their names."""
    app = ForgeMiddleware(application, forge=InMemoryForge())
    assert (await request(app, "/proxy/livez", root_path="/proxy")).body == b'{"status":"pass"}'
    mounting = Starlette(routes=[Mount("/sub", app=app)])
    assert (await request(mounting, "/sub/livez")).body == b'{"status":"pass"}'


async def test_hidden_routes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log names each route of the application that the middleware hides."""
    app = Starlette(routes=[Route("/health", lambda request: PlainTextResponse("mine"))])
    app.add_middleware(ForgeMiddleware, forge=InMemoryForge())
    await request(app, "/health")
    assert "route /health of the application is hidden by ForgeMiddleware" in caplog.text


def test_malformed_paths() -> None:
    """One error lists every malformed and repeated path."""
    with pytest.raises(ConfigurationError) as caught:
        Routes(metrics="metrics", live="/same", ready="/same", dashboard="/forge/")
    assert len(caught.value.faults) == 3


async def test_a_page_that_fails_is_a_500_without_details(caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets problem+json, the log gets the exception."""

    async def failing(_request: Request) -> Response:
        raise ZeroDivisionError("secret")

    exchange = await request(Page("/page", failing), "/page")
    assert (exchange.status, exchange.headers["content-type"]) == (500, "application/problem+json")
    assert b"secret" not in exchange.body
    assert "ZeroDivisionError: secret" in caplog.text
