"""Our own routes: renamed, switched off, behind a root path, and never a surprise."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send
from tests.unit.web.support import TOKEN, SmallRuntime, request

from forge_otel.errors import ConfigurationError
from forge_otel.web.middleware import ForgeMiddleware
from forge_otel.web.pages.router import Routes


async def own(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("the application's")(scope, receive, send)


async def test_renamed_and_switched_off() -> None:
    """A renamed route leaves its old path to the application; one that is off leaves all."""
    routes = Routes(live="/internal/alive", ready=None, dashboard=None)
    app = ForgeMiddleware(own, forge=SmallRuntime(admin_token=TOKEN), routes=routes)
    assert (await request(app, "/internal/alive")).body == b'{"status":"pass"}'
    for path in ("/livez", "/readyz", "/forge/", "/forge/api/summary"):
        assert (await request(app, path)).body == b"the application's"


async def test_other_paths_are_the_applications() -> None:
    """Only what we serve is ours, also below the dashboard's folder."""
    app = ForgeMiddleware(own, forge=SmallRuntime(admin_token=TOKEN))
    for path in ("/", "/metrics/x", "/forgery", "/forge/other", "/forge/api/other/x"):
        assert (await request(app, path)).body == b"the application's", path


async def test_root_path() -> None:
    """Behind a prefix, and inside a mounted application, our routes keep their names."""
    app = ForgeMiddleware(own, forge=SmallRuntime())
    assert (await request(app, "/proxy/livez", root_path="/proxy")).body == b'{"status":"pass"}'
    mounting = Starlette(routes=[Mount("/sub", app=app)])
    assert (await request(mounting, "/sub/livez")).body == b'{"status":"pass"}'


async def test_hidden_routes_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """An application that has a route of the same path learns that it is hidden."""
    app = Starlette(routes=[Route("/health", lambda request: PlainTextResponse("mine"))])
    app.add_middleware(ForgeMiddleware, forge=SmallRuntime())
    await request(app, "/health")
    assert "answers /health and hides the application's own route" in caplog.text


def test_malformed_paths() -> None:
    """Every fault at once."""
    with pytest.raises(ConfigurationError) as caught:
        Routes(metrics="metrics", live="/same", ready="/same", dashboard="/forge/")
    assert len(caught.value.faults) == 3
