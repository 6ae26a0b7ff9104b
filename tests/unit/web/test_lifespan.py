"""Opening and closing: before and after the application, once, and also where no lifespan comes."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import Message, Receive, Scope, Send
from tests.unit.web.support import InMemoryForge, LifespanRun, connect, request

from forge_otel.errors import ConfigurationError
from forge_otel.web.middleware import ForgeMiddleware


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that knows no lifespan."""
    assert scope["type"] != "lifespan"
    await PlainTextResponse("hello")(scope, receive, send)


def noting(forge: InMemoryForge, *, fails_at: str = "") -> Starlette:
    """An application that notes its own startup and shutdown beside the forge's."""

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


async def test_around_the_application() -> None:
    """The forge opens before the application and closes after it, before the server hears of the end."""
    forge = InMemoryForge()
    run = LifespanRun(ForgeMiddleware(noting(forge), forge=forge))
    assert await run.run() == ["startup.complete", "shutdown.complete"]
    assert forge.events == ["open", "startup", "shutdown", "close"]


async def test_a_forge_that_cannot_open() -> None:
    """The server hears a plain message and ends; the application is never started."""
    forge = InMemoryForge(open_error=ConfigurationError(["cache_url is odd"]))
    run = LifespanRun(ForgeMiddleware(noting(forge), forge=forge))
    assert await run.run() == ["startup.failed"]
    assert "cache_url is odd" in run.sent[0]["message"]
    assert forge.events == []


async def test_a_forge_that_fails_to_open_unexpectedly() -> None:
    """Any other failure names its type, and the log has the rest."""
    run = LifespanRun(ForgeMiddleware(hello, forge=InMemoryForge(open_error=OSError("no such host"))))
    assert await run.run() == ["startup.failed"]
    assert run.sent[0]["message"] == "forge-otel could not be opened: OSError: no such host"


async def test_an_application_that_fails_to_start() -> None:
    """The application's own failure passes as it is, and the forge is closed."""
    forge = InMemoryForge()
    run = LifespanRun(ForgeMiddleware(noting(forge, fails_at="startup"), forge=forge))
    assert await run.run() == ["startup.failed"]
    assert isinstance(run.error, ZeroDivisionError)
    assert forge.events == ["open", "close"]


async def test_an_application_that_fails_to_stop() -> None:
    """A failure at shutdown passes too, after the forge is closed."""
    forge = InMemoryForge()
    run = LifespanRun(ForgeMiddleware(noting(forge, fails_at="shutdown"), forge=forge))
    assert await run.run() == ["startup.complete", "shutdown.failed"]
    assert forge.events == ["open", "startup", "shutdown", "close"]


async def test_applications_without_lifespan() -> None:
    """An application that refuses the protocol, or ignores it, is served, and the forge still closes."""

    async def ignoring(scope: Scope, receive: Receive, send: Send) -> None:
        return

    for app in (hello, ignoring):
        forge = InMemoryForge()
        run = LifespanRun(ForgeMiddleware(app, forge=forge))
        assert await run.run() == ["startup.complete", "shutdown.complete"]
        assert (run.error, forge.events) == (None, ["open", "close"])


async def test_shared_forge() -> None:
    """Two middlewares on one application enter the forge twice and leave it twice; it counts for itself."""
    forge = InMemoryForge()
    app = ForgeMiddleware(ForgeMiddleware(noting(forge), forge=forge), forge=forge)
    await LifespanRun(app).run()
    assert forge.entered == 0


async def test_without_a_lifespan_the_first_request_opens() -> None:
    """Many first requests at once open the forge once; a mounted application hears of no lifespan at all."""
    forge = InMemoryForge()
    app = Starlette(routes=[Mount("/sub", app=ForgeMiddleware(hello, forge=forge))])
    answers = await asyncio.gather(*(request(app, "/sub/") for _ in range(5)))
    assert [answer.status for answer in answers] == [200] * 5
    assert forge.events == ["open"]


async def test_a_forge_that_cannot_open_late() -> None:
    """Requests are refused without a reason for strangers, until the forge can be opened."""
    forge = InMemoryForge(open_error=ConfigurationError(["cache_url is odd"]))
    app = ForgeMiddleware(hello, forge=forge)
    refused = await request(app)
    assert refused.status == 503
    assert b"odd" not in refused.body
    assert (await connect(app, "/")).sent[0]["type"] == "websocket.close"
    forge.open_error = None
    assert (await request(app)).status == 200


async def test_what_is_there_after_the_start_is_kept_from_the_collector() -> None:
    """Where that is asked for: from before the first request until the end, and nothing of it stays."""
    frozen: list[int] = []
    before = gc.get_freeze_count()
    for settings in ({}, {"freeze_heap": True}):
        forge = InMemoryForge(**settings)
        app = ForgeMiddleware(noting(forge), forge=forge)
        waiting = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def receive(waiting: list[Message] = waiting) -> Message:
            return waiting.pop(0)

        async def send(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                frozen.append(gc.get_freeze_count() - before)

        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)

    untouched, kept = frozen
    assert untouched == 0
    assert kept > 10_000
    assert gc.get_freeze_count() == before
