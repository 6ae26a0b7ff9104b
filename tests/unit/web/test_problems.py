"""Error responses: ForgeErrors always become problem+json, unexpected exceptions only with `handle_errors`."""

from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry.trace import StatusCode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp
from tests.unit.web.apps import NATIVE_OFF, native
from tests.unit.web.support import InMemoryForge, problem, request

from forge_otel.errors import BadRequest, CircuitOpen, ForgeError, Unauthorized
from forge_otel.names import Attr
from forge_otel.web.middleware import ForgeMiddleware


def raising(exc: Exception, forge: InMemoryForge, kind: str = "starlette", **options: Any) -> ASGIApp:
    """Return an application whose page raises `exc`."""

    async def page(request: Request) -> Response:
        raise exc

    app: Starlette
    if kind == "starlette":
        app = Starlette(routes=[Route("/", page)])
    else:
        app = FastAPI(telemetry=NATIVE_OFF if kind == "fastapi" else native(forge))
        app.add_api_route("/", page)
    app.add_middleware(ForgeMiddleware, forge=forge, **options)
    return app


@pytest.mark.parametrize("kind", ["starlette", "fastapi", "native"])
async def test_forge_errors(kind: str) -> None:
    """A ForgeError becomes a response with its status, message and the trace id, in every framework."""
    forge = InMemoryForge()
    exchange = await request(raising(CircuitOpen("openai", retry_after_s=4.2), forge, kind))
    assert problem(exchange) == {
        "type": "urn:problem:forge-otel:circuit_open",
        "title": "Circuit open",
        "status": 503,
        "detail": "calls to 'openai' are suspended after repeated failures; retry in 4 s",
        "code": "circuit_open",
        "trace_id": exchange.headers["x-trace-id"],
        "retry_after_s": 4.2,
    }
    assert exchange.headers["retry-after"] == "5"
    assert forge.server_span.status.status_code is StatusCode.ERROR
    assert [event.name for event in forge.server_span.events] == ["exception"]
    assert forge.duration.attributes[Attr.HTTP_STATUS] == 503


async def test_a_client_error_does_not_fail_the_span() -> None:
    """A 4xx leaves the span status unset, as the HTTP conventions require."""
    forge = InMemoryForge()
    exchange = await request(raising(BadRequest("figma_key is missing"), forge))
    assert problem(exchange)["detail"] == "figma_key is missing"
    assert forge.server_span.status.status_code is StatusCode.UNSET
    assert Attr.ERROR_TYPE not in forge.server_span.attributes


async def test_unauthorized_has_a_challenge() -> None:
    """A 401 has a `WWW-Authenticate` header (RFC 9110)."""
    exchange = await request(raising(Unauthorized("log in"), InMemoryForge()))
    assert exchange.headers["www-authenticate"].startswith("Bearer")


async def test_unexpected_exceptions_are_raised_again() -> None:
    """By default the application's own handlers, debug pages and logs get the exception."""
    exchange = await request(raising(ZeroDivisionError("secret"), InMemoryForge()))
    assert isinstance(exchange.error, ZeroDivisionError)
    assert exchange.body == b"Internal Server Error"


async def test_handle_errors(caplog: pytest.LogCaptureFixture) -> None:
    """With `handle_errors` the caller gets a 500 without details, and the log has the exception."""
    forge = InMemoryForge()
    exchange = await request(raising(ZeroDivisionError("secret"), forge, handle_errors=True))
    assert exchange.error is None
    assert problem(exchange)["code"] == "internal"
    assert b"secret" not in exchange.body
    assert "ZeroDivisionError: secret" in caplog.text
    assert forge.server_span.attributes[Attr.ERROR_TYPE] == "ZeroDivisionError"


async def test_an_error_after_the_response_has_started() -> None:
    """After the first byte an error ends the stream and is raised."""

    async def page(_request: Request) -> Response:
        async def broken() -> Any:
            yield b"first"
            raise ForgeError("broken off")

        return StreamingResponse(broken())

    app = Starlette(routes=[Route("/", page)])
    app.add_middleware(ForgeMiddleware, forge=InMemoryForge(), handle_errors=True)
    exchange = await request(app)
    assert isinstance(exchange.error, ForgeError)
    assert exchange.body == b"first"


async def test_the_applications_own_handler_wins() -> None:
    """An application's own handler for ForgeErrors has precedence."""

    async def teapot(_request: Request, exc: Exception) -> Response:
        return PlainTextResponse("teapot", status_code=418)

    async def page(request: Request) -> Response:
        raise ForgeError("never seen")

    app = Starlette(routes=[Route("/", page)], exception_handlers={ForgeError: teapot})
    app.add_middleware(ForgeMiddleware, forge=InMemoryForge())
    assert (await request(app)).status == 418
