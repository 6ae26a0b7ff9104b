"""Opening and closing the forge with the lifespan protocol, and without it at the first request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send
from tests.unit.web.support import InMemoryForge, LifespanRun, connect, request

from forge_otel.errors import ConfigurationError
from forge_otel.web.middleware import ForgeMiddleware


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that rejects the lifespan protocol."""
    assert scope["type"] != "lifespan"
    await PlainTextResponse("hello")(scope, receive, send)


def recording(forge: InMemoryForge, *, fails_at: str = "") -> Starlette:
    """Return an application that records its startup and shutdown in `forge.events`."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, int]]:
        if fails_at == "startup":
            raise ZeroDivisionError
        forge.events.append("startup")
        yield {"answer": 42}
        forge.events.append("shutdown")
        if fails_at == "shutdown":
            raise ZeroDivisionError

    return Starlette(lifespan=lifespan)


async def test_order() -> None:
    """The forge opens before the application starts, and closes after it stops, before the server gets the message."""
    forge = InMemoryForge()
    run = LifespanRun(ForgeMiddleware(recording(forge), forge=forge))
    assert await run.run() == ["startup.complete", "shutdown.complete"]
    assert forge.events == ["open", "startup", "shutdown", "close"]


async def test_a_forge_that_cannot_open() -> None:
    """The server gets the message of the error, and the application is never started."""
    forge = InMemoryForge(open_error=ConfigurationError(["cache_url is odd"]))
    run = LifespanRun(ForgeMiddleware(recording(forge), forge=forge))
    assert await run.run() == ["startup.failed"]
    assert "cache_url is odd" in run.sent[0]["message"]
    assert forge.events == []


async def test_a_forge_that_fails_to_open_unexpectedly() -> None:
    """The message for an unexpected exception has its type."""
    run = LifespanRun(ForgeMiddleware(hello, forge=InMemoryForge(open_error=OSError("no such host"))))
    assert await run.run() == ["startup.failed"]
    assert run.sent[0]["message"] == "forge-otel could not be opened: OSError: no such host"


async def test_an_application_that_fails_to_start() -> None:
    """The application's exception is raised again, and the forge is closed."""
    forge = InMemoryForge()
    run = LifespanRun(ForgeMiddleware(recording(forge, fails_at="startup"), forge=forge))
    assert await run.run() == ["startup.failed"]
    assert isinstance(run.error, ZeroDivisionError)
    assert forge.events == ["open", "close"]


async def test_an_application_that_fails_to_stop() -> None:
    """An exception at shutdown is raised again after the forge is closed."""
    forge = InMemoryForge()
    run = LifespanRun(ForgeMiddleware(recording(forge, fails_at="shutdown"), forge=forge))
    assert await run.run() == ["startup.complete", "shutdown.failed"]
    assert forge.events == ["open", "startup", "shutdown", "close"]


async def test_applications_without_lifespan() -> None:
    """An application that rejects or ignores the protocol is served, and the forge is closed."""

    async def ignoring(scope: Scope, receive: Receive, send: Send) -> None:
        return

    for app in (hello, ignoring):
        forge = InMemoryForge()
        run = LifespanRun(ForgeMiddleware(app, forge=forge))
        assert await run.run() == ["startup.complete", "shutdown.complete"]
        assert (run.error, forge.events) == (None, ["open", "close"])


async def test_shared_forge() -> None:
    """Two middlewares on one application enter the forge twice and exit it twice."""
    forge = InMemoryForge()
    app = ForgeMiddleware(ForgeMiddleware(recording(forge), forge=forge), forge=forge)
    await LifespanRun(app).run()
    assert forge.entered == 0


async def test_without_a_lifespan_the_first_request_opens() -> None:
    """Concurrent first requests of a mounted application, which gets no lifespan, open the forge once."""
    forge = InMemoryForge()
    app = Starlette(routes=[Mount("/sub", app=ForgeMiddleware(hello, forge=forge))])
    answers = await asyncio.gather(*(request(app, "/sub/") for _ in range(5)))
    assert [answer.status for answer in answers] == [200] * 5
    assert forge.events == ["open"]


async def test_a_forge_that_cannot_open_at_the_first_request() -> None:
    """Requests get a 503 without the reason until the forge can be opened."""
    forge = InMemoryForge(open_error=ConfigurationError(["cache_url is odd"]))
    app = ForgeMiddleware(hello, forge=forge)
    refused = await request(app)
    assert refused.status == 503
    assert b"odd" not in refused.body
    assert (await connect(app, "/")).sent[0]["type"] == "websocket.close"
    forge.open_error = None
    assert (await request(app)).status == 200
